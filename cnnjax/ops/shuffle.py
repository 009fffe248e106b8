"""Channels moved into space and back, and among groups."""

import math

import jax
import jax.numpy as jnp

from cnnjax.ops.checks import as_number_array, spatial_rank
from cnnjax.ops.geometry import Ints, as_int, per_dimension
from cnnjax.ops.public import public_op


@public_op
def pixel_shuffle(x: jax.Array, r: Ints) -> jax.Array:
    """Moves channels into blocks of r pixels a side: the last step of the sub-pixel convolution.

        y[n, r s + i, c] = x[n, s, c r^rank + i]

    with the pixels i of a block row-major.

    Args:
      x: `(N, *S, C r^rank)`, one to three spatial dimensions, float or integer.
      r: the factor, an int, or one per spatial dimension.

    Returns:
      `(N, *(r S), C)`, channels split as in PyTorch. (In TensorFlow's `depth_to_space`, and ONNX's with mode "DCR",
      the index is i C + c.)

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: r^rank does not divide the channels.

    Example:
      >>> pixel_shuffle(jnp.arange(4).reshape(1, 1, 1, 4), 2)[0, :, :, 0]
      Array([[0, 1],
             [2, 3]], dtype=int32)

    References:
      Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel
      convolutional neural network, CVPR 2016.
    """
    x = as_number_array("x", x)
    rank = spatial_rank("x", x)
    factors = per_dimension("r", r, rank)
    batch, *sizes, channels = x.shape
    if channels % math.prod(factors):
        raise ValueError(
            f"r must be such that {math.prod(factors)}, the pixels of a block, divides x's channels, got "
            f"r {factors} for {channels} channels (x {x.shape})"
        )
    x = x.reshape(batch, *sizes, channels // math.prod(factors), *factors)
    # (N, *S, C, *factors) to (N, S1, r1, S2, r2, ..., C)
    pairs = [axis for dim in range(rank) for axis in (1 + dim, 2 + rank + dim)]
    out = [size * factor for size, factor in zip(sizes, factors, strict=True)]
    return x.transpose(0, *pairs, 1 + rank).reshape(batch, *out, channels // math.prod(factors))


@public_op
def pixel_unshuffle(x: jax.Array, r: Ints) -> jax.Array:
    """Moves blocks of r pixels a side into channels: the inverse of `pixel_shuffle`.

        y[n, s, c r^rank + i] = x[n, r s + i, c]

    with the pixels i of a block row-major.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer.
      r: the factor, an int, or one per spatial dimension; divides S.

    Returns:
      `(N, *(S / r), C r^rank)`.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: r does not divide the spatial sizes.

    Example:
      >>> pixel_unshuffle(jnp.arange(4).reshape(1, 2, 2, 1), 2)
      Array([[[[0, 1, 2, 3]]]], dtype=int32)

    References:
      Shi et al., CVPR 2016, as for `pixel_shuffle`.
    """
    x = as_number_array("x", x)
    rank = spatial_rank("x", x)
    factors = per_dimension("r", r, rank)
    batch, *sizes, channels = x.shape
    if any(size % factor for size, factor in zip(sizes, factors, strict=True)):
        raise ValueError(f"r must divide x's spatial sizes, got r {factors} for sizes {tuple(sizes)} (x {x.shape})")
    split = [part for size, factor in zip(sizes, factors, strict=True) for part in (size // factor, factor)]
    x = x.reshape(batch, *split, channels)
    # (N, S1, r1, S2, r2, ..., C) to (N, *S, C, *factors)
    outer, inner = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    return x.transpose(0, *outer, 2 * rank + 1, *inner).reshape(batch, *split[::2], channels * math.prod(factors))


@public_op
def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Deals the channels of each group out to all groups, between two grouped convolutions.

        y[n, s, i groups + g] = x[n, s, g (C / groups) + i]

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer.
      groups: divides C.

    Returns:
      `(N, *S, C)`.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: groups does not divide the channels.

    Example:
      >>> channel_shuffle(jnp.arange(6).reshape(1, 1, 6), 2).ravel()
      Array([0, 3, 1, 4, 2, 5], dtype=int32)

    References:
      Zhang et al., ShuffleNet, arXiv:1707.01083.
    """
    x = as_number_array("x", x)
    spatial_rank("x", x)
    groups = as_int("groups", groups)
    if groups < 1 or x.shape[-1] % groups:
        raise ValueError(f"groups must be at least 1 and divide x's channels, got {groups} for x {x.shape}")
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(split, -1, -2).reshape(x.shape)
