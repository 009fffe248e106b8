"""Training sets expanded by distorted images, as for LeNet-5."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.data.augment import BatchInfo, warp


def squeeze_and_shear(
    keys: jax.Array,
    images: jax.Array,
    *,
    scale: float = 0.1,
    squeeze: float = 0.1,
    shear: float = 0.2,
    shift: float = 1 / 28,
) -> jax.Array:
    """Moves, scales, squeezes and shears each image at random.

    Each strength is uniform and independent of the others. With s in 1 +- `scale`, q in 1 +- `squeeze`, k in +- `shear`
    and t in +- `shift`, a pixel at (row, column), seen from the centre, goes to

        (s q row,  s / q (column + k row)) + t.

    A squeeze above 1 compresses horizontally and elongates vertically, below 1 the reverse; the shear is horizontal.

    Args:
      keys: `(B,)`, of each image its own.
      images: `(B, H, W, C)` floating point with background 0, so before standardisation.
      scale: largest relative change of size.
      squeeze: largest relative change of one side, where the other changes by the inverse.
      shear: largest shift of a row, in rows from the centre.
      shift: largest shift, as a fraction of the image's side.

    Returns:
      `(B, H, W, C)`, dtype of `images`.

    Raises:
      ValueError: a strength is negative, or `scale` or `squeeze` is 1 or more.

    References:
      LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998, section III.B,
      which names the kinds and not the strengths.
    """
    for name, value in (("scale", scale), ("squeeze", squeeze)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, was {value}")
    for name, value in (("shear", shear), ("shift", shift)):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, was {value}")
    draws = jax.vmap(lambda key: jax.random.uniform(key, (5,), jnp.float32, -1.0, 1.0))(keys)
    size, stretch = 1 + scale * draws[:, 0], 1 + squeeze * draws[:, 1]
    rows, columns, slope = size * stretch, size / stretch, shear * draws[:, 2]
    inverse = jnp.stack([1 / rows, jnp.zeros_like(rows), -slope / rows, 1 / columns], axis=-1)
    return warp(images, inverse.reshape(-1, 2, 2), shift * draws[:, 3:])


def expand(
    images: jax.Array, info: BatchInfo, distort: Callable[[jax.Array, jax.Array], jax.Array], times: int = 10
) -> jax.Array:
    """Shows each image of the training set in `times` variants, one an epoch: itself, and fixed distortions of it.

    In epochs 0 to `times - 1` comes each variant once, in an order of its own for each image; then again. So an epoch
    keeps its length: 20 of 60,000 images show each of 600,000 images twice, as LeNet-5 saw them.

    Args:
      images: `(B, H, W, C)`.
      info: of the batch; the variants depend on `run_key` and the numbers of the images alone.
      distort: `distort(keys, images)`, with a key for each image.
      times: number of variants.

    Returns:
      `(B, H, W, C)`, dtype of `images`.

    References:
      LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, 1998, section III.B.
    """

    def choose(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        order, draws = jax.random.split(jax.random.fold_in(info.run_key, number))
        variant = jax.random.permutation(order, times)[info.epoch % times]
        return variant, jax.random.fold_in(draws, variant)

    variants, keys = jax.vmap(choose)(info.numbers)
    return jnp.where(variants[:, None, None, None] == 0, images, distort(keys, images))
