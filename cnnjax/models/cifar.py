"""The net that tutorials train on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers import BatchNormMaxPool, Conv, MaxPool

CONVS = ("own", "flax")


class CifarCNN(nnx.Module):
    """Blocks of 3x3 convolution, ReLU and 2x2 max-pool, then two dense layers.

    Args:
      num_classes: number of logits.
      widths: output channels of each block.
      batch_norm: whether batch norm follows each convolution, which then has no bias.
      dense: features of the hidden dense layer.
      conv: `own` for `cnnjax.layers.Conv`, `flax` for `nnx.Conv`; both start from the same weights.
      algorithm: of `cnnjax.layers.Conv`.
      size: side of the square images.
      channels: of the images.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: source of the weights, He-normal.

    Raises:
      ValueError: no such `conv`, an algorithm for flax's, or too many blocks for the size.
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
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if conv not in CONVS:
            raise ValueError(f"conv must be one of {', '.join(CONVS)}, was {conv!r}")
        if conv == "flax" and algorithm != "auto":
            raise ValueError(f"algorithm must be 'auto' where conv is 'flax', was {algorithm!r}")
        if not widths or size >> len(widths) < 1:
            raise ValueError(f"widths must be of 1 to {size.bit_length() - 1} blocks, each halves {size}, was {widths}")
        he = nnx.initializers.he_normal()
        common: dict[str, Any] = {"kernel_init": he, "dtype": dtype, "rngs": rngs}
        blocks = []
        for in_channels, width in zip((channels, *widths), widths, strict=False):
            shape: dict[str, Any] = {"padding": 1, "use_bias": not batch_norm, **common}
            shape["rngs"] = nnx.Rngs(rngs.params())  # nnx.Conv draws a key for its bias too
            layer: nnx.Module
            if conv == "own":
                layer = Conv(in_channels, width, (3, 3), algorithm=algorithm, **shape)
            else:
                layer = nnx.Conv(in_channels, width, (3, 3), **shape)
            norm = BatchNormMaxPool(width, 2, momentum=0.9, dtype=dtype, rngs=rngs) if batch_norm else None
            blocks.append(Block(layer, norm))
        self.blocks = nnx.List(blocks)
        side = size >> len(widths)
        self.dense1 = nnx.Linear(side * side * widths[-1], dense, **common)
        self.dense2 = nnx.Linear(dense, num_classes, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, size, size, channels) to logits (N, num_classes)."""
        for block in self.blocks:  # 32x32x3 -> 16x16x32 -> 8x8x64 -> 4x4x128
            x = block(x)
        x = jax.nn.relu(self.dense1(x.reshape(len(x), -1)))
        return self.dense2(x)


class Block(nnx.Module):
    """Convolution, batch norm or none, ReLU, 2x2 max-pool."""

    def __init__(self, conv: nnx.Module, norm: BatchNormMaxPool | None):
        self.conv = conv
        self.norm = norm  # pools too
        self.pool = MaxPool(2) if norm is None else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H // 2, W // 2, width).

        It pools before ReLU, which commutes, to save work.
        """
        pooled = self.norm or self.pool
        assert pooled is not None
        return jax.nn.relu(pooled(self.conv(x)))
