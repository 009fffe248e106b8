"""The net that tutorials train on MNIST: three 3x3 convolutions and two dense layers."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers import Conv, MaxPool

DOWNSAMPLES = ("pool", "stride")


class MnistCNN(nnx.Module):
    """Convolutions of 32, 64 and 128 channels, each halved, then two dense layers.

    Args:
      num_classes: number of logits.
      downsample: `pool`: a max-pool after the first two convolutions; `stride`: no pooling, the convolutions have
        stride 2.
      last_pool: with `pool`, adds a third one, 3x3 to 1x1, as some tutorials do. Pools drop odd borders, so that the
        net then reads 22x22 pixels of 28x28.
      channels: of the images.
      dtype: of the computation; parameters are float32.
      rngs: source of the weights, He-uniform.

    Raises:
      ValueError: no such `downsample`, or `last_pool` without pools.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        downsample: str = "pool",
        last_pool: bool = False,
        channels: int = 1,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if downsample not in DOWNSAMPLES:
            raise ValueError(f"downsample must be one of {', '.join(DOWNSAMPLES)}, was {downsample!r}")
        if last_pool and downsample == "stride":
            raise ValueError("last_pool must be False where downsample is 'stride'")
        common: dict[str, Any] = {"kernel_init": nnx.initializers.he_uniform(), "dtype": dtype, "rngs": rngs}
        stride = 1 if downsample == "pool" else 2
        self.conv1 = Conv(channels, 32, (3, 3), stride=stride, **common)
        self.conv2 = Conv(32, 64, (3, 3), stride=stride, **common)
        self.conv3 = Conv(64, 128, (3, 3), stride=stride, **common)
        self.pool = MaxPool(2) if downsample == "pool" else None
        self.last_pool = last_pool
        pixels = 1 if last_pool else 3 * 3 if downsample == "pool" else 2 * 2
        self.dense1 = nnx.Linear(pixels * 128, 128, **common)
        self.dense2 = nnx.Linear(128, num_classes, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, 28, 28, channels) to logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1:3] != (28, 28):
            raise ValueError(f"x must be (N, 28, 28, channels), was {x.shape}: pad or resize the images to 28x28")
        #                                              pool                      stride
        x = self.block(self.conv1, x)  #               26x26x32 -> 13x13x32      13x13x32
        x = self.block(self.conv2, x)  #               11x11x64 -> 5x5x64        6x6x64
        x = self.block(self.conv3, x, self.last_pool)  # 3x3x128 (-> 1x1x128)    2x2x128
        x = jax.nn.relu(self.dense1(x.reshape(len(x), -1)))  # (N, 128)
        return self.dense2(x)  #                               (N, num_classes)

    def block(self, conv: Conv, x: jax.Array, pool: bool = True) -> jax.Array:
        """Applies convolution, pooling if any, and ReLU.

        It pools before ReLU, which commutes, to save work.
        """
        x = conv(x)
        return jax.nn.relu(self.pool(x) if pool and self.pool is not None else x)
