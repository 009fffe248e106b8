"""The ways to compute one convolution, one function each.  All give the same numbers.

Each takes x (N, *S, C) and w (*K, C // groups, F) of one float dtype and the :class:`Windows` of w over x,
whose padding is not negative, and returns (N, *S', F) in that dtype.  The door and the choice between them
are in :mod:`cnnjax.ops.conv`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.conv.winograd import winograd, winograd4
from cnnjax.ops.geometry import Windows, dilated, slide
from cnnjax.ops.patches import MANY_TAPS, columns, pad_spatial, taps


def lax_conv(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """XLA's own convolution."""
    padding = windows.padding
    if max(windows.stride) > 1:
        # Padded to the exact size beforehand, the input gradient has padding in every dimension that it
        # dilates.  Without it XLA (jax 0.10 to 0.12) can take kernel 2 with stride 2 for a grouped
        # convolution, and ends the process.
        x = pad_spatial(x, windows.exact_padding)
        padding = ((0, 0),) * len(padding)
    spatial = "DHW"[-len(padding) :]
    return lax.conv_general_dilated(
        x,
        w,
        windows.stride,
        padding,
        rhs_dilation=windows.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
        precision=precision,
    )


def transposed(
    y: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any, run: Any = lax_conv
) -> jax.Array:
    """The adjoint of the convolution in x: the full correlation of y with the turned kernel.

    x[n, s, c] = sum_t sum_f y'[n, s + low - t * dilation, f] w[t, c, f]

    where y' is y (N, *S', F) with stride - 1 zeros set between its elements.
    """
    strided = max(windows.stride) > 1 and math.prod(windows.window) > 1
    if strided and all(1 in pair for pair in zip(windows.stride, windows.dilation, strict=True)):
        whole = all(k % stride == 0 for k, stride in zip(windows.window, windows.stride, strict=True))
        together = whole or math.prod(windows.stride) > 8 or w.shape[-2] == 1
        by_phases = _transposed_by_phases if together else _transposed_phase_by_phase
        return by_phases(y, w, windows, groups, precision, run)
    gaps = [
        (extent - 1 - low, size + low - (count - 1) * stride - 1, stride - 1)
        for extent, size, stride, (low, _), count in zip(
            windows.extents, windows.sizes, windows.stride, windows.padding, windows.output, strict=True
        )
    ]
    window = windows.window
    if run is not lax_conv and min(map(min, gaps)) >= 0 and all(between == 0 for *_, between in gaps):
        padding = tuple((low, high) for low, high, _ in gaps)
    else:
        # XLA ends the process on some derivatives of convolutions with strides; behind the barrier it cannot
        # merge this padding into the convolution, which stays a plain one of stride 1.
        y = lax.optimization_barrier(lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *gaps, (0, 0, 0)]))
        padding = ((0, 0),) * len(window)
    full = slide(y.shape[1:-1], window, dilation=windows.dilation, padding=padding)
    turned = lax.rev(w, range(len(window)))
    # (*K, C // groups, F) with F group by group, to (*K, F // groups, C) with C group by group
    per_group, features = w.shape[-2:]
    turned = turned.reshape(*window, per_group, groups, features // groups)
    turned = jnp.moveaxis(turned, -1, -3).swapaxes(-1, -2)
    turned = turned.reshape(*window, features // groups, groups * per_group)
    return run(y, turned, full, groups, precision)


def _transposed_phase_by_phase(
    y: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any, run: Any
) -> jax.Array:
    """:func:`transposed` with one convolution of stride 1 for each phase of x, of the taps that it meets.

    x[n, q stride + p, c] = sum_j sum_f y[n, q + start - j, f] w[j stride + r, c, f],  p + low = start stride + r

    Where the stride does not divide the window, the phases side by side as below would multiply by zeros.
    """
    stride, rank = windows.stride, len(windows.window)
    sizes = tuple(-(-size // s) for size, s in zip(windows.sizes, stride, strict=True))

    def of_phase(*phase: int) -> jax.Array:
        ends = [divmod(p + low, s) for p, (low, _), s in zip(phase, windows.padding, stride, strict=True)]
        met = w[tuple(slice(r, None, s) for (_, r), s in zip(ends, stride, strict=True))]
        if 0 in met.shape:
            return jnp.zeros((y.shape[0], *sizes, w.shape[-2] * groups), y.dtype)
        unit = windows._replace(
            sizes=sizes, window=met.shape[:rank], stride=(1,) * rank, padding=tuple((start, 0) for start, _ in ends)
        )
        return transposed(y, met, unit, groups, precision, run)

    def in_turn(*phase: int) -> jax.Array:
        """All phases that begin so, their dimensions after those of x."""
        if len(phase) == rank:
            return of_phase(*phase)
        return jnp.stack([in_turn(*phase, p) for p in range(stride[len(phase)])], 2 + len(phase))

    x = in_turn()  # (N, Q1, r1, Q2, r2, ..., C)
    x = x.reshape(-1, *(size * s for size, s in zip(sizes, stride, strict=True)), x.shape[-1])
    return lax.slice(x, (0,) * x.ndim, (x.shape[0], *windows.sizes, x.shape[-1]))


def _transposed_by_phases(
    y: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any, run: Any
) -> jax.Array:
    """:func:`transposed` without a product by the zeros that strides set: each phase has its own taps of w.

    x[n, q stride + r - low, c] = sum_j sum_f y[n, q - j, f] w[j stride + r, c, f],  r from 0 to stride - 1

    of which the right is one convolution of stride 1, with the phases r side by side in its channels.
    """
    rank, stride, (per_group, features) = len(windows.window), windows.stride, w.shape[-2:]
    counts = [-(-k // s) for k, s in zip(windows.window, stride, strict=True)]
    grow = [(0, count * s - k, 0) for k, s, count in zip(windows.window, stride, counts, strict=True)]
    w = lax.pad(w, jnp.zeros((), w.dtype), [*grow, (0, 0, 0), (0, 0, 0)])
    w = w.reshape(*(size for pair in zip(counts, stride, strict=True) for size in pair), per_group, features)
    # (j1, r1, j2, r2, ..., C, F) to (*j, *r, C, F)
    w = w.transpose(*range(0, 2 * rank, 2), *range(1, 2 * rank, 2), 2 * rank, 2 * rank + 1)
    w = w.reshape(*counts, math.prod(stride) * per_group, features)
    sizes = tuple(
        out + dilated(count, d) - 1 for out, count, d in zip(windows.output, counts, windows.dilation, strict=True)
    )
    whole = slide(sizes, counts, dilation=windows.dilation)
    if features == groups > 1 and math.prod(counts) <= MANY_TAPS:
        run = direct  # depthwise: the gradient of XLA's own is ten times slower with several phases to a channel
    x = transposed(y, w, whole, groups, precision, run).reshape(-1, *sizes, groups, *stride, per_group)
    # (N, *Q, G, *r, C) to (N, Q1, r1, Q2, r2, ..., G, C)
    pairs = [axis for dim in range(rank) for axis in (1 + dim, 2 + rank + dim)]
    x = x.transpose(0, *pairs, 1 + rank, 2 + 2 * rank)
    x = x.reshape(-1, *(size * s for size, s in zip(sizes, stride, strict=True)), groups * per_group)
    ends = [
        (-low, size + low - full)
        for size, (low, _), full in zip(windows.sizes, windows.padding, x.shape[1:-1], strict=True)
    ]
    return pad_spatial(x, tuple(ends))


def direct(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """The definition: over the taps of the kernel, the sum of the shifted input times the weights of the tap.

    y[n, o, f] = sum_t sum_c x[n, o * stride + t * dilation, c] w[t, c, f]
    """
    x = lax.optimization_barrier(pad_spatial(x, windows.exact_padding))
    if math.prod(windows.window) > MANY_TAPS:  # term by term it would hardly end compiling
        return _patches_times_kernel(x, w, windows, groups, precision)
    terms = (
        _channel_product(shifted[..., None, :], w[tap][None], groups, precision) for tap, shifted in taps(x, windows)
    )
    return sum(terms, start=jnp.zeros((), x.dtype))


def im2col(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any, block: int = 1) -> jax.Array:
    """One matrix product: each row the input under one window, each column one kernel.

    y[n, o, f] = sum_(t, c) cols[n, o, (t, c)] w[(t, c), f]
    cols[n, o, (t, c)] = x[n, o * stride + t * dilation, c]

    With few channels the rows are short and the product is slow.  ``block`` = B > 1 computes B neighbours of
    the last spatial dimension in one row, see :func:`in_blocks`.  It needs groups 1.
    """
    if block == 1:
        x = lax.optimization_barrier(pad_spatial(x, windows.exact_padding))
        return _patches_times_kernel(x, w, windows, groups, precision)
    x, blocked = in_blocks(x, windows, block)
    y = _patches_times_kernel(x, band(w, windows, block), blocked, 1, precision)
    y = y.reshape(*y.shape[:-2], blocked.output[-1] * block, w.shape[-1])
    return lax.slice_in_dim(y, 0, windows.output[-1], axis=y.ndim - 2)


def in_blocks(x: jax.Array, windows: Windows, block: int) -> tuple[jax.Array, Windows]:
    """x (..., W, C) padded and seen as (..., W / B, B C), and the windows over it that give (..., W' / B, B F).

    :func:`band` is their kernel.  It needs stride and dilation 1 in the last dimension.
    """
    x = pad_spatial(x, windows.exact_padding)
    *sizes, width, channels = x.shape
    block_taps = _block_taps(windows, block)
    in_blocks = -(-windows.output[-1] // block) + block_taps - 1
    blank = [(0, 0, 0)] * len(sizes)
    x = lax.pad(x, jnp.zeros((), x.dtype), [*blank, (0, in_blocks * block - width, 0), (0, 0, 0)])
    # the barrier keeps XLA from computing the padding again for each of the slices
    x = lax.optimization_barrier(x.reshape(*sizes, in_blocks, block * channels))
    window = (*windows.window[:-1], block_taps)
    return x, slide(x.shape[1:-1], window, stride=windows.stride, dilation=windows.dilation)


def band(w: jax.Array, windows: Windows, block: int) -> jax.Array:
    """w (..., k, C, F) as (..., taps, B C, B F): column o of a block sees w shifted by o."""
    *outer, k, channels, features = w.shape
    taps, blank, zero = _block_taps(windows, block), [(0, 0, 0)] * len(outer), jnp.zeros((), w.dtype)
    shifted = [lax.pad(w, zero, [*blank, (o, taps * block - k - o, 0), (0, 0, 0), (0, 0, 0)]) for o in range(block)]
    return jnp.stack(shifted, axis=-2).reshape(*outer, taps, block * channels, block * features)


def _block_taps(windows: Windows, block: int) -> int:
    return -(-(block + windows.window[-1] - 1) // block)


def im2col_if_finite(
    x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any, block: int
) -> jax.Array:
    """:func:`im2col` by blocks where all of x is finite, else XLA's own.

    The zeros of the band would make NaN of an infinity or NaN that an output does not see.
    """
    by_blocks, plain = (partial(run, windows=windows, groups=groups, precision=precision) for run in (im2col, lax_conv))
    return lax.cond(jnp.isfinite(x).all(), partial(by_blocks, block=block), plain, x, w)


def _patches_times_kernel(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    count = math.prod(windows.window)
    w = w.reshape(count, *w.shape[-2:])
    # one window, the whole of x: nothing to copy
    whole = windows.window == x.shape[1:-1]
    cols = x.reshape(x.shape[0], *windows.output, -1) if whole else columns(x, windows)
    if groups > 1:
        return _channel_product(cols.reshape(*cols.shape[:-1], count, -1), w, groups, precision)
    return jnp.matmul(cols, w.reshape(-1, w.shape[-1]), precision=precision)


def _channel_product(x: jax.Array, w: jax.Array, groups: int, precision: Any) -> jax.Array:
    """x (..., T, C) times w (T, C // groups, F), summed over the taps and within groups over the channels."""
    count, per_group, features = w.shape
    x = x.reshape(*x.shape[:-1], groups, per_group)
    w = w.reshape(count, per_group, groups, features // groups)
    if per_group == 1:  # depthwise: no sum over channels, so no matrix product
        y = (x * w[:, 0]).sum(-3)
    elif groups == 1:
        y = jnp.einsum("...tc,tcf->...f", x[..., 0, :], w[:, :, 0], precision=precision)
    else:
        y = jnp.einsum("...tgc,tcgf->...gf", x, w, precision=precision)
    return y.reshape(*x.shape[:-3], features)


def fft(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """The convolution theorem: correlation is a product of spectra, the kernel's conjugated.

    y = F^-1[ sum_c F[x]_c conj(F[w]_c) ],  of which each stride-th element is kept

    The circle is as long as the padded x, so that no window of the output closes over its end.
    """
    rank = len(windows.window)
    x = pad_spatial(x, windows.exact_padding)
    sizes, axes = x.shape[1:-1], tuple(range(1, 1 + rank))
    holes = [(0, 0, d - 1) for d in windows.dilation]
    w = lax.pad(w, jnp.zeros((), w.dtype), [*holes, (0, 0, 0), (0, 0, 0)])
    x_spectrum = jnp.fft.rfftn(x, axes=axes)
    w_spectrum = jnp.fft.rfftn(w, s=sizes, axes=range(rank)).conj()
    x_spectrum = x_spectrum.reshape(*x_spectrum.shape[:-1], groups, -1)
    w_spectrum = w_spectrum.reshape(*w_spectrum.shape[:-1], groups, -1)
    spectrum = jnp.einsum("n...gc,...cgf->n...gf", x_spectrum, w_spectrum, precision=precision)
    y = jnp.fft.irfftn(spectrum.reshape(*spectrum.shape[:-2], -1), s=sizes, axes=axes)
    stops = [(count - 1) * stride + 1 for count, stride in zip(windows.output, windows.stride, strict=True)]
    return lax.slice(y, (0,) * y.ndim, (y.shape[0], *stops, y.shape[-1]), (1, *windows.stride, 1))


def toeplitz(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """One matrix for the whole convolution: vec(y) = M vec(x)."""
    y = jnp.matmul(x.reshape(x.shape[0], -1), explicit_matrix(w, windows, groups).T, precision=precision)
    return y.reshape(x.shape[0], *windows.output, w.shape[-1])


def explicit_matrix(w: jax.Array, windows: Windows, groups: int) -> jax.Array:
    """M[(o, f), (s, c)] = w[t, c, f] where s = o * stride + t * dilation - low for a tap t, and else 0."""
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
    """w (*K, C // groups, F) as (*K, C, F), zero between channels of different groups."""
    *_, per_group, features = w.shape
    same_group = np.arange(groups * per_group)[:, None] // per_group == np.arange(features) // (features // groups)
    return jnp.where(same_group, jnp.tile(w, (*(1,) * (w.ndim - 2), groups, 1)), 0)


ALGORITHMS = {
    "lax": lax_conv,
    "direct": direct,
    "im2col": im2col,
    "fft": fft,
    "winograd": winograd,
    "winograd4": winograd4,
    "toeplitz": toeplitz,
}


def check_serves(algorithm: str, windows: Windows, in_channels: int, out_channels: int, itemsize: int) -> None:
    """Refuse arguments that an algorithm cannot serve, by its name."""
    if algorithm in ("winograd", "winograd4"):
        for name, value in (("stride", windows.stride), ("dilation", windows.dilation)):
            if set(value) != {1}:
                raise ValueError(f"algorithm={algorithm!r} needs {name} 1, got {value}")
        if not set(windows.window) <= {3, 5}:
            raise ValueError(
                f"algorithm={algorithm!r} needs a window of 3 or 5 in each dimension, got {windows.window}"
            )
    if algorithm == "toeplitz":
        check_matrix_size(f"algorithm={algorithm!r}", windows, in_channels, out_channels, itemsize)


def check_matrix_size(what: str, windows: Windows, in_channels: int, out_channels: int, itemsize: int) -> None:
    """Refuse an explicit matrix of more than 256 MiB."""
    rows, columns = math.prod(windows.output) * out_channels, math.prod(windows.sizes) * in_channels
    size = rows * columns * itemsize / 2**20
    if size > 256:
        raise ValueError(f"{what} makes a matrix of {rows} x {columns}, {size:.0f} MiB, and is refused above 256 MiB")
