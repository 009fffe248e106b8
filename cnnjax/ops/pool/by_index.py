"""Pools over windows that divide the input evenly, and the way back from a max-pool."""

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive

from cnnjax.ops.checks import as_array, as_flag, as_float_array, as_number_array, pooled_rank
from cnnjax.ops.geometry import Sizes, per_dimension, positive_sizes
from cnnjax.ops.pool import choose
from cnnjax.ops.pool.blocks import define_lowering
from cnnjax.ops.pool.derivatives import Linear, define_selection
from cnnjax.ops.pool.maxima import max_and_index, max_of_windows
from cnnjax.ops.pool.rows import (
    adaptive_table,
    at_index_p,
    index_of_adaptive_rows,
    max_of_adaptive_rows,
    mean_of_adaptive_rows,
)
from cnnjax.ops.pool.sums import mean_of_windows
from cnnjax.ops.pool.windows import slide_pool
from cnnjax.ops.primitives import aval_like
from cnnjax.ops.public import public_op

OutputSize = int | Sequence[int | None]


@public_op
def adaptive_avg_pool(x: jax.Array, output_size: OutputSize) -> jax.Array:
    """Returns the means over windows that divide the input as evenly as can be into a given number.

    Along each dimension of size S, window o of S' covers the elements from floor(o S / S') up to, and not including,
    ceil((o + 1) S / S'). Where S' does not divide S, neighbours overlap by one.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions.
      output_size: S', an int or one per spatial dimension (where there is one: `(k,)`); `None` keeps the size of that
        dimension.

    Returns:
      `(N, *S', C)` of x's dtype; the sum is accumulated in float32, or in float64 where that is the dtype.

    Raises:
      TypeError: an argument is of the wrong kind, or x is not of a float dtype.
      ValueError: output_size has the wrong length or is not positive.

    Example:
      >>> x = jnp.array([1.0, 2.0, 3.0, 4.0, 6.0]).reshape(1, 5, 1)
      >>> adaptive_avg_pool(x, (2,)).ravel()
      Array([2.       , 4.3333335], dtype=float32)

    References:
      He et al., Spatial pyramid pooling in deep convolutional networks, ECCV 2014, arXiv:1406.4729.
      PyTorch, torch.nn.AdaptiveAvgPool2d.
    """
    x = as_float_array("x", x)
    output = _output_size(x, output_size)
    even = _even_windows(x, output)
    if even:
        return mean_of_windows(x, slide_pool(x, *even, "VALID"), "elements")
    return mean_of_adaptive_rows(x, output)


@overload
def adaptive_max_pool(
    x: jax.Array, output_size: OutputSize, *, return_indices: Literal[False] = False
) -> jax.Array: ...
@overload
def adaptive_max_pool(
    x: jax.Array, output_size: OutputSize, *, return_indices: Literal[True]
) -> tuple[jax.Array, jax.Array]: ...
@public_op
def adaptive_max_pool(
    x: jax.Array, output_size: OutputSize, *, return_indices: bool = False
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Returns the largest elements of windows that divide the input as evenly as can be into a given number.

    The windows are those of `adaptive_avg_pool`; the maximum is that of `max_pool`: NaN wins, and of equals the first,
    which takes the whole gradient.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer.
      output_size: S', an int or one per spatial dimension (where there is one: `(k,)`); `None` keeps the size of that
        dimension.
      return_indices: also returns where the maxima are.

    Returns:
      `(N, *S', C)` of x's dtype; with `return_indices` the pair of that and the int32 indices of the winners, flat in
      the spatial plane.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: output_size has the wrong length or is not positive.

    Example:
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
    even = _even_windows(x, output)
    if even:
        windows = slide_pool(x, *even, "VALID")
        return max_and_index(x, windows) if return_indices else max_of_windows(x, windows)
    y = max_of_adaptive_rows(x, output)
    return (y, index_of_adaptive_rows(x, output)) if return_indices else y


@public_op
def max_unpool(y: jax.Array, indices: jax.Array, spatial_shape: Sequence[int]) -> jax.Array:
    """Undoes a max-pool: each value returns to the index it came from, and all else is zero.

        x[n, indices[n, o, c], c] = y[n, o, c]

    Where an index is repeated the last value in row-major order wins. The gradient gathers all the same: every y gets
    the gradient that stands at its index, one that lost too, as in PyTorch. Both derivatives are thus those of the sum
    of the values at an index, which differs from what is returned only where indices are repeated: there tangents add
    up, as gathering is the transpose of adding.

    Args:
      y: `(N, *S', C)`, one to three spatial dimensions, float or integer.
      indices: integers of y's shape, flat in the plane of `spatial_shape`, as the pools return them. Under jit, where
        their values cannot be checked, those outside the plane are dropped.
      spatial_shape: S, the spatial sizes of the result.

    Returns:
      `(N, *S, C)` of y's dtype.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: shapes disagree, or an index is outside the plane.

    Example:
      >>> from cnnjax.ops import max_pool
      >>> x = jnp.array([1.0, 3.0, 2.0, 5.0]).reshape(1, 4, 1)
      >>> max_unpool(*max_pool(x, (2,), return_indices=True), (4,)).ravel()
      Array([0., 3., 0., 5.], dtype=float32)

    References:
      Zeiler and Fergus, Visualizing and understanding convolutional networks, ECCV 2014, arXiv:1311.2901.
    """
    y, indices = as_number_array("y", y), as_array("indices", indices)
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"indices must be integers, got {indices.dtype}")
    if indices.shape != y.shape:
        raise ValueError(f"indices must have y's shape {y.shape}, got {indices.shape}")
    sizes = positive_sizes("spatial_shape", spatial_shape)
    if not 1 <= len(sizes) <= 3 or y.ndim != len(sizes) + 2:
        raise ValueError(f"y must be (N, *S', C) and spatial_shape as long as S', got shape {y.shape} and {sizes}")
    plane = math.prod(sizes)
    if not isinstance(indices, jax.core.Tracer) and indices.size:
        least, most = np.asarray(indices).min(), np.asarray(indices).max()
        if least < 0 or most >= plane:
            raise ValueError(f"indices must be from 0 to {plane - 1} for spatial_shape {sizes}, got {least} to {most}")
    flat = (y.shape[0], math.prod(y.shape[1:-1]), y.shape[-1])
    indices = indices.astype(jnp.int32)
    indices = jnp.where(indices < 0, plane, indices)  # outside, where JAX would count from the end
    x = unpool_p.bind(y.reshape(flat), indices.reshape(flat), plane=plane)
    return x.reshape(flat[0], *sizes, flat[-1])


def _output_size(x: jax.Array, output_size: Any) -> Sizes:
    rank = pooled_rank(x, output_size, "output_size")
    if isinstance(output_size, (tuple, list)) and len(output_size) == rank:
        output_size = [size if count is None else count for size, count in zip(x.shape[1:-1], output_size, strict=True)]
    return per_dimension("output_size", output_size, rank)


def _even_windows(x: jax.Array, output: Sizes) -> tuple[Sizes, Sizes] | None:
    """Returns window and stride of the usual pool that does the same, None where there is none or it is large."""
    window, stride = [], []
    for size, count in zip(x.shape[1:-1], output, strict=True):
        table, sizes = adaptive_table(size, count)
        steps = {int(step) for step in np.diff(table[:, 0])} or {int(sizes[0])}
        if len({*sizes}) > 1 or len(steps) > 1 or 0 in steps:  # 0: more windows than pixels
            return None
        window.append(int(sizes[0]))
        stride.append(steps.pop())
    return (tuple(window), tuple(stride)) if choose.adaptive_form(tuple(window)) == "usual" else None


# ---- unpooling, a primitive of y (N, P', C) and index (N, P', C): a scatter whose derivative is that of the sum ----

unpool_p = Primitive("cnnjax_unpool")


@unpool_p.def_abstract_eval
def _unpool_shape(y: Any, index: Any, *, plane: int) -> Any:
    return aval_like(y, (y.shape[0], plane, y.shape[-1]))


def _unpool(y: jax.Array, index: jax.Array, *, plane: int) -> jax.Array:
    n, count, channels = y.shape
    if count == 0:
        return jnp.zeros((n, plane, channels), y.dtype)
    # by the largest position of those with an index: a scatter of the values themselves has no order
    position = jnp.broadcast_to(np.arange(count, dtype=np.int32)[None, :, None], y.shape)
    example, channel = jnp.arange(n, dtype=np.int32)[:, None, None], np.arange(channels, dtype=np.int32)[None, None]
    last = jnp.full((n, plane, channels), -1, jnp.int32).at[example, index, channel].max(position, mode="drop")
    return jnp.where(last < 0, jnp.zeros((), y.dtype), jnp.take_along_axis(y, jnp.maximum(last, 0), axis=1))


def _add_at(y: jax.Array, index: jax.Array, *, plane: int) -> Linear:
    # of the sum, not of the last: its transpose gathers, as the gradient should
    return lambda dy: at_index_p.bind(dy, index, of="x", plane=plane)


def _unpool_temporaries(y: Any, index: Any, *, plane: int) -> int:
    return choose.unpool_temporaries(y.shape[0] * plane * y.shape[-1])


define_selection(unpool_p, ("plane",), _add_at)
define_lowering(unpool_p, _unpool, _unpool_temporaries)
