"""The largest element of each window, where it stands, and its derivative.

The winner of a window is remembered as its `argmax_offset`: the flat row-major position in the dilated window. With the
offsets held fixed the maximum is linear in x, so it is its own derivative: tangents are gathered at the winners, and
cotangents scattered to them (`winners.py`).
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from cnnjax.ops.geometry import Windows
from cnnjax.ops.patches import pad_spatial, taps
from cnnjax.ops.pool import choose
from cnnjax.ops.pool.blocks import define_lowering
from cnnjax.ops.pool.derivatives import Linear, define_linear, define_selection
from cnnjax.ops.pool.windows import overlapping, padded, slices_along
from cnnjax.ops.pool.winners import flat_index, gather_max, offset_dtype, scatter_max, tap_offset
from cnnjax.ops.primitives import aval_like
from cnnjax.ops.promotion import accumulator_dtype


def max_of_windows(x: jax.Array, windows: Windows) -> jax.Array:
    """Returns the largest element of each window, the first of equals; NaN wins."""
    return max_p.bind(x, windows=windows, give="value")


def max_and_index(x: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    """Returns the same and its int32 index, flat in the unpadded spatial plane."""
    return max_of_windows(x, windows), flat_index(_argmax_offset(x, windows), windows)


def _argmax_offset(x: jax.Array, windows: Windows) -> jax.Array:
    return max_p.bind(lax.stop_gradient(x), windows=windows, give="offset")


# ---- the maximum, a primitive: jet and vmap need rules, and large arrays are computed in blocks ----

max_p = Primitive("cnnjax_max_of_windows")


@max_p.def_abstract_eval
def _max_shape(x: Any, *, windows: Windows, give: Literal["value", "offset"]) -> Any:
    shape = (x.shape[0], *windows.output, x.shape[-1])
    return aval_like(x, shape, x.dtype if give == "value" else offset_dtype(windows))


def _max(x: jax.Array, *, windows: Windows, give: Literal["value", "offset"], platform: str) -> jax.Array:
    if give == "value" and choose.is_reduce_window(windows, platform):
        return _reduce_window(x, windows)
    best, argmax_offset = first_maximum(x, windows)
    return best if give == "value" else argmax_offset


def _max_temporaries(x: Any, *, windows: Windows, give: str) -> int:
    return choose.max_temporaries(windows, x.size * x.dtype.itemsize)


def tangent_at_winners(dx: jax.Array, x: jax.Array, argmax_offset: jax.Array, windows: Windows) -> jax.Array:
    """Gathers tangents of x at the winners of its windows: linear in dx, and its transpose, written once, scatters."""
    kept = lax.stop_gradient((x, argmax_offset))
    return gather_max_p.bind(dx, *kept, of="y", windows=windows, written=True)


def _at_winners(x: jax.Array, *, windows: Windows, give: str) -> Linear:
    kept = [x]
    if choose.keeps_offsets(windows, x.shape[0], x.shape[-1], offset_dtype(windows)):
        kept.append(_argmax_offset(x, windows))
    return lambda dx: gather_max_p.bind(dx, *kept, of="y", windows=windows, written=False)


define_selection(max_p, ("windows", "give"), _at_winners)
define_lowering(max_p, _max, _max_temporaries, by_platform=True)


# ---- its derivative, a primitive: XLA would transpose it tap by tap, each a pad and an addition of a whole array ----

# Its operands are tangents of x, or cotangents of y; x; and the argmax offsets where they are kept. A compiled program
# keeps, of x and the offsets, the one that its platform's form reads. `written`: see `choose.scatter_form`.

gather_max_p = Primitive("cnnjax_gather_max")


@gather_max_p.def_abstract_eval
def _gather_max_shape(a: Any, x: Any, *offsets: Any, of: str, windows: Windows, written: bool) -> Any:
    return aval_like(a, (a.shape[0], *(windows.output if of == "y" else windows.sizes), a.shape[-1]))


def _gather_max(
    a: jax.Array, x: jax.Array, *offsets: jax.Array, of: str, windows: Windows, written: bool, platform: str
) -> jax.Array:
    if of == "x" and choose.is_reduce_window(windows, platform):
        wide = accumulator_dtype(a.dtype) if overlapping(windows) else a.dtype
        pullback = jax.vjp(functools.partial(_reduce_window, windows=windows), x.astype(wide))[1]
        return pullback(a.astype(wide))[0].astype(a.dtype)
    argmax_offset = offsets[0] if offsets else first_maximum(x, windows)[1]
    if of == "y":
        return gather_max(a, argmax_offset, windows)
    return scatter_max(a, argmax_offset, windows, platform, written)


def _gather_max_temporaries(a: Any, x: Any, *offsets: Any, of: str, windows: Windows, written: bool) -> int:
    examples = a.shape[0] * a.shape[-1] * a.dtype.itemsize
    return choose.winner_temporaries(windows, examples * math.prod(windows.sizes), examples * math.prod(windows.output))


define_linear(gather_max_p, ("of", "windows", "written"))
define_lowering(gather_max_p, _gather_max, _gather_max_temporaries, by_platform=True)


# ---- how the winners are found ----


def _reduce_window(x: jax.Array, windows: Windows) -> jax.Array:
    """Finds the largest element of each window as XLA does."""
    crop = tuple((min(low, 0), min(high, 0)) for low, high in windows.exact_padding)
    padding = [(0, 0), *((max(low, 0), max(high, 0)) for low, high in windows.exact_padding), (0, 0)]
    lowest = np.asarray(_lowest(x.dtype), x.dtype)
    whole = pad_spatial(x, crop)
    return lax.reduce_window(whole, lowest, lax.max, (1, *windows.window, 1), (1, *windows.stride, 1), padding)


def _lowest(dtype: Any) -> float | int:
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else int(jnp.iinfo(dtype).min)


@functools.partial(jax.jit, static_argnums=1)
def first_maximum(x: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    """Finds the largest element of each window and its argmax offset, the first of equals."""
    best = padded(x, windows, value=_lowest(x.dtype))
    if choose.max_form(windows) == "taps":
        # without padding on the low side the first tap is real, and no padding after it wins
        (_, best), *others = taps(best, windows)
        argmax_offset = jnp.zeros(best.shape, offset_dtype(windows))
        for tap, value in others:
            keep = keeps_best(best, value)
            best = jnp.where(keep, best, value)
            argmax_offset = jnp.where(keep, argmax_offset, np.asarray(tap_offset(tap, windows), argmax_offset.dtype))
        return best, argmax_offset
    # last axis first: the first row with the largest row maximum, and in it the first column, is the first in
    # row-major order
    argmax_offset = jnp.zeros(best.shape, offset_dtype(windows))
    for axis in reversed(range(len(windows.sizes))):
        best, argmax_offset = _first_maximum_along(best, argmax_offset, windows, axis)
    return best, argmax_offset


def _first_maximum_along(
    x: jax.Array, argmax_offset: jax.Array, windows: Windows, axis: int
) -> tuple[jax.Array, jax.Array]:
    """Finds the maxima of x along one spatial dimension, and their offsets in it and the later dimensions."""
    stride, dilation = windows.stride[axis], windows.dilation[axis]
    step = dilation * math.prod(windows.extents[axis + 1 :])
    starts = np.arange(windows.output[axis]) * stride
    starts = np.expand_dims(starts, [other for other in range(x.ndim) if other != axis + 1])
    best, *values = slices_along(x, windows, axis)
    best_offset, *offsets = slices_along(argmax_offset, windows, axis)
    for tap, (value, offset) in enumerate(zip(values, offsets, strict=True), 1):
        keep = keeps_best(best, value)
        only_padding_so_far = starts + (tap - 1) * dilation < windows.padding[axis][0]
        if only_padding_so_far.any():
            keep &= ~only_padding_so_far
        best = jnp.where(keep, best, value)
        best_offset = jnp.where(keep, best_offset, offset + np.asarray(tap * step, offset.dtype))
    return best, best_offset


def keeps_best(best: jax.Array, value: jax.Array) -> jax.Array:
    """Returns true where `best` stays: NaN is never <=, so it is taken, and once taken it stays."""
    return (value <= best) | (best != best)


# ---- over the whole plane ----


def max_over_plane(x: jax.Array) -> jax.Array:
    """Returns the largest element of each channel of x `(N, P, C)`; jnp.max would share its gradient among equals."""
    return max_over_plane_p.bind(x, give="value").squeeze(1)


max_over_plane_p = Primitive("cnnjax_max_over_plane")


@max_over_plane_p.def_abstract_eval
def _max_over_plane_shape(x: Any, *, give: Literal["value", "offset"]) -> Any:
    return aval_like(x, (x.shape[0], 1, x.shape[-1]), x.dtype if give == "value" else np.dtype("int32"))


def _max_over_plane(x: jax.Array, *, give: Literal["value", "offset"]) -> jax.Array:
    best = x.max(1, keepdims=True)
    if give == "value":
        return best
    # by comparisons: XLA's argmax, and the scatter that its index would need, take far longer
    return jnp.where((x == best) | (x != x), _positions(x), x.shape[1]).min(1, keepdims=True)


def _positions(x: jax.Array) -> np.ndarray:
    return np.arange(x.shape[1], dtype=np.int32)[None, :, None]


def _plane_temporaries(x: Any, *, give: Literal["value", "offset"]) -> int:
    return 0 if give == "value" else choose.plane_temporaries(x.size)


def _at_first_of_plane(x: jax.Array, *, give: str) -> Linear:
    first = max_over_plane_p.bind(x, give="offset")
    return lambda dx: jnp.where(_positions(x) == first, dx, jnp.zeros((), dx.dtype)).sum(1, keepdims=True)


define_selection(max_over_plane_p, ("give",), _at_first_of_plane)
define_lowering(max_over_plane_p, _max_over_plane, _plane_temporaries)
