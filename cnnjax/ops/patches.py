"""Arrays cut up and put together over their spatial dimensions."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.checks import as_number_array, one_of, pooled_rank, spatial_rank
from cnnjax.ops.geometry import (
    PADDING_NAMES,
    Pads,
    Sizes,
    Windows,
    as_int,
    per_dimension,
    resolve_padding,
    slide,
)
from cnnjax.ops.public import public_op

#: A program with a piece of its own for each tap takes seconds to compile up to here, and soon minutes beyond.
MANY_TAPS = 64

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@public_op
def pad(x: jax.Array, padding: Any, *, mode: str = "zeros", value: float = 0.0) -> jax.Array:
    """x with its spatial dimensions padded, or cropped where the padding is negative.

        y[n, p, c] = x[n, p - low, c],  and outside of x, by mode:

    `"zeros"`: the value; `"replicate"`: the nearest element; `"reflect"`: the mirror image about the
    first and last element, which are not repeated; `"circular"`: x over again.

    Args:
      x: (N, *S, C), one to three spatial dimensions, float or integer.
      padding: one entry per spatial dimension, each an int or a `(low, high)` pair, or one int for all.
      mode: `"zeros" | "reflect" | "replicate" | "circular"`. A mirror stands at the edge of the whole x,
        whatever a negative padding crops; a circle closes over what the crop leaves (as in PyTorch).
      value: what mode "zeros" sets, a number that x's dtype can hold.

    Returns:
      (N, *(low + S + high), C) of x's dtype.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: shapes disagree, the padding leaves nothing, or is larger than S - 1 ("reflect") or than
        what the crop leaves ("circular").

    Example:
      >>> x = jnp.array([1, 2, 3]).reshape(1, 3, 1)
      >>> pad(x, ((2, 1),)).ravel()
      Array([0, 0, 1, 2, 3, 0], dtype=int32)
      >>> pad(x, ((2, -1),), mode="reflect").ravel()
      Array([3, 2, 1, 2], dtype=int32)

    References:
      The names are those of `padding_mode` in PyTorch's convolutions.
    """
    x = as_number_array("x", x)
    rank = spatial_rank("x", x)
    one_of("mode", mode, PADDING_MODES)
    if isinstance(padding, str) and padding in PADDING_NAMES:
        raise ValueError(f"padding must be in numbers, as {padding!r} is about a window and pad has none")
    sizes = x.shape[1:-1]
    pads = resolve_padding(padding, sizes, *[(1,) * rank] * 3)
    for axis, (size, pair) in enumerate(zip(sizes, pads, strict=True)):
        if size + sum(pair) < 1:
            raise ValueError(f"padding must leave something of x: {pair} crops all {size} of spatial dimension {axis}")
    if not isinstance(value, int | float | np.number) or isinstance(value, bool):
        raise TypeError(f"value must be a number, got {value!r}")
    if mode != "zeros" and value != 0:
        raise ValueError(f"value must be left out where mode is {mode!r}, got {value!r}")
    if jnp.issubdtype(x.dtype, jnp.integer):
        bounds = jnp.iinfo(x.dtype)
        if not bounds.min <= value <= bounds.max or value != int(value):
            raise ValueError(f"value must be an integer that x's dtype {x.dtype} can hold, got {value!r}")
        value = int(value)
    return pad_spatial(x, pads, mode=mode, value=value)


@public_op
def unfold(x: jax.Array, window: Any, *, stride: Any = 1, padding: Any = "VALID", dilation: Any = 1) -> jax.Array:
    """The input under each window, side by side ("im2col").

        cols[n, o, t C + c] = x[n, o * stride + t * dilation, c],  x padded with zeros, t row-major

    so that `unfold(x, K) @ w.reshape(-1, F)` is `conv(x, w)`.

    Args:
      x: (N, *S, C), one to three spatial dimensions, float or integer.
      window: K, an int, or one int per spatial dimension (where there is one: `(k,)`).
      stride, padding, dilation: as for `conv`.

    Returns:
      (N, *S', prod(K) C) of x's dtype. (PyTorch has the channels first, then the taps: c prod(K) + t.)

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
    return columns(pad_spatial(x, windows.exact_padding), windows)


@public_op
def fold(
    cols: jax.Array,
    spatial_shape: Sequence[int],
    window: Any,
    *,
    stride: Any = 1,
    padding: Any = "VALID",
    dilation: Any = 1,
) -> jax.Array:
    """The adjoint of `unfold`: each column goes back to where unfold reads it, and overlaps add up.

        x[n, s, c] = sum over (o, t) with o * stride + t * dilation - low = s  of  cols[n, o, t C + c]

    Args:
      cols: (N, *S', prod(K) C), float or integer.
      spatial_shape: S, one int per spatial dimension.
      window: K, an int, or one int per spatial dimension.
      stride, padding, dilation: those of the unfold that it is the adjoint of.

    Returns:
      (N, *S, C) of cols' dtype; sums are accumulated in float32 or better.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: cols is not what unfold makes of that spatial_shape.

    Example:
      >>> x = jnp.arange(4).reshape(1, 4, 1)
      >>> fold(unfold(x, (2,)), (4,), 2).ravel()  # the inner elements are in two windows each
      Array([0, 2, 4, 3], dtype=int32)

    References:
      `torch.nn.functional.fold`, there with the channels before the taps.
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
    """piece (N, *S', C) at the places of x (N, *S, C) that this tap reads, and zeros elsewhere."""
    config = []
    for t, d, s, (low, _), count, size in zip(
        tap, windows.dilation, windows.stride, windows.padding, windows.output, windows.sizes, strict=True
    ):
        first = t * d - low
        config.append((first, size - first - (count - 1) * s - 1, s - 1))
    return lax.pad(piece, jnp.zeros((), piece.dtype), [(0, 0, 0), *config, (0, 0, 0)])


@public_op
def pixel_shuffle(x: jax.Array, r: Any) -> jax.Array:
    """Channels spread out over blocks of r pixels a side: the sub-pixel convolution's last step.

        y[n, r s + i, c] = x[n, s, c r^rank + i],  i row-major over the block

    Args:
      x: (N, *S, C r^rank), one to three spatial dimensions, float or integer.
      r: the factor, an int, or one int per spatial dimension.

    Returns:
      (N, *(r S), C). The channels are split as in PyTorch (`depth_to_space` in TensorFlow, and in ONNX
      with mode "DCR", has the place in the block before the channel).

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
    r = per_dimension("r", r, rank)
    batch, *sizes, channels = x.shape
    if channels % math.prod(r):
        raise ValueError(f"r must be such that {math.prod(r)}, the pixels of a block, divides x's channels, got "
                         f"r {r} for {channels} channels (x {x.shape})")  # fmt: skip
    x = x.reshape(batch, *sizes, channels // math.prod(r), *r)
    # (N, *S, C, *r) to (N, S1, r1, S2, r2, ..., C)
    pairs = [axis for dim in range(rank) for axis in (1 + dim, 2 + rank + dim)]
    out = [size * factor for size, factor in zip(sizes, r, strict=True)]
    return x.transpose(0, *pairs, 1 + rank).reshape(batch, *out, channels // math.prod(r))


@public_op
def pixel_unshuffle(x: jax.Array, r: Any) -> jax.Array:
    """Blocks of r pixels a side gathered into channels: the inverse of `pixel_shuffle`.

        y[n, s, c r^rank + i] = x[n, r s + i, c],  i row-major over the block

    Args:
      x: (N, *S, C), one to three spatial dimensions, float or integer.
      r: the factor, an int, or one int per spatial dimension; divides S.

    Returns:
      (N, *(S / r), C r^rank).

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
    r = per_dimension("r", r, rank)
    batch, *sizes, channels = x.shape
    if any(size % factor for size, factor in zip(sizes, r, strict=True)):
        raise ValueError(f"r must divide x's spatial sizes, got r {r} for sizes {tuple(sizes)} (x {x.shape})")
    split = [part for size, factor in zip(sizes, r, strict=True) for part in (size // factor, factor)]
    x = x.reshape(batch, *split, channels)
    # (N, S1, r1, S2, r2, ..., C) to (N, *S, C, *r)
    outer, inner = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
    return x.transpose(0, *outer, 2 * rank + 1, *inner).reshape(batch, *split[::2], channels * math.prod(r))


@public_op
def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Channels dealt out anew, so that a grouped convolution sees all groups of the one before it.

        y[n, s, i groups + g] = x[n, s, g (C / groups) + i]

    Args:
      x: (N, *S, C), one to three spatial dimensions, float or integer.
      groups: divides C.

    Returns:
      (N, *S, C).

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
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups).swapaxes(-1, -2).reshape(x.shape)


def pad_spatial(
    x: jax.Array, padding: Pads, *, mode: str = "zeros", value: float = 0, holes: Sizes | None = None
) -> jax.Array:
    """x (N, *S, C) with its spatial dimensions padded, and cropped where the padding is negative.

    `holes` sets the elements of x that far apart (1: side by side) before padding, in mode "zeros" only.
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
    # PyTorch's order: a circle closes over what the crop leaves, a mirror stands at the edge of the whole
    if mode == "circular":
        return jnp.pad(pad_spatial(x, crop), grow, mode="wrap")
    grown = jnp.pad(x, grow, mode={"reflect": "reflect", "replicate": "edge"}[mode])
    return pad_spatial(grown, crop)


def taps(x: jax.Array, windows: Windows) -> Iterator[tuple[Sizes, jax.Array]]:
    """Per tap of the window, row-major: its index, and what it meets of the padded x, (N, *S', C)."""
    for tap in _tap_indices(windows):
        starts = [t * d for t, d in zip(tap, windows.dilation, strict=True)]
        stops = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip(starts, windows.output, windows.stride, strict=True)
        ]
        yield tap, lax.slice(x, (0, *starts, 0), (x.shape[0], *stops, x.shape[-1]), (1, *windows.stride, 1))


def map_taps(f: Callable[[jax.Array], jax.Array], x: jax.Array, windows: Windows) -> jax.Array:
    """f of what each tap meets of the padded x, (N, *S', C), stacked over the taps, row-major."""
    if math.prod(windows.window) <= MANY_TAPS:
        return jnp.stack([f(shifted) for _, shifted in taps(x, windows)])

    spans = [(count - 1) * stride + 1 for count, stride in zip(windows.output, windows.stride, strict=True)]
    zero = np.int32(0)

    def at(start: jax.Array) -> jax.Array:
        shifted = lax.dynamic_slice(x, (zero, *start, zero), (x.shape[0], *spans, x.shape[-1]))
        return f(lax.slice(shifted, (0,) * x.ndim, shifted.shape, (1, *windows.stride, 1)))

    starts = np.array(list(_tap_indices(windows)), np.int32) * np.array(windows.dilation, np.int32)
    return lax.map(at, jnp.asarray(starts))


@partial(jax.jit, static_argnums=1)
def columns(x: jax.Array, windows: Windows) -> jax.Array:
    """What all taps meet of the padded x side by side, (N, *S', prod(K) C): `unfold` behind its door."""
    if math.prod(windows.window) <= MANY_TAPS:
        return lax.concatenate([shifted for _, shifted in taps(x, windows)], x.ndim - 1)
    rank = len(windows.window)
    for axis in range(rank):  # to (N, S1', K1, S2', K2, ..., C)
        x = jnp.take(x, _met(windows, axis), axis=1 + 2 * axis, mode="clip")
    x = x.transpose(0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1)
    return x.reshape(x.shape[0], *windows.output, math.prod(windows.window) * x.shape[-1])


def _fold_by_index(cols: jax.Array, windows: Windows) -> jax.Array:
    """`fold` one dimension after the other, so that the program is as long for many taps as for few."""
    rank = len(windows.window)
    x = cols.reshape(cols.shape[0], *windows.output, *windows.window, cols.shape[-1] // math.prod(windows.window))
    # to (N, S1', K1, S2', K2, ..., C), the inverse of what columns does
    x = x.transpose(0, *(axis for pair in zip(range(1, 1 + rank), range(1 + rank, 1 + 2 * rank), strict=True)
                         for axis in pair), 1 + 2 * rank)  # fmt: skip
    for axis in reversed(range(rank)):
        met = _met(windows, axis)
        before, after = x.shape[: 1 + 2 * axis], x.shape[3 + 2 * axis :]
        blank = jnp.zeros((*before, met.max() + 1, *after), x.dtype)
        x = blank.at[(*(slice(None),) * len(before), met)].add(x)
    # off with the padding, and on with what no window met
    return pad_spatial(x, tuple((-low, -high) for low, high in windows.exact_padding))


def _met(windows: Windows, axis: int) -> np.ndarray:
    """Along one dimension the positions (S', K) that the windows meet of the padded input."""
    start, tap = np.arange(windows.output[axis]), np.arange(windows.window[axis])
    return start[:, None] * windows.stride[axis] + tap * windows.dilation[axis]


def _tap_indices(windows: Windows) -> Iterator[Sizes]:
    return itertools.product(*map(range, windows.window))
