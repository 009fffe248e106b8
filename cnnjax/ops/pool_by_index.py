"""Pools that find their elements by index: windows of uneven places, drawn elements, and the way back."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.arguments import as_flag, as_float_array, as_number_array, meets_habits, pooled_rank
from cnnjax.ops.geometry import Sizes, per_dimension
from cnnjax.ops.pool import avg_pool, max_pool

# A window along one dimension is a row of indices; a table (S', k) holds one row per window.


@meets_habits
def adaptive_avg_pool(x: jax.Array, output_size: Any) -> jax.Array:
    """The mean over windows that divide the input as evenly as can be into a given number.

    Along each dimension of size S, window o of S' covers the elements from floor(o S / S') up to, and not
    including, ceil((o + 1) S / S').  Where S' does not divide S, neighbours overlap by one.

    Args:
        x: (N, *S, C), one to three spatial dimensions.
        output_size: S', an int or one per spatial dimension (where there is one: ``(k,)``); None keeps the
            size of that dimension.

    Returns:
        (N, *S', C) of x's dtype; the sum is accumulated in float32, or in float64 where that is the dtype.

    Raises:
        TypeError: an argument is of the wrong kind, or x is not of a float dtype.
        ValueError: output_size has the wrong length or is not positive.

    >>> x = jnp.array([1.0, 2.0, 3.0, 4.0, 6.0]).reshape(1, 5, 1)
    >>> adaptive_avg_pool(x, (2,)).ravel()
    Array([2.       , 4.3333335], dtype=float32)

    References:
        He et al., Spatial pyramid pooling in deep convolutional networks, ECCV 2014, arXiv:1406.4729.
        PyTorch, torch.nn.AdaptiveAvgPool2d.
    """
    x = as_float_array("x", x)
    output = _output_size(x, output_size)
    even = _even_window(x, output)
    if even:
        return avg_pool(x, even)
    sums = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # the mean of a box is the mean over one dimension of the means over the next
    for axis, count in enumerate(output, 1):
        table, sizes = _adaptive_table(x.shape[axis], count)
        outside = np.arange(table.shape[1]) >= sizes[:, None]
        tail = (1,) * (x.ndim - axis - 1)
        rows = jnp.where(outside.reshape(*outside.shape, *tail), 0, jnp.take(sums, table, axis, mode="clip"))
        sums = rows.sum(axis + 1) / sizes.reshape(-1, *tail).astype(sums.dtype)
    return sums.astype(x.dtype)


@meets_habits
def adaptive_max_pool(x: jax.Array, output_size: Any, *, return_indices: bool = False) -> Any:
    """The largest element of windows that divide the input as evenly as can be into a given number.

    The windows are those of :func:`adaptive_avg_pool`; the maximum is that of :func:`max_pool`: NaN wins, and
    of equals the first, which takes the whole gradient.

    Args:
        x: (N, *S, C), one to three spatial dimensions, float or integer.
        output_size: S', an int or one per spatial dimension (where there is one: ``(k,)``); None keeps the
            size of that dimension.
        return_indices: also return where the maxima are.

    Returns:
        (N, *S', C) of x's dtype; with return_indices the pair of that and the int32 indices of the winners,
        flat in the spatial plane.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: output_size has the wrong length or is not positive.

    >>> x = jnp.array([1.0, 2.0, 5.0, 4.0, 3.0]).reshape(1, 5, 1)
    >>> adaptive_max_pool(x, (2,), return_indices=True)[1].ravel()
    Array([2, 2], dtype=int32)

    References:
        He et al., Spatial pyramid pooling in deep convolutional networks, ECCV 2014, arXiv:1406.4729.
        PyTorch, torch.nn.AdaptiveMaxPool2d.
    """
    x = as_number_array("x", x)
    output = _output_size(x, output_size)
    as_flag("return_indices", return_indices)
    even = _even_window(x, output)
    if even:
        return max_pool(x, even, return_indices=return_indices)
    tables = [_adaptive_table(size, count)[0] for size, count in zip(x.shape[1:-1], output, strict=True)]
    y, index = _max_of_rows(x, [table[None, :, :, None] for table in tables])
    return (y, index) if return_indices else y


def _output_size(x: jax.Array, output_size: Any) -> Sizes:
    rank = pooled_rank(x, output_size, "output_size")
    if isinstance(output_size, (tuple, list)) and len(output_size) == rank:
        output_size = [size if count is None else count for size, count in zip(x.shape[1:-1], output_size, strict=True)]
    return per_dimension("output_size", output_size, rank)


def _even_window(x: jax.Array, output: Sizes) -> Sizes | None:
    """The window of the usual pool that is meant where output divides the input; None where it does not."""
    window = tuple(size // count for size, count in zip(x.shape[1:-1], output, strict=True))
    even = all(k * count == size for k, count, size in zip(window, output, x.shape[1:-1], strict=True))
    # the usual pool takes each tap by itself: too much to compile for a large window
    return window if even and sum(window) <= 64 else None


def _adaptive_table(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices (S', k) of each window, its last one repeated up to k, and how many each window has."""
    window = np.arange(count)
    starts, stops = window * size // count, -(-(window + 1) * size // count)
    sizes = stops - starts
    return np.minimum(starts[:, None] + np.arange(sizes.max()), stops[:, None] - 1), sizes


@jax.jit
def _max_of_rows(x: jax.Array, tables: list[Any]) -> tuple[jax.Array, jax.Array]:
    """The largest element of x (N, *S, C) where the rows of indices cross, the first of equals, and its index.

    The tables, one per spatial dimension, are (N or 1, S', k, C or 1), rising along k.
    """
    n, *sizes, channels = x.shape
    rank = len(sizes)
    index: Any = 0  # flat in the plane: (N or 1, *S', *k, C or 1)
    for axis, table in enumerate(tables):
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = table.shape[1:3]
        index = index * sizes[axis] + jnp.asarray(table, jnp.int32).reshape(table.shape[0], *shape, table.shape[3])
    output = index.shape[1 : 1 + rank]
    outputs, taps = math.prod(output), math.prod(index.shape[1 + rank : -1])
    index = index.reshape(index.shape[0], outputs * taps, index.shape[-1])
    index = jnp.broadcast_to(index, (n, outputs * taps, channels))

    x = x.reshape(n, math.prod(sizes), channels)
    met = jnp.take_along_axis(lax.stop_gradient(x), index, axis=1).reshape(n, outputs, taps, channels)
    first = met.argmax(2, keepdims=True)
    index = jnp.take_along_axis(index.reshape(met.shape), first, axis=2).squeeze(2)
    # with the index held fixed this is linear in x, so every derivative goes through it
    y = jnp.take_along_axis(x, index, axis=1)
    return y.reshape(n, *output, channels), index.reshape(n, *output, channels)
