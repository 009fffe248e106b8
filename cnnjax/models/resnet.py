"""ResNet-18 (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385).

Deep residual learning for image recognition.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers import BatchNorm, Conv, GlobalAvgPool, MaxPool

STEMS = ("cifar", "imagenet")


class ResNet18(nnx.Module):
    """ResNet-18, by default in the form used on CIFAR-10, 11,173,962 parameters.

    Args:
      num_classes: number of logits.
      stem: how it starts. `cifar`: with a 3x3 convolution of stride 1, which no pooling follows. `imagenet`: with the
        paper's 7x7 convolution of stride 2 and 3x3 max-pooling of stride 2, as torchvision's; 11,689,512 parameters for
        1,000 classes.
      channels: of the images.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: source of the weights, He-normal over the fan-out.

    Raises:
      ValueError: no such stem.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        stem: str = "cifar",
        channels: int = 3,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if stem not in STEMS:
            raise ValueError(f"stem must be one of {', '.join(STEMS)}, was {stem!r}")
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        window, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.stem = ConvNorm(channels, 64, window, stride, **common)
        self.stem_pool = MaxPool(3, stride=2, padding=1) if stem == "imagenet" else None
        blocks = []
        in_channels = 64
        for stage, width in enumerate((64, 128, 256, 512)):  # 32x32, 16x16, 8x8, 4x4 of 32x32; 56x56 to 7x7 of 224x224
            for first in (True, False):
                blocks.append(Residual(in_channels, width, 2 if stage and first else 1, **common))
                in_channels = width
        self.blocks = nnx.List(blocks)
        self.pool = GlobalAvgPool()
        self.dense = nnx.Linear(512, num_classes, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, H, W, channels) to logits (N, num_classes)."""
        x = jax.nn.relu(self.stem(x))
        if self.stem_pool is not None:
            x = self.stem_pool(x)
        for block in self.blocks:
            x = block(x)
        return self.dense(self.pool(x))


class Residual(nnx.Module):
    """Residual block: relu(x + F(x)), where F is two 3x3 convolutions.

    Where the shape changes, x goes through a 1x1 convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.first = ConvNorm(in_channels, width, 3, stride, **common)
        self.second = ConvNorm(width, width, 3, 1, **common)
        reshaped = in_channels != width or stride > 1
        self.shortcut = ConvNorm(in_channels, width, 1, stride, **common) if reshaped else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, in_channels) to (N, H / stride, W / stride, width)."""
        y = self.second(jax.nn.relu(self.first(x)))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ConvNorm(nnx.Module):
    """Convolution without bias, and batch norm."""

    def __init__(
        self, in_channels: int, width: int, window: int, stride: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs
    ):
        init = nnx.initializers.variance_scaling(2.0, "fan_out", "truncated_normal")
        shape = (window, window)
        self.conv = Conv(
            in_channels,
            width,
            shape,
            stride=stride,
            padding=window // 2,
            use_bias=False,
            kernel_init=init,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = BatchNorm(width, momentum=0.9, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, in_channels) to (N, H / stride, W / stride, width)."""
        return self.norm(self.conv(x))
