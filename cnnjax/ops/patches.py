"""Padding, and the patches under a window: unfold, fold, and what convolutions and pools build on."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.checks import as_number, as_number_array, one_of, pooled_rank, spatial_rank
from cnnjax.ops.geometry import (
    PADDING_NAMES,
    Ints,
    Padding,
    Pads,
    Sizes,
    Windows,
    resolve_padding,
    slide,
)
from cnnjax.ops.public import public_op

# Taps of a window up to which a program may have a slice for each: its compile time grows faster than their number.
MANY_TAPS = 64

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@public_op
def pad(x: jax.Array, padding: Padding, *, mode: str = "zeros", value: float = 0.0) -> jax.Array:
    """Pads the spatial dimensions, or crops them where the padding is negative.

        y[n, p, c] = x[n, p - low, c]

    Outside of x stands, by mode: `"zeros"`: the value; `"replicate"`: the nearest element; `"reflect"`: the mirror
    image about the first and last element, which are not repeated; `"circular"`: x over again.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer.
      padding: one entry per spatial dimension, each an int or a `(low, high)` pair, or one int for all.
      mode: `"zeros" | "reflect" | "replicate" | "circular"`. As in PyTorch, a mirror stands at the edge of the whole
        x, whatever a negative padding crops, and a circle closes over what the crop leaves.
      value: the element of mode "zeros", a number that x's dtype can hold.

    Returns:
      `(N, *(low + S + high), C)` of x's dtype.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: shapes disagree, or the padding leaves nothing, or is larger than S - 1 ("reflect") or than
        the rest behind the crop ("circular").

    Example:
      >>> x = jnp.array([1, 2, 3]).reshape(1, 3, 1)
      >>> pad(x, ((2, 1),)).ravel()
      Array([0, 0, 1, 2, 3, 0], dtype=int32)
      >>> pad(x, ((2, -1),), mode="reflect").ravel()
      Array([3, 2, 1, 2], dtype=int32)

    References:
      The modes are named as PyTorch's `padding_mode`.
    """
    x = as_number_array("x", x)
    rank = spatial_rank("x", x)
    one_of("mode", mode, PADDING_MODES)
    if isinstance(padding, str) and padding in PADDING_NAMES:
        raise ValueError(f"padding must be in numbers, as {padding!r} is about a window and pad has none")
    pads = resolve_padding(padding, x.shape[1:-1], *[(1,) * rank] * 3)
    for axis, (size, pair) in enumerate(zip(x.shape[1:-1], pads, strict=True)):
        if size + sum(pair) < 1:
            raise ValueError(f"padding must leave something of x: {pair} crops all {size} of spatial dimension {axis}")
    if mode != "zeros" and as_number("value", value) != 0:
        raise ValueError(f"value must be left out where mode is {mode!r}, got {value!r}")
    return pad_spatial(x, pads, mode=mode, value=_held_by(x.dtype, value))


def _held_by(dtype: jnp.dtype, value: float) -> float:
    """Returns the value of `pad` as a number that the dtype can hold."""
    number = as_number("value", value)
    if not jnp.issubdtype(dtype, jnp.integer):
        if math.isfinite(number) and abs(number) > float(jnp.finfo(dtype).max):
            raise ValueError(f"value must be a number that x's dtype {dtype} can hold, got {value!r}")
        return number
    bounds = jnp.iinfo(dtype)
    if not bounds.min <= value <= bounds.max or value != int(value):
        raise ValueError(f"value must be an integer that x's dtype {dtype} can hold, got {value!r}")
    return int(value)


@public_op
def unfold(
    x: jax.Array, window: Ints, *, stride: Ints = 1, padding: Padding = "VALID", dilation: Ints = 1
) -> jax.Array:
    """Lays the patch under each window into one row ("im2col").

        cols[n, o, t C + c] = x[n, o * stride + t * dilation, c]

    with x padded by zeros and the taps t row-major, so `unfold(x, K) @ w.reshape(-1, F)` is `conv(x, w)`.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer.
      window: `K`, an int, or one per spatial dimension; `(k,)` where there is one.
      stride, padding, dilation: as for `conv`.

    Returns:
      `(N, *S', prod(K) C)` of x's dtype. (PyTorch's order is c prod(K) + t: taps within channels.)

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: shapes disagree, or the window is larger than the padded input.

    Example:
      >>> x = jnp.arange(4).reshape(1, 4, 1)
      >>> unfold(x, (2,))[0]
      Array([[0, 1],
             [1, 2],
             [2, 3]], dtype=int32)

    References:
      Chellapilla, Puri and Simard, High performance convolutional neural networks for document processing,
      IWFHR 2006.
    """
    x = as_number_array("x", x)
    pooled_rank(x, window)
    windows = slide(x.shape[1:-1], window, stride=stride, padding=padding, dilation=dilation)
    return summed_columns(pad_spatial(x, windows.exact_padding), windows)


@public_op
def fold(
    cols: jax.Array,
    spatial_shape: Sequence[int],
    window: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    dilation: Ints = 1,
) -> jax.Array:
    """Adds patches up where they come from: the adjoint of `unfold`.

        x[n, s, c] = sum over (o, t) with o * stride + t * dilation - low = s  of  cols[n, o, t C + c]

    Args:
      cols: `(N, *S', prod(K) C)`, float or integer.
      spatial_shape: `S`, one int per spatial dimension.
      window: `K`, an int, or one per spatial dimension.
      stride, padding, dilation: those of the unfold.

    Returns:
      `(N, *S, C)` of cols' dtype; sums of floats are accumulated in float32 or better, and those of integers wrap.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: cols has another shape than `unfold` gives.

    Example:
      >>> x = jnp.arange(4).reshape(1, 4, 1)
      >>> fold(unfold(x, (2,)), (4,), 2).ravel()  # the inner elements are in two windows each
      Array([0, 2, 4, 3], dtype=int32)

    References:
      PyTorch's `fold`, whose taps lie within the channels.
    """
    cols = as_number_array("cols", cols)
    windows = slide(spatial_shape, window, stride=stride, padding=padding, dilation=dilation)
    count = math.prod(windows.window)
    if cols.shape[1:-1] != windows.output or not cols.shape[-1] or cols.shape[-1] % count:
        expected = ", ".join(map(str, windows.output))
        raise ValueError(
            f"cols must be (N, {expected}, {count} C), as unfold makes of spatial_shape {windows.sizes}, "
            f"window {windows.window}, stride {windows.stride}, padding {windows.padding} and dilation "
            f"{windows.dilation}, got shape {cols.shape}"
        )
    return _fold(cols, windows)


@partial(jax.jit, static_argnums=1)
def _fold(cols: jax.Array, windows: Windows) -> jax.Array:
    dtype, count = cols.dtype, math.prod(windows.window)
    if dtype in ("bfloat16", "float16"):
        cols = cols.astype("float32")
    if count > MANY_TAPS:
        return _fold_by_index(cols, windows).astype(dtype)
    pieces = zip(jnp.split(cols, count, axis=-1), _tap_indices(windows), strict=True)
    return sum((_put(piece, tap, windows) for piece, tap in pieces), start=jnp.zeros((), cols.dtype)).astype(dtype)


def _put(piece: jax.Array, tap: Sizes, windows: Windows) -> jax.Array:
    """Sets piece `(N, *S', C)` at the elements of x `(N, *S, C)` that this tap reads, and zeros elsewhere."""
    config = []
    for t, d, s, (low, _), count, size in zip(
        tap, windows.dilation, windows.stride, windows.padding, windows.output, windows.sizes, strict=True
    ):
        first = t * d - low
        config.append((first, size - first - (count - 1) * s - 1, s - 1))
    return lax.pad(piece, jnp.zeros((), piece.dtype), [(0, 0, 0), *config, (0, 0, 0)])


def pad_spatial(
    x: jax.Array, padding: Pads, *, mode: str = "zeros", value: float = 0, holes: Sizes | None = None
) -> jax.Array:
    """Pads the spatial dimensions of x `(N, *S, C)`, or crops them where the padding is negative.

    Args:
      x: of any dtype.
      padding: `(low, high)` per spatial dimension.
      mode, value: as for `pad`.
      holes: input dilation before padding, per spatial dimension (1: none), for mode "zeros".
    """
    if mode == "zeros":
        gaps = (0,) * len(padding) if holes is None else tuple(hole - 1 for hole in holes)
        if not any(gaps) and not any(low or high for low, high in padding):
            return x
        config = [(low, high, gap) for (low, high), gap in zip(padding, gaps, strict=True)]
        return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    for axis, (low, high) in enumerate(padding):
        size = x.shape[1 + axis]
        most = {"reflect": size - 1, "circular": size - max(-low, 0) - max(-high, 0)}.get(mode)
        if most is not None and max(low, high) > most:
            raise ValueError(
                f"padding must be at most {most} for padding_mode={mode!r} in spatial dimension {axis} "
                f"of size {size}, got {(low, high)}"
            )
    grow = [(0, 0), *((max(low, 0), max(high, 0)) for low, high in padding), (0, 0)]
    crop = tuple((min(low, 0), min(high, 0)) for low, high in padding)
    # as in PyTorch a circle closes over what the crop leaves, and a mirror stands at the edge of the whole
    if mode == "circular":
        return jnp.pad(pad_spatial(x, crop), grow, mode="wrap")
    grown = jnp.pad(x, grow, mode={"reflect": "reflect", "replicate": "edge"}[mode])
    return pad_spatial(grown, crop)


def taps(x: jax.Array, windows: Windows) -> Iterator[tuple[Sizes, jax.Array]]:
    """Yields per tap, row-major, its index and the elements `(N, *S', C)` that it reads of the padded x."""
    for tap in _tap_indices(windows):
        starts = [t * d for t, d in zip(tap, windows.dilation, strict=True)]
        stops = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip(starts, windows.output, windows.stride, strict=True)
        ]
        yield tap, lax.slice(x, (0, *starts, 0), (x.shape[0], *stops, x.shape[-1]), (1, *windows.stride, 1))


def map_taps(f: Callable[[jax.Array], jax.Array], x: jax.Array, windows: Windows) -> jax.Array:
    """Applies f to the elements `(N, *S', C)` that each tap reads of the padded x; stacks over taps, row-major."""
    if math.prod(windows.window) <= MANY_TAPS:
        return jnp.stack([f(shifted) for _, shifted in taps(x, windows)])

    spans = [(count - 1) * stride + 1 for count, stride in zip(windows.output, windows.stride, strict=True)]
    zero = np.int32(0)

    def at(start: jax.Array) -> jax.Array:
        shifted = lax.dynamic_slice(x, (zero, *start, zero), (x.shape[0], *spans, x.shape[-1]))
        return f(lax.slice(shifted, (0,) * x.ndim, shifted.shape, (1, *windows.stride, 1)))

    starts = np.array(list(_tap_indices(windows)), np.int32) * np.array(windows.dilation, np.int32)
    return lax.map(at, jnp.asarray(starts))


def summed_columns(x: jax.Array, windows: Windows) -> jax.Array:
    """Returns what `columns` returns; its gradient, a sum over the patches of an element, is summed in float32."""
    if x.dtype not in ("bfloat16", "float16"):
        return columns(x, windows)
    return columns(x.astype("float32"), windows).astype(x.dtype)


@partial(jax.jit, static_argnums=1)
def columns(x: jax.Array, windows: Windows) -> jax.Array:
    """Lays the patches of the padded x into rows, `(N, *S', prod(K) C)`: `unfold` without its checks."""
    if math.prod(windows.window) <= MANY_TAPS:
        return lax.concatenate([shifted for _, shifted in taps(x, windows)], x.ndim - 1)
    rank = len(windows.window)
    for axis in range(rank):  # to (N, S1', K1, S2', K2, ..., C)
        x = jnp.take(x, _elements_read(windows, axis), axis=1 + 2 * axis, mode="clip")
    x = x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    return x.reshape(x.shape[0], *windows.output, math.prod(windows.window) * x.shape[-1])


def _fold_by_index(cols: jax.Array, windows: Windows) -> jax.Array:
    """Folds one dimension after the other: the program is as long for many taps as for few."""
    rank = len(windows.window)
    x = cols.reshape(cols.shape[0], *windows.output, *windows.window, cols.shape[-1] // math.prod(windows.window))
    # to (N, S1', K1, S2', K2, ..., C), the inverse of what columns does
    x = x.transpose(0, *(axis for pair in zip(range(1, 1 + rank), range(1 + rank, 1 + 2 * rank), strict=True)
                         for axis in pair), 1 + 2 * rank)  # fmt: skip
    for axis in reversed(range(rank)):
        read = _elements_read(windows, axis)
        before, after = x.shape[: 1 + 2 * axis], x.shape[3 + 2 * axis :]
        blank = jnp.zeros((*before, int(read.max()) + 1, *after), x.dtype)
        x = blank.at[(*(slice(None),) * len(before), read)].add(x)
    # drop the padding, and append the elements that no window reads
    return pad_spatial(x, tuple((-low, -high) for low, high in windows.exact_padding))


def _elements_read(windows: Windows, axis: int) -> np.ndarray:
    """Returns the elements `(S', K)` of the padded input that the windows read along one dimension."""
    start, tap = np.arange(windows.output[axis]), np.arange(windows.window[axis])
    return start[:, None] * windows.stride[axis] + tap * windows.dilation[axis]


def _tap_indices(windows: Windows) -> Iterator[Sizes]:
    return itertools.product(*map(range, windows.window))
