"""Gathering elements at the winners of windows, and scattering to them.

A winner is given by its argmax offset, the flat row-major position in the dilated window. Written as comparisons,
neither direction needs an index.
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.geometry import Sizes, Windows
from cnnjax.ops.patches import pad_spatial, taps
from cnnjax.ops.pool import choose
from cnnjax.ops.pool.windows import overlapping, padded, split_sizes, tiled_sizes, unpadded
from cnnjax.ops.primitives import aval_like
from cnnjax.ops.promotion import accumulator_dtype


def offset_dtype(windows: Windows) -> np.dtype:
    """Returns the smallest integer type that holds every offset, and the -1 and -2 of no winner."""
    return np.min_scalar_type(-math.prod(windows.extents))


def tap_offset(tap: Sizes, windows: Windows) -> int:
    """Returns the flat position of a tap in the dilated window."""
    offset = 0
    for t, dilation, extent in zip(tap, windows.dilation, windows.extents, strict=True):
        offset = offset * extent + t * dilation
    return offset


@functools.partial(jax.jit, static_argnums=1)
def flat_index(argmax_offset: jax.Array, windows: Windows) -> jax.Array:
    """Converts offsets to int32 indices, flat in the unpadded spatial plane."""
    rest = argmax_offset.astype(jnp.int32)
    index: Any = 0
    scale = 1
    for axis in reversed(range(len(windows.sizes))):
        extent = windows.extents[axis]
        starts = np.arange(windows.output[axis], dtype=np.int32) * windows.stride[axis] - windows.padding[axis][0]
        starts = np.expand_dims(starts, [other for other in range(rest.ndim) if other != axis + 1])
        index += (starts + rest % extent) * scale
        rest //= extent
        scale *= windows.sizes[axis]
    return index.astype(jnp.int32)


@functools.partial(jax.jit, static_argnums=2)
def gather_max(x: jax.Array, argmax_offset: jax.Array, windows: Windows) -> jax.Array:
    """Gathers the element of each window at its offset: `(N, *S, C)` to `(N, *S', C)`; linear in x."""
    form = choose.gather_form(windows)
    if form == "gather":
        return _gather_by_index(x, argmax_offset, windows)
    x = padded(x, windows)
    zero = jnp.zeros((), x.dtype)
    if form == "tiles":  # a comparison per element, and no slices
        tiles = x.reshape(x.shape[0], *split_sizes(windows), x.shape[-1])
        inner = tuple(range(2, tiles.ndim - 1, 2))
        offsets = np.arange(math.prod(windows.extents)).astype(argmax_offset.dtype).reshape(windows.extents)
        here = np.expand_dims(offsets, (0, *(axis - 1 for axis in inner), tiles.ndim - 1))
        return jnp.where(jnp.expand_dims(argmax_offset, inner) == here, tiles, zero).sum(axis=inner)
    total = jnp.zeros(argmax_offset.shape, x.dtype)
    for tap, values in taps(x, windows):
        here = np.asarray(tap_offset(tap, windows), argmax_offset.dtype)
        total += jnp.where(argmax_offset == here, values, zero)
    return total


def _gather_by_index(x: jax.Array, argmax_offset: jax.Array, windows: Windows) -> jax.Array:
    n, channels = x.shape[0], x.shape[-1]
    index = flat_index(argmax_offset, windows).reshape(n, math.prod(windows.output), channels)
    flat = x.reshape(n, math.prod(windows.sizes), channels)
    return jnp.take_along_axis(flat, index, axis=1).reshape(argmax_offset.shape)


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def scatter_max(
    dy: jax.Array, argmax_offset: jax.Array, windows: Windows, platform: str = "cpu", written: bool = False
) -> jax.Array:
    """Adds dy `(N, *S', C)` to the winners of its windows: the transpose of `gather_max`, `(N, *S, C)`.

    Sums are accumulated in float32 or better.
    """
    shape = (dy.shape[0], *windows.sizes, dy.shape[-1])
    form = choose.scatter_form(windows, dy.shape[-1], platform, written)
    if form == "transpose":
        gather = functools.partial(gather_max, argmax_offset=argmax_offset, windows=windows)
        wide = dy.astype(accumulator_dtype(dy.dtype)) if overlapping(windows) else dy
        return jax.linear_transpose(gather, aval_like(jax.typeof(wide), shape))(wide)[0].astype(dy.dtype)
    forms = {"tiles": _scatter_over_tiles, "at once": _scatter_at_once, "shifts": _scatter_by_shifts}
    return unpadded(forms[form](dy, argmax_offset, windows), windows)


def _scatter_over_tiles(dy: jax.Array, argmax_offset: jax.Array, windows: Windows) -> jax.Array:
    """Scatters where windows tile x, tap by tap, and puts the taps side by side."""
    zero = np.zeros((), dy.dtype)
    offsets = [np.asarray(tap_offset(tap, windows), argmax_offset.dtype) for tap in np.ndindex(*windows.window)]
    parts = [jnp.where(argmax_offset == here, dy, zero) for here in offsets]
    for axis, k in reversed([*enumerate(windows.window)]):
        parts = [jnp.stack(parts[i : i + k], axis + 2) for i in range(0, len(parts), k)]
    return parts[0].reshape(dy.shape[0], *tiled_sizes(windows), dy.shape[-1])


def _scatter_at_once(dy: jax.Array, argmax_offset: jax.Array, windows: Windows) -> jax.Array:
    """Scatters where windows tile x, for a compiler that would write dy and the offsets at the size of x instead.

    The barriers keep each as small as it is, and the result in dy's dtype.
    """
    inner = tuple(range(2, 2 + 2 * len(windows.sizes), 2))
    here = _offsets_at_shift((0,) * len(windows.sizes), windows).astype(argmax_offset.dtype)
    parts = jnp.where(jnp.expand_dims(argmax_offset, inner) == here, jnp.expand_dims(dy, inner), np.zeros((), dy.dtype))
    whole = lax.optimization_barrier(parts).reshape(dy.shape[0], *tiled_sizes(windows), dy.shape[-1])
    return lax.optimization_barrier(whole)


def _scatter_by_shifts(dy: jax.Array, argmax_offset: jax.Array, windows: Windows) -> jax.Array:
    """Scatters with one comparison for each window that covers a pixel.

    Pixel q s + r, r below the stride s, lies in the windows q - j, at their tap r + j s, for each shift j.
    """
    stride, axes = windows.stride, range(len(windows.sizes))
    overlaps = [-(-k // s) for k, s in zip(windows.window, stride, strict=True)]  # windows over a pixel
    pads = tuple((count - 1,) * 2 for count in overlaps)
    # behind the barrier neither is computed again for each shift
    dy, argmax_offset = lax.optimization_barrier(
        (pad_spatial(dy, pads), pad_spatial(argmax_offset, pads, value=-1)),
    )
    covered = [count + more - 1 for count, more in zip(windows.output, overlaps, strict=True)]
    inner = tuple(2 + 2 * axis for axis in axes)

    total: Any = 0
    wide = accumulator_dtype(dy.dtype)
    for shift in itertools.product(*map(range, overlaps)):
        starts = [more - 1 - j for j, more in zip(shift, overlaps, strict=True)]
        limits = [start + count for start, count in zip(starts, covered, strict=True)]
        box = (0, *starts, 0), (dy.shape[0], *limits, dy.shape[-1])
        winner, cotangent = (jnp.expand_dims(lax.slice(a, *box), inner) for a in (argmax_offset, dy))
        here = _offsets_at_shift(shift, windows).astype(winner.dtype)
        total += jnp.where(winner == here, cotangent.astype(wide), np.zeros((), wide))
    sizes = [count * s for count, s in zip(covered, stride, strict=True)]
    return total.astype(dy.dtype).reshape(dy.shape[0], *sizes, dy.shape[-1])


def _offsets_at_shift(shift: Sizes, windows: Windows) -> np.ndarray:
    """Returns the offsets at which pixels lie in their windows, `(1, 1, s1, 1, s2, ..., 1)`; -2 outside."""
    rank = 2 + 2 * len(shift)
    offsets, inside = np.zeros((1,) * rank, int), np.ones((1,) * rank, bool)
    for axis, (j, k, s) in enumerate(zip(shift, windows.window, windows.stride, strict=True)):
        tap = np.expand_dims(np.arange(s) + j * s, [other for other in range(rank) if other != 2 + 2 * axis])
        offsets, inside = offsets * k + tap, inside & (tap < k)
    return np.where(inside, offsets, -2)
