"""Pools that find their elements by index: windows of uneven places, drawn elements, and the way back."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.checks import (
    as_array,
    as_flag,
    as_float_array,
    as_number_array,
    check_key,
    pooled_rank,
)
from cnnjax.ops.geometry import Sizes, per_dimension, positive_sizes
from cnnjax.ops.pool.api import avg_pool, elements, max_pool, slide_pool
from cnnjax.ops.public import public_op

# A window along one dimension is a row of indices; a table (S', k) holds one row per window.


@public_op
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
    even = _even_windows(x, output)
    if even:
        return avg_pool(x, even[0], stride=even[1])
    sums = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # the mean of a box is the mean over one dimension of the means over the next
    for axis, count in enumerate(output, 1):
        table, sizes = _adaptive_table(x.shape[axis], count)
        outside = np.arange(table.shape[1]) >= sizes[:, None]
        tail = (1,) * (x.ndim - axis - 1)
        rows = jnp.where(outside.reshape(*outside.shape, *tail), 0, jnp.take(sums, table, axis, mode="clip"))
        sums = rows.sum(axis + 1) / sizes.reshape(-1, *tail).astype(sums.dtype)
    return sums.astype(x.dtype)


@public_op
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
    even = _even_windows(x, output)
    if even:
        return max_pool(x, even[0], stride=even[1], return_indices=return_indices)
    tables = [_adaptive_table(size, count)[0] for size, count in zip(x.shape[1:-1], output, strict=True)]
    y, index = _max_of_rows(x, [table[None, :, :, None] for table in tables])
    return (y, index) if return_indices else y


@public_op
def fractional_max_pool(
    x: jax.Array,
    window: Any,
    *,
    output_size: Any,
    key: Any = None,
    samples: Any = None,
    return_indices: bool = False,
) -> Any:
    """The largest element of windows that start at random, uneven steps, so that the size shrinks by any factor.

    Along each dimension, with alpha = (S - k) / (S' - 1) and one u in [0, 1) per example and channel:

        start_o = floor((o + u) alpha) - floor(u alpha),  and the last window ends with the input

    Args:
        x: (N, *S, C), one to three spatial dimensions, float or integer.
        window: k, an int or one per spatial dimension (where there is one: ``(k,)``).
        output_size: S', an int or one per spatial dimension, at most S - k + 1.
        key: a random key to draw the u with; or
        samples: the u themselves, (N, C, n) for n spatial dimensions in axis order.  (PyTorch's
            ``_random_samples`` of two dimensions hold the column's before the row's.)
        return_indices: also return where the maxima are.

    Returns:
        (N, *S', C) of x's dtype; with return_indices the pair of that and the int32 indices of the winners,
        flat in the spatial plane.  The maximum is that of :func:`max_pool`.

    Raises:
        TypeError: an argument is of the wrong kind, or not exactly one of key and samples is given.
        ValueError: shapes disagree, or output_size is too large for the window.

    >>> x = jnp.array([1.0, 4.0, 2.0, 3.0, 0.0]).reshape(1, 5, 1)
    >>> fractional_max_pool(x, (2,), output_size=(3,), samples=jnp.full((1, 1, 1), 0.5)).ravel()
    Array([4., 3., 3.], dtype=float32)

    References:
        Graham, Fractional max-pooling, arXiv:1412.6071.
        PyTorch, torch.nn.FractionalMaxPool2d.
    """
    x = as_number_array("x", x)
    rank = pooled_rank(x, window)
    window = per_dimension("window", window, rank)
    output = per_dimension("output_size", output_size, rank)
    as_flag("return_indices", return_indices)
    for axis, (size, k, count) in enumerate(zip(x.shape[1:-1], window, output, strict=True)):
        if k > size:
            raise ValueError(f"window must fit into the input, got {k} for size {size} of spatial dimension {axis}")
        if count > size - k + 1:
            raise ValueError(
                f"output_size must be at most S - k + 1 = {size - k + 1} in spatial dimension {axis} "
                f"of size {size} with window {k}, got {count}"
            )
    if (key is None) == (samples is None):
        raise TypeError(f"exactly one of key and samples must be given, got key={key!r} and samples={samples!r}")
    shape = (x.shape[0], x.shape[-1], rank)
    if samples is None:
        check_key(key)
        samples = jax.random.uniform(key, shape, jnp.float32)
    else:
        samples = as_float_array("samples", samples)
        if samples.shape != shape:
            raise ValueError(f"samples must be (N, C, spatial dimensions) = {shape}, got {samples.shape}")
    y, index = _max_of_rows(x, _fractional_tables(samples, x.shape[1:-1], window, output))
    return (y, index) if return_indices else y


@public_op
def stochastic_pool(
    x: jax.Array,
    window: Any,
    *,
    key: Any,
    stride: Any = None,
    padding: Any = "VALID",
    deterministic: bool = False,
) -> jax.Array:
    """One element of each window, drawn with a probability in proportion to its value; or their mean by that.

        P(y[n, o, c] = a_t) = a_t / sum_s a_s          in training
        y[n, o, c] = sum_t a_t (a_t / sum_s a_s)       deterministic

    with a the elements of window o.  An all-zero window gives 0, and its gradient is 0.

    Args:
        x: (N, *S, C), one to three spatial dimensions, not negative, as after a relu; a negative element is
            never drawn, and makes no sense in the mean.
        window, stride, padding: as for :func:`max_pool`; padding is never drawn.
        key: a random key; may be None where deterministic.
        deterministic: give the mean, as the paper does at test time.

    Returns:
        (N, *S', C) of x's dtype.  The gradient goes to the drawn element.

    Raises:
        TypeError: an argument is of the wrong kind, or x is not of a float dtype.
        ValueError: shapes disagree, a window is larger than the padded input or lies wholly in the padding.

    >>> x = jnp.array([0.0, 3.0, 1.0, 3.0]).reshape(1, 4, 1)
    >>> stochastic_pool(x, (2,), key=None, deterministic=True).ravel()
    Array([3. , 2.5], dtype=float32)

    References:
        Zeiler and Fergus, Stochastic pooling for regularization of deep convolutional neural networks,
        ICLR 2013, arXiv:1301.3557.
    """
    x = as_float_array("x", x)
    windows = slide_pool(x, window, stride, padding)
    as_flag("deterministic", deterministic)
    compute_dtype = jnp.promote_types(x.dtype, jnp.float32)
    if deterministic:
        return _mean_by_value(elements(x.astype(compute_dtype), windows)).astype(x.dtype)
    check_key(key)
    return _drawn_by_value(elements(x, windows), key, compute_dtype)


@public_op
def max_unpool(y: jax.Array, indices: jax.Array, spatial_shape: Any) -> jax.Array:
    """The way back from a max-pool: each value returns to the index it came from, all else is zero.

        x[n, indices[n, o, c], c] = y[n, o, c]

    Where an index is repeated the last value in row-major order wins.  The gradient gathers all the same:
    every y gets the gradient that stands at its index, one that lost too, as in PyTorch.  Both derivatives
    are thus those of the sum of the values that meet, which differs from what is returned only where indices
    are repeated: there tangents add up, as gathering is the transpose of adding.

    Args:
        y: (N, *S', C), one to three spatial dimensions, float or integer.
        indices: integers of y's shape, flat in the plane of spatial_shape, as the pools return them.  Under
            jit, where their values cannot be checked, those outside the plane are dropped.
        spatial_shape: S, the spatial sizes of the result.

    Returns:
        (N, *S, C) of y's dtype.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: shapes disagree, or an index is outside the plane.

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
    n, channels = y.shape[0], y.shape[-1]
    inner = math.prod(y.shape[1:-1])
    x = _unpool(y.reshape(n, inner, channels), indices.astype(jnp.int32).reshape(n, inner, channels), plane)
    return x.reshape(n, *sizes, channels)


def _output_size(x: jax.Array, output_size: Any) -> Sizes:
    rank = pooled_rank(x, output_size, "output_size")
    if isinstance(output_size, (tuple, list)) and len(output_size) == rank:
        output_size = [size if count is None else count for size, count in zip(x.shape[1:-1], output_size, strict=True)]
    return per_dimension("output_size", output_size, rank)


def _even_windows(x: jax.Array, output: Sizes) -> tuple[Sizes, Sizes] | None:
    """Window and stride of the usual pool that is meant where all windows are as long and as far apart, else None."""
    windows, strides = [], []
    for size, count in zip(x.shape[1:-1], output, strict=True):
        table, sizes = _adaptive_table(size, count)
        steps = {int(step) for step in np.diff(table[:, 0])} or {int(sizes[0])}
        if len({*sizes}) > 1 or len(steps) > 1:
            return None
        windows.append(int(sizes[0]))
        strides.append(steps.pop())
    # the usual pool takes each tap by itself: too much to compile for a large window
    return (tuple(windows), tuple(strides)) if sum(windows) <= 64 else None


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


@partial(jax.jit, static_argnums=(1, 2, 3))
def _fractional_tables(samples: jax.Array, sizes: Sizes, window: Sizes, output: Sizes) -> list[jax.Array]:
    """Per dimension the indices (N, S', k, C) of each window, from samples (N, C, n)."""
    u = jnp.moveaxis(samples.astype(jnp.promote_types(samples.dtype, jnp.float32)), 1, 2)[:, :, None]
    tables = []
    for axis, (size, k, count) in enumerate(zip(sizes, window, output, strict=True)):
        alpha = np.asarray((size - k) / max(count - 1, 1), u.dtype)
        step = np.arange(count, dtype=u.dtype)[:, None]
        starts = ((step + u[:, axis]) * alpha).astype(jnp.int32) - (u[:, axis] * alpha).astype(jnp.int32)
        starts = starts.at[:, -1].set(size - k)
        tables.append(starts[:, :, None] + np.arange(k, dtype=np.int32)[:, None])
    return tables


@jax.jit
def _mean_by_value(met: jax.Array) -> jax.Array:
    total = met.sum(-2, keepdims=True)
    return (met * jnp.where(total == 0, 0, met / jnp.where(total == 0, 1, total))).sum(-2)


@partial(jax.jit, static_argnums=2)
def _drawn_by_value(met: jax.Array, key: jax.Array, compute_dtype: Any) -> jax.Array:
    value = lax.stop_gradient(met).astype(compute_dtype)
    never = value <= 0
    chance = jnp.where(never, -jnp.inf, jnp.log(jnp.where(never, 1, value)))
    drawn = jax.random.categorical(key, chance, axis=-2)
    picked = jnp.take_along_axis(met, jnp.expand_dims(drawn, -2), axis=-2).squeeze(-2)
    return jnp.where(never.all(-2), jnp.zeros((), met.dtype), picked)


def _unpool(y: jax.Array, index: jax.Array, plane: int) -> jax.Array:
    """Y (N, P', C) set at index (N, P', C) of zeros (N, P, C), P = plane."""
    index = jnp.where(index < 0, plane, index)  # outside, where JAX would count from the end
    return _set_last(y, index, plane) if jnp.issubdtype(y.dtype, jnp.floating) else _set_last.fun(y, index, plane)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _set_last(y: jax.Array, index: jax.Array, plane: int) -> jax.Array:
    # by the largest position of those that meet there: a scatter of the values themselves has no order
    position = jnp.broadcast_to(jnp.arange(y.shape[1], dtype=jnp.int32)[:, None], y.shape)
    last = jnp.full((y.shape[0], plane, y.shape[2]), -1, jnp.int32).at[_at(index)].max(position, mode="drop")
    if 0 in y.shape:
        return jnp.zeros(last.shape, y.dtype)
    return jnp.where(last < 0, jnp.zeros((), y.dtype), jnp.take_along_axis(y, jnp.maximum(last, 0), axis=1))


@_set_last.defjvp
def _set_last_jvp(plane: int, primals: Any, tangents: Any) -> Any:
    (y, index), (dy, _) = primals, tangents
    zeros = jnp.zeros((y.shape[0], plane, y.shape[2]), dy.dtype)
    # of the sum, not of the last: its transpose gathers, as the gradient should
    return _set_last(y, index, plane), zeros.at[_at(index)].add(dy, mode="drop")


def _at(index: jax.Array) -> tuple[Any, jax.Array, Any]:
    return np.arange(index.shape[0])[:, None, None], index, np.arange(index.shape[2])
