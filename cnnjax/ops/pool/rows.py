"""The maxima and means of windows that start at uneven steps, by index.

A window along one dimension is a row of indices; a table `(N or 1, S', k, C or 1)` holds one row per window.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from cnnjax.ops.geometry import Sizes
from cnnjax.ops.pool import choose
from cnnjax.ops.pool.blocks import define_lowering
from cnnjax.ops.pool.derivatives import Linear, define_linear, define_selection
from cnnjax.ops.pool.maxima import keeps_best
from cnnjax.ops.primitives import aval_like
from cnnjax.ops.promotion import accumulator_dtype


def adaptive_table(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices `(S', k)` of each window, its last one repeated up to k, and how many each window has."""
    window = np.arange(count)
    starts, stops = window * size // count, -(-(window + 1) * size // count)
    sizes = stops - starts
    return np.minimum(starts[:, None] + np.arange(sizes.max()), stops[:, None] - 1), sizes


def windows_over(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices `(S, m)` of the windows over each element, repeated up to m, and how many there are."""
    table, _ = adaptive_table(size, count)
    element = np.arange(size)
    covers = (table[:, :1] <= element) & (element <= table[:, -1:])
    first, counts = covers.argmax(0), covers.sum(0)
    return np.minimum(first[:, None] + np.arange(counts.max()), (first + counts - 1)[:, None]), counts


def _take(x: Any, rows: np.ndarray, axis: int) -> jax.Array:
    return jnp.take(x, rows, axis, mode="clip")


def _along(values: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Lays values along one axis of so many, and, where they have two dimensions, along one more behind it."""
    return values.reshape(*(1,) * axis, *values.shape, *(1,) * (rank - axis - 1))


# ---- elements at an index, a linear primitive: x (N, plane, C) to y (N, Q, C), of the shape of the index ----

at_index_p = Primitive("cnnjax_at_index")


@at_index_p.def_abstract_eval
def _at_index_shape(a: Any, index: Any, *, of: str, plane: int) -> Any:
    return aval_like(a, (a.shape[0], index.shape[1] if of == "y" else plane, a.shape[-1]))


def _at_index(a: jax.Array, index: jax.Array, *, of: str, plane: int) -> jax.Array:
    if of == "y":
        return jnp.take_along_axis(a, index, axis=1, mode="fill", fill_value=0)
    example = jnp.arange(a.shape[0], dtype=np.int32)[:, None, None]
    channel = np.arange(a.shape[2], dtype=np.int32)[None, None]
    wide = a.astype(accumulator_dtype(a.dtype))
    x = jnp.zeros((a.shape[0], plane, a.shape[2]), wide.dtype).at[example, index, channel].add(wide, mode="drop")
    return x.astype(a.dtype)


def _at_index_temporaries(a: Any, index: Any, *, of: str, plane: int) -> int:
    return choose.index_temporaries(index.size)


define_linear(at_index_p, ("of", "plane"))
define_lowering(at_index_p, _at_index, _at_index_temporaries)


# ---- maxima, a primitive of x and, but for adaptive windows, of the starts (N, S', C) along each dimension ----


def max_of_adaptive_rows(x: jax.Array, output: Sizes) -> jax.Array:
    """Returns the largest elements of the windows that divide x evenly."""
    return max_of_rows_p.bind(x, output=output, window=None, give="value")


def index_of_adaptive_rows(x: jax.Array, output: Sizes) -> jax.Array:
    """Returns their flat indices."""
    return max_of_rows_p.bind(lax.stop_gradient(x), output=output, window=None, give="index")


def max_of_rows(x: jax.Array, starts: list[jax.Array], window: Sizes) -> jax.Array:
    """Returns the largest elements of windows that start, along each dimension, at `(N, S', C)`."""
    return max_of_rows_p.bind(x, *starts, output=_output(starts), window=window, give="value")


def index_of_rows(x: jax.Array, starts: list[jax.Array], window: Sizes) -> jax.Array:
    """Returns their flat indices."""
    return max_of_rows_p.bind(lax.stop_gradient(x), *starts, output=_output(starts), window=window, give="index")


def _output(starts: list[jax.Array]) -> Sizes:
    return tuple(each.shape[1] for each in starts)


max_of_rows_p = Primitive("cnnjax_max_of_rows")


@max_of_rows_p.def_abstract_eval
def _max_of_rows_shape(x: Any, *starts: Any, output: Sizes, give: Literal["value", "index"], **_: Any) -> Any:
    return aval_like(x, (x.shape[0], *output, x.shape[-1]), x.dtype if give == "value" else np.dtype("int32"))


def _max_of_rows(
    x: jax.Array, *starts: jax.Array, output: Sizes, window: Sizes | None, give: Literal["value", "index"]
) -> jax.Array:
    if window is None:
        tables = [adaptive_table(size, count)[0] for size, count in zip(x.shape[1:-1], output, strict=True)]
        if choose.row_form(sum(table.shape[1] for table in tables)) == "taps":
            return _max_along_axes(x, tables) if give == "value" else _first_along_axes(x, tables)
        index = _first_of_rows(x, [table[None, :, :, None] for table in tables])
    else:
        taps = [np.arange(k, dtype=np.int32)[None, None, :, None] for k in window]
        index = _first_of_rows(x, [start[:, :, None] + tap for start, tap in zip(starts, taps, strict=True)])
    return _at(x, index) if give == "value" else index


def _at(x: jax.Array, index: jax.Array, take: Callable[..., jax.Array] = _at_index) -> jax.Array:
    plane = math.prod(x.shape[1:-1])
    flat = index.reshape(index.shape[0], math.prod(index.shape[1:-1]), index.shape[-1])
    y = take(x.reshape(x.shape[0], plane, x.shape[-1]), flat, of="y", plane=plane)
    return y.reshape(index.shape)


def _max_along_axes(x: jax.Array, tables: list[np.ndarray]) -> jax.Array:
    """Returns the largest element of windows that are alike in all examples; NaN wins."""
    for axis, table in enumerate(tables, 1):
        x = functools.reduce(lax.max, [_take(x, rows, axis) for rows in table.T])
    return x


def _first_along_axes(x: jax.Array, tables: list[np.ndarray]) -> jax.Array:
    """Finds the index of the largest element of such windows, the first of equals.

    The last axis comes first: the first row with the largest row maximum, and in it the first column.
    """
    best, index = x, jnp.zeros((1,) * x.ndim, jnp.int32)
    starts, scale = np.zeros((1,) * x.ndim, np.int32), 1
    for axis, table in reversed([*enumerate(tables, 1)]):
        rows = table.T
        source, inner = best, jnp.broadcast_to(index, best.shape)
        if scale > 1:  # each tap reads what the axis before has given
            source, inner = lax.optimization_barrier((source, inner))
        best, index = _take(source, rows[0], axis), _take(inner, rows[0], axis)
        for tap, each in enumerate(rows[1:], 1):
            value, position = _take(source, each, axis), _take(inner, each, axis) + np.int32(tap * scale)
            keep = keeps_best(best, value)
            best, index = jnp.where(keep, best, value), jnp.where(keep, index, position)
        starts = starts + _along(rows[0] * scale, axis, x.ndim)
        scale *= x.shape[axis]
    return index + starts.astype(np.int32)


@jax.jit
def _first_of_rows(x: jax.Array, tables: list[Any]) -> jax.Array:
    """Finds the largest element where the rows cross, the first of equals; the tables rise along k."""
    n, *sizes, channels = x.shape
    rank = len(sizes)
    index: Any = np.zeros((1,) * (2 * rank + 2), np.int32)  # flat in the plane: (N or 1, *S', *k, C or 1)
    for axis, table in enumerate(tables):
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = table.shape[1:3]
        index = index * sizes[axis] + jnp.asarray(table, jnp.int32).reshape(table.shape[0], *shape, table.shape[3])
    output = index.shape[1 : 1 + rank]
    outputs, taps = math.prod(output), math.prod(index.shape[1 + rank : -1])
    index = index.reshape(index.shape[0], outputs * taps, index.shape[-1])
    index = jnp.broadcast_to(index, (n, outputs * taps, channels))

    x = x.reshape(n, math.prod(sizes), channels)
    elements = jnp.take_along_axis(x, index, axis=1).reshape(n, outputs, taps, channels)
    first = lax.argmax(elements, 2, np.int32)[:, :, None]
    index = jnp.take_along_axis(index.reshape(elements.shape), first, axis=2)
    return index.reshape(n, *output, channels)


def _row_temporaries(x: Any, *starts: Any, output: Sizes, window: Sizes | None, give: str) -> int:
    if window is None:
        tables = [adaptive_table(size, count)[0] for size, count in zip(x.shape[1:-1], output, strict=True)]
        window = tuple(table.shape[1] for table in tables)
        if choose.row_form(sum(window)) == "taps":
            return choose.row_temporaries(x.size // x.shape[-2] * output[-1], x.dtype.itemsize)
    elements = x.shape[0] * x.shape[-1] * math.prod(output) * math.prod(window)
    return choose.row_temporaries(elements, x.dtype.itemsize)


def _at_winners(x: jax.Array, *starts: jax.Array, give: str, **parameters: Any) -> Linear:
    index = max_of_rows_p.bind(x, *starts, give="index", **parameters)
    return lambda dx: _at(dx, index, at_index_p.bind)


define_selection(max_of_rows_p, ("output", "window", "give"), _at_winners)
define_lowering(max_of_rows_p, _max_of_rows, _row_temporaries)


# ---- means ----


def mean_of_adaptive_rows(x: jax.Array, output: Sizes) -> jax.Array:
    """Averages x over the windows that divide it evenly; the sums are accumulated in float32 or better."""
    return mean_of_rows_p.bind(x, of="y", sizes=x.shape[1:-1], output=output)


mean_of_rows_p = Primitive("cnnjax_mean_of_rows")


@mean_of_rows_p.def_abstract_eval
def _mean_of_rows_shape(a: Any, *, of: str, sizes: Sizes, output: Sizes) -> Any:
    return aval_like(a, (a.shape[0], *(output if of == "y" else sizes), a.shape[-1]))


def _mean_of_rows(a: jax.Array, *, of: str, sizes: Sizes, output: Sizes) -> jax.Array:
    wide = a.astype(accumulator_dtype(a.dtype))
    return (_average(wide, output) if of == "y" else _spread(wide, sizes)).astype(a.dtype)


@functools.partial(jax.jit, static_argnums=1)
def _average(x: jax.Array, output: Sizes) -> jax.Array:
    # the mean of a box is the mean over one dimension of the means over the next
    for axis, count in enumerate(output, 1):
        table, sizes = adaptive_table(x.shape[axis], count)
        x = _sum_of_rows(x, axis, table, sizes) / _along(sizes, axis, x.ndim).astype(x.dtype)
    return x


@functools.partial(jax.jit, static_argnums=1)
def _spread(dy: jax.Array, sizes: Sizes) -> jax.Array:
    """Computes the transpose of `_average`: each element has its share of the windows over it."""
    for axis, size in enumerate(sizes, 1):
        _, shares = adaptive_table(size, dy.shape[axis])
        share = dy / _along(shares, axis, dy.ndim).astype(dy.dtype)
        dy = _sum_of_rows(share, axis, *windows_over(size, dy.shape[axis]))
    return dy


def _sum_of_rows(x: jax.Array, axis: int, table: np.ndarray, sizes: np.ndarray) -> jax.Array:
    """Sums rows `(S', k)` of elements of x along one axis, of which the first few count."""
    if choose.row_form(table.shape[1]) == "taps":
        total: Any = 0
        for tap, rows in enumerate(table.T):
            read, inside = _take(x, rows, axis), _along(tap < sizes, axis, x.ndim)
            total += read if inside.all() else jnp.where(inside, read, np.zeros((), x.dtype))
        return total
    inside = _along(np.arange(table.shape[1]) < sizes[:, None], axis, x.ndim)
    return jnp.where(inside, _take(x, table, axis), np.zeros((), x.dtype)).sum(axis + 1)


def _mean_temporaries(a: Any, *, of: str, sizes: Sizes, output: Sizes) -> int:
    size = a.shape[0] * math.prod(sizes) * a.shape[-1]
    return choose.row_mean_temporaries(size * accumulator_dtype(a.dtype).itemsize)


define_linear(mean_of_rows_p, ("of", "sizes", "output"))
define_lowering(mean_of_rows_p, _mean_of_rows, _mean_temporaries)
