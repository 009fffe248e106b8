"""A convolution as one explicit matrix."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops.checks import Precision, as_float_array, as_groups, check_conv_arrays
from cnnjax.ops.geometry import Ints, Padding, Windows, positive_sizes, slide
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op

# Largest explicit matrix, in MiB.
MOST_MATRIX_MIB = 256


@public_op(has_batch=False)
def toeplitz_matrix(
    w: jax.Array,
    spatial_shape: Sequence[int],
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    groups: int = 1,
) -> jax.Array:
    """Builds the explicit matrix of a convolution: vec(conv(x, w)) = M vec(x), vec row-major over (*S, C).

        M[(o, f), (s, c)] = w[t, c, f] where s = o * stride + t * dilation - low for a tap t, and else 0

    In one dimension with one channel and stride 1 it is a Toeplitz matrix: constant along its diagonals.

    Args:
      w: (*K, C // groups, F).
      spatial_shape: S, one int per spatial dimension.
      stride, padding, dilation, groups: as for `conv`.

    Returns:
      (prod(S') F, prod(S) C), of w's dtype.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: shapes disagree, or the matrix is larger than 256 MiB.

    Example:
      >>> toeplitz_matrix(jnp.array([1.0, 10.0]).reshape(2, 1, 1), (3,))
      Array([[ 1., 10.,  0.],
             [ 0.,  1., 10.]], dtype=float32)

    References:
      Sedghi, Gupta and Long, The singular values of convolutional layers, ICLR 2019.
    """
    w = as_float_array("w", w)
    sizes = positive_sizes("spatial_shape", spatial_shape)
    if len(sizes) != w.ndim - 2:
        raise ValueError(f"spatial_shape must have one size per spatial dimension of w {w.shape}, got {sizes}")
    groups = as_groups(groups)
    channels = w.shape[-2] * groups
    check_conv_arrays(jax.ShapeDtypeStruct((1, *sizes, channels), w.dtype), w, None, groups)
    windows = slide(sizes, w.shape[:-2], stride=stride, padding=padding, dilation=dilation)
    check_matrix_size("toeplitz_matrix", windows, channels, w.shape[-1], w.dtype.itemsize)
    # its gradient sums over places, so in float32 or better
    return explicit_matrix(w.astype(accumulator_dtype(w.dtype)), windows, groups).astype(w.dtype)


def toeplitz(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes the whole convolution as one matrix product: vec(y) = M vec(x)."""
    y = jnp.matmul(x.reshape(x.shape[0], -1), explicit_matrix(w, windows, groups).T, precision=precision)
    return y.reshape(x.shape[0], *windows.output, w.shape[-1])


def explicit_matrix(w: jax.Array, windows: Windows, groups: int) -> jax.Array:
    """Builds M[(o, f), (s, c)] = w[t, c, f] where s = o * stride + t * dilation - low for a tap t, and else 0."""
    rank = len(windows.window)
    w = _dense(w, groups)
    tap_of, met = [], jnp.ones((1,) * 2 * rank, bool)
    for axis, (size, k, stride, dilation, (low, _), count) in enumerate(zip(*windows[:5], windows.output, strict=True)):
        distance = np.arange(size) + low - stride * np.arange(count)[:, None]
        tap = distance // dilation
        # along (*S', *S)
        shape = [1] * 2 * rank
        shape[axis], shape[rank + axis] = count, size
        met &= ((distance % dilation == 0) & (tap >= 0) & (tap < k)).reshape(shape)
        tap_of.append(np.clip(tap, 0, k - 1).reshape(shape))
    entries = jnp.where(met[..., None, None], w[tuple(tap_of)], 0)  # (*S', *S, C, F)
    return jnp.moveaxis(entries, -1, rank).reshape(math.prod(windows.output) * w.shape[-1], -1)


def _dense(w: jax.Array, groups: int) -> jax.Array:
    """Spreads w (*K, C // groups, F) to (*K, C, F), zero between channels of different groups."""
    *_, per_group, features = w.shape
    same_group = np.arange(groups * per_group)[:, None] // per_group == np.arange(features) // (features // groups)
    return jnp.where(same_group, jnp.tile(w, (*(1,) * (w.ndim - 2), groups, 1)), 0)


def check_matrix_size(what: str, windows: Windows, in_channels: int, out_channels: int, itemsize: int) -> None:
    """Refuse an explicit matrix of more than 256 MiB."""
    rows, columns = math.prod(windows.output) * out_channels, math.prod(windows.sizes) * in_channels
    size = rows * columns * itemsize / 2**20
    if size > MOST_MATRIX_MIB:
        raise ValueError(
            f"{what} makes a matrix of {rows} x {columns}, {size:.0f} MiB, and is refused above {MOST_MATRIX_MIB} MiB"
        )
