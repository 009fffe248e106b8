"""The convolutional net that tutorials train on CIFAR-10: blocks of convolution, ReLU and pooling, a dense layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from cnnjax.layers import BatchNorm, Conv, MaxPool

CONVS = ("own", "flax")


class CifarCNN(nnx.Module):
    """Blocks of [3x3 convolution, batch norm if asked for, ReLU, 2x2 max-pool], then a dense layer.

    Args:
      num_classes: length of the logits.
      widths: the maps of each block; there are as many blocks.
      batch_norm: whether there is batch norm behind each convolution, which then needs no bias.
      dense: the width of the dense layer.
      conv: ``own``: `cnnjax.layers.Conv`; ``flax``: ``nnx.Conv``. Both start from the same weights.
      algorithm: that of the own convolutions.
      size: of the square images.
      channels: of the images.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: where the weights are drawn from, He-normal.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        widths: Sequence[int] = (32, 64, 128),
        batch_norm: bool = False,
        dense: int = 128,
        conv: str = "own",
        algorithm: str = "auto",
        size: int = 32,
        channels: int = 3,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        if conv not in CONVS:
            raise ValueError(f"conv must be one of {', '.join(CONVS)}, was {conv!r}")
        if conv == "flax" and algorithm != "auto":
            raise ValueError(f"algorithm must be 'auto' where conv is 'flax', was {algorithm!r}")
        if not widths or size >> len(widths) < 1:
            raise ValueError(f"widths must be of 1 to {size.bit_length() - 1} blocks, each halves {size}, was {widths}")
        he = nnx.initializers.he_normal()
        how: dict[str, Any] = {"kernel_init": he, "dtype": dtype, "rngs": rngs}
        blocks = []
        for below, width in zip((channels, *widths), widths, strict=False):
            shape: dict[str, Any] = {"padding": 1, "use_bias": not batch_norm, **how}
            shape["rngs"] = nnx.Rngs(rngs.params())  # flax's draws a key for its bias too
            layer: nnx.Module
            if conv == "own":
                layer = Conv(below, width, (3, 3), algorithm=algorithm, **shape)
            else:
                layer = nnx.Conv(below, width, (3, 3), **shape)
            norm = BatchNorm(width, momentum=0.9, dtype=dtype, rngs=rngs) if batch_norm else None
            blocks.append(Block(layer, norm))
        self.blocks = nnx.List(blocks)
        side = size >> len(widths)
        self.dense1 = nnx.Linear(side * side * widths[-1], dense, **how)
        self.dense2 = nnx.Linear(dense, num_classes, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (N, size, size, channels) to logits (N, num_classes)."""
        for block in self.blocks:  # 32x32x3 -> 16x16x32 -> 8x8x64 -> 4x4x128
            x = block(x)
        x = jax.nn.relu(self.dense1(x.reshape(len(x), -1)))
        return self.dense2(x)


class Block(nnx.Module):
    """[convolution, batch norm or none, ReLU, 2x2 max-pool]."""

    def __init__(self, conv: nnx.Module, norm: nnx.Module | None):
        self.conv, self.norm, self.pool = conv, norm, MaxPool(2)

    def __call__(self, x: jax.Array) -> jax.Array:
        """(N, H, W, C) to (N, H // 2, W // 2, width). The maximum commutes with ReLU, which then reads a quarter."""
        x = self.conv(x)
        return jax.nn.relu(self.pool(x if self.norm is None else self.norm(x)))
