"""ResNet-18, 34, 50 and 101 (He, Zhang, Ren, Sun, CVPR 2016, arXiv:1512.03385).

Deep residual learning for image recognition.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers import BatchNorm, Conv, GlobalAvgPool, MaxPool

STEMS = ("cifar", "imagenet")
#: Number of blocks in each of the four stages, by depth; the depth counts layers with weights.
STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
#: Depths from this one on have bottlenecks, blocks of three convolutions.
FIRST_WITH_BOTTLENECKS = 50


class ResNet(nnx.Module):
    """What ResNets of all depths have in common; use one of the subclasses.

    The stem, four stages of residual blocks, each stage of half the side and twice the channels, the mean over all
    pixels, and a dense layer. Depths 18 and 34 have blocks of two 3x3 convolutions, the others bottlenecks of 1x1, 3x3
    and 1x1, whose stride is on the 3x3: the form of torchvision ("v1.5"); the paper has it on the first 1x1.

    Args:
      num_classes: number of logits.
      stem: how it starts. `cifar`: with a 3x3 convolution of stride 1, which no pooling follows, for images of about
        32x32. `imagenet`: with the paper's 7x7 convolution of stride 2 and 3x3 max-pooling of stride 2, as
        torchvision's. By default `cifar` for ResNet-18, else `imagenet`.
      width: output channels of the stem, 64 as published; all others in proportion.
      zero_init_residual: whether the scale of the last norm of each block starts at 0, so that each block starts as the
        identity (Goyal et al., 2017); by default not, as in torchvision.
      channels: of the images.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: source of the weights, He-normal over the fan-out.

    Raises:
      ValueError: no such stem, or a width below 1.

    References:
      He, Zhang, Ren, Sun, CVPR 2016. Goyal et al., Accurate, large minibatch SGD, 2017, arXiv:1706.02677.
    """

    depth: ClassVar[int]
    default_stem: ClassVar[str] = "imagenet"

    def __init__(
        self,
        num_classes: int = 10,
        *,
        stem: str | None = None,
        width: int = 64,
        zero_init_residual: bool = False,
        channels: int = 3,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        stem = self.default_stem if stem is None else stem
        if stem not in STEMS:
            raise ValueError(f"stem must be one of {', '.join(STEMS)}, was {stem!r}")
        if width < 1:
            raise ValueError(f"width must be at least 1, was {width}")
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        window, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.stem = ConvNorm(channels, width, window, stride, **common)
        self.stem_pool = MaxPool(3, stride=2, padding=1) if stem == "imagenet" else None
        kind = Bottleneck if self.depth >= FIRST_WITH_BOTTLENECKS else Residual
        blocks: list[Residual | Bottleneck] = []
        in_channels = width
        for stage, count in enumerate(STAGES[self.depth]):  # of 32x32: 32x32 to 4x4; of 224x224: 56x56 to 7x7
            for number in range(count):
                block = kind(in_channels, width * 2**stage, 2 if stage and not number else 1, **common)
                in_channels = block.out_channels(width * 2**stage)
                blocks.append(block)
        if zero_init_residual:
            for block in blocks:
                scale = block.last.norm.scale
                assert scale is not None
                scale[...] = jnp.zeros(scale.shape, scale.dtype)
        self.blocks = nnx.List(blocks)  # in the order of their calls, through all stages
        self.pool = GlobalAvgPool()
        self.dense = nnx.Linear(in_channels, num_classes, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, H, W, channels) to logits (N, num_classes)."""
        x = jax.nn.relu(self.stem(x))
        if self.stem_pool is not None:
            x = self.stem_pool(x)
        for block in self.blocks:
            x = block(x)
        return self.dense(self.pool(x))


class ResNet18(ResNet):
    """ResNet-18, by default in the form used on CIFAR-10, 11,173,962 parameters; see `ResNet` for the arguments.

    With the stem `imagenet` and 1,000 classes it has 11,689,512, as torchvision's.
    """

    depth = 18
    default_stem = "cifar"


class ResNet34(ResNet):
    """ResNet-34, of 1,000 classes 21,797,672 parameters; see `ResNet` for the arguments."""

    depth = 34


class ResNet50(ResNet):
    """ResNet-50, of 1,000 classes 25,557,032 parameters; see `ResNet` for the arguments."""

    depth = 50


class ResNet101(ResNet):
    """ResNet-101, of 1,000 classes 44,549,160 parameters; see `ResNet` for the arguments."""

    depth = 101


class Residual(nnx.Module):
    """Residual block: relu(x + F(x)), where F is two 3x3 convolutions.

    Where the shape changes, x goes through a 1x1 convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.first = ConvNorm(in_channels, width, 3, stride, **common)
        self.second = ConvNorm(width, width, 3, 1, **common)
        self.shortcut = shortcut(in_channels, self.out_channels(width), stride, **common)

    @staticmethod
    def out_channels(width: int) -> int:
        """Returns the channels of the output."""
        return width

    @property
    def last(self) -> ConvNorm:
        """The convolution before the sum."""
        return self.second

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, in_channels) to (N, H / stride, W / stride, width)."""
        y = self.second(jax.nn.relu(self.first(x)))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nnx.Module):
    """Residual block: relu(x + F(x)), where F is a 1x1, a 3x3 and a 1x1 convolution, the last to 4 width channels.

    Where the shape changes, x goes through a 1x1 convolution.
    """

    def __init__(self, in_channels: int, width: int, stride: int, *, dtype: DTypeLike | None, rngs: nnx.Rngs):
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.first = ConvNorm(in_channels, width, 1, 1, **common)
        self.second = ConvNorm(width, width, 3, stride, **common)
        self.third = ConvNorm(width, self.out_channels(width), 1, 1, **common)
        self.shortcut = shortcut(in_channels, self.out_channels(width), stride, **common)

    @staticmethod
    def out_channels(width: int) -> int:
        """Returns the channels of the output."""
        return 4 * width

    @property
    def last(self) -> ConvNorm:
        """The convolution before the sum."""
        return self.third

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, in_channels) to (N, H / stride, W / stride, 4 width)."""
        y = jax.nn.relu(self.second(jax.nn.relu(self.first(x))))
        return jax.nn.relu(self.third(y) + (x if self.shortcut is None else self.shortcut(x)))


def shortcut(in_channels: int, out_channels: int, stride: int, **common: Any) -> ConvNorm | None:
    """Returns the 1x1 convolution beside a block that changes the shape; None beside others."""
    reshaped = in_channels != out_channels or stride > 1
    return ConvNorm(in_channels, out_channels, 1, stride, **common) if reshaped else None


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
