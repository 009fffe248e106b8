"""The convolutional net that tutorials train on MNIST: three 3x3 convolutions, a dense layer, a softmax."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from cnnjax.layers import Conv, MaxPool

DOWNSAMPLES = ("pool", "stride")


class MnistCNN(nnx.Module):
    """Convolutions of 32, 64 and 128 maps, halved by 2x2 max-pools or by strides of 2; dense 128.

    Args:
      num_classes: length of the logits.
      downsample: ``pool``: a max-pool behind the first two convolutions; ``stride``: no pooling, the convolutions have
        stride 2.
      last_pool: with ``pool``, a third one, 3x3 to 1x1, as some tutorials have it. Pools leave odd borders out, so that
        the net then sees 22x22 pixels of 28x28.
      channels: of the images.
      dtype: of the computation; parameters are float32.
      rngs: where the weights are drawn from, He-uniform.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        downsample: str = "pool",
        last_pool: bool = False,
        channels: int = 1,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        if downsample not in DOWNSAMPLES:
            raise ValueError(f"downsample must be one of {', '.join(DOWNSAMPLES)}, was {downsample!r}")
        if last_pool and downsample == "stride":
            raise ValueError("last_pool must be False where downsample is 'stride'")
        how: dict[str, Any] = {"kernel_init": nnx.initializers.he_uniform(), "dtype": dtype, "rngs": rngs}
        stride = 1 if downsample == "pool" else 2
        self.conv1 = Conv(channels, 32, (3, 3), stride=stride, **how)
        self.conv2 = Conv(32, 64, (3, 3), stride=stride, **how)
        self.conv3 = Conv(64, 128, (3, 3), stride=stride, **how)
        self.pool = MaxPool(2) if downsample == "pool" else None
        self.last_pool = last_pool
        places = 1 if last_pool else 3 * 3 if downsample == "pool" else 2 * 2
        self.dense1 = nnx.Linear(places * 128, 128, **how)
        self.dense2 = nnx.Linear(128, num_classes, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (N, 28, 28, channels) to logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1:3] != (28, 28):
            raise ValueError(f"x must be (N, 28, 28, channels), was {x.shape}: pad or resize the images to 28x28")
        #                                              pool                      stride
        x = self.block(self.conv1, x)  #               26x26x32 -> 13x13x32      13x13x32
        x = self.block(self.conv2, x)  #               11x11x64 -> 5x5x64        6x6x64
        x = self.block(self.conv3, x, self.last_pool)  # 3x3x128 (-> 1x1x128)    2x2x128
        x = jax.nn.relu(self.dense1(x.reshape(len(x), -1)))  # (N, 128)
        return self.dense2(x)  #                               (N, num_classes)

    def block(self, conv: Conv, x: jax.Array, pool: bool = True) -> jax.Array:
        """Convolve, pool if there is pooling, ReLU: the maximum commutes with it."""
        x = conv(x)
        return jax.nn.relu(self.pool(x) if pool and self.pool is not None else x)
