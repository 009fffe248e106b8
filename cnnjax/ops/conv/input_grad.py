"""The ways to compute the gradient of a convolution in its input, one function each.

    dx[n, s, c] = sum over (o, t) with o * stride + t * dilation - low = s  of  sum_f dy[n, o, f] w[t, c, f]

Each takes w (*K, C // groups, F) and dy (N, *S', F) of one float dtype and the `Windows` of the convolution, and
returns (N, *S, C) in that dtype. `cnnjax.ops.conv.choose` says which one is taken, and passes on `conv`, which
computes a convolution of stride 1 in the way that it chooses.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.checks import Precision
from cnnjax.ops.conv import forward, onednn
from cnnjax.ops.conv.chunks import map_over_images
from cnnjax.ops.conv.forward import (
    PATCHES_BYTES,
    blocked_image_bytes,
    direct,
    im2col_width_blocked,
    lax_conv,
    whole_lax_conv,
)
from cnnjax.ops.geometry import Windows, dilated, slide
from cnnjax.ops.patches import pad_spatial

# Computes a convolution: (x, w, windows, groups, precision) -> y.
Conv = Callable[[jax.Array, jax.Array, Windows, int, Precision], jax.Array]


def lax_input_grad(w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes the transpose of XLA's convolution, on any platform."""
    return _transposed(lax_conv, w, dy, windows, groups, precision)


def whole_lax_input_grad(w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes the transpose of `whole_lax_conv`."""
    return _transposed(whole_lax_conv, w, dy, windows, groups, precision)


def _transposed(
    conv: Conv, w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision
) -> jax.Array:
    x = jax.ShapeDtypeStruct((dy.shape[0], *windows.sizes, w.shape[-2] * groups), dy.dtype)
    return jax.linear_transpose(lambda x: conv(x, w, windows, groups, precision), x)(dy)[0]


def width_blocked(
    w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision, block: int
) -> jax.Array:
    """Computes the transpose of `im2col_width_blocked`, for few channels."""
    del groups  # one

    def run(dy: jax.Array) -> jax.Array:
        x = jax.ShapeDtypeStruct((len(dy), *windows.sizes, w.shape[-2]), dy.dtype)
        return jax.linear_transpose(lambda x: im2col_width_blocked(x, w, windows, precision, block), x)(dy)[0]

    image_bytes = blocked_image_bytes(windows, w.shape[-2], block, dy.dtype.itemsize)
    return map_over_images(run, dy, PATCHES_BYTES // image_bytes)


def one_product(w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes one matrix product where there is a single window: dx is dy times the kernel, transposed."""
    features = dy.shape[-1] // groups
    dy = dy.reshape(-1, groups, features)
    w = w.reshape(-1, w.shape[-2], groups, features)
    dx = jnp.einsum("ngf,tcgf->ntgc", dy, w, precision=precision)
    dx = dx.reshape(len(dy), *windows.window, -1)
    return pad_spatial(dx, tuple((-low, -high) for low, high in windows.exact_padding))


def pointwise(
    w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision, conv: Conv
) -> jax.Array:
    """Computes the gradient for windows of one: a product, and zeros at the pixels that strides skip."""
    unit = slide(windows.output, windows.window)
    dx = full_correlation(w, dy, unit, groups, precision, conv)
    ends = [
        (-low, size - 1 - (count - 1) * stride + low, stride - 1)
        for size, count, stride, (low, _) in zip(
            windows.sizes, windows.output, windows.stride, windows.padding, strict=True
        )
    ]
    return lax.pad(dx, jnp.zeros((), dx.dtype), [(0, 0, 0), *ends, (0, 0, 0)])


def full_correlation(
    w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision, conv: Conv
) -> jax.Array:
    """Computes the full correlation of dy with the turned kernel, `conv` of stride 1.

    dx[n, s, c] = sum_t sum_f dy'[n, s + low - t * dilation, f] w[t, c, f]

    where dy' is dy (N, *S', F) with stride - 1 zeros set between its elements.
    """
    dy, full = _padded_for_full_correlation(dy, windows)
    return conv(dy, _turned(w, groups), full, groups, precision)


def by_onednn(
    w: jax.Array,
    dy: jax.Array,
    windows: Windows,
    groups: int,
    precision: Precision,
    preferred_element_type: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    """Computes `full_correlation` of one group by oneDNN, which swaps the channels' roles itself."""
    del precision
    dy, full = _padded_for_full_correlation(dy, windows)
    return onednn.conv(dy, _flipped(w), full, groups, preferred_element_type, swapped=True)


def winograd_by_onednn(w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes `full_correlation` of a wide 3x3 kernel by F(2x2, 3x3)."""
    dy, full = _padded_for_full_correlation(dy, windows)
    return forward.winograd_by_onednn(dy, _flipped(w), full, groups, precision, swapped=True)


def _padded_for_full_correlation(dy: jax.Array, windows: Windows) -> tuple[jax.Array, Windows]:
    """Returns dy, with zeros between its elements and cut where so needed, and the windows over it of stride 1."""
    gaps = [
        (extent - 1 - low, size + low - (count - 1) * stride - 1, stride - 1)
        for extent, size, stride, (low, _), count in zip(
            windows.extents, windows.sizes, windows.stride, windows.padding, windows.output, strict=True
        )
    ]
    if all(min(low, high) >= 0 and between == 0 for low, high, between in gaps):
        padding = tuple((low, high) for low, high, _ in gaps)
    else:
        # XLA ends the process on some derivatives of convolutions with strides; behind the barrier it cannot
        # merge this padding into the convolution, which stays a plain one of stride 1.
        dy = lax.optimization_barrier(lax.pad(dy, jnp.zeros((), dy.dtype), [(0, 0, 0), *gaps, (0, 0, 0)]))
        padding = ((0, 0),) * len(gaps)
    return dy, slide(dy.shape[1:-1], windows.window, dilation=windows.dilation, padding=padding)


def _flipped(w: jax.Array) -> jax.Array:
    """Flips w (*K, C, F) along its spatial axes."""
    return lax.rev(w, range(w.ndim - 2))


def _turned(w: jax.Array, groups: int) -> jax.Array:
    """Turns w (*K, C // groups, F) about its spatial axes, and swaps the channels' roles: (*K, F // groups, C)."""
    *window, per_group, features = w.shape
    w = _flipped(w)
    # F stands group by group, and so will C.
    w = w.reshape(*window, per_group, groups, features // groups)
    w = jnp.moveaxis(w, -1, -3).swapaxes(-1, -2)
    return w.reshape(*window, features // groups, groups * per_group)


def phase_by_phase(
    w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision, conv: Conv
) -> jax.Array:
    """Computes one `full_correlation` for each phase of x, with the taps that read it.

    dx[n, q stride + p, c] = sum_j sum_f dy[n, q + start - j, f] w[j stride + r, c, f],  p + low = start stride + r

    Where the stride does not divide the window, `phases_as_channels` would multiply by zeros.
    """
    stride, rank = windows.stride, len(windows.window)
    sizes = tuple(-(-size // s) for size, s in zip(windows.sizes, stride, strict=True))

    def of_phase(*phase: int) -> jax.Array:
        ends = [divmod(p + low, s) for p, (low, _), s in zip(phase, windows.padding, stride, strict=True)]
        kernel = w[tuple(slice(r, None, s) for (_, r), s in zip(ends, stride, strict=True))]
        if 0 in kernel.shape:
            return jnp.zeros((dy.shape[0], *sizes, w.shape[-2] * groups), dy.dtype)
        unit = windows._replace(
            sizes=sizes, window=kernel.shape[:rank], stride=(1,) * rank, padding=tuple((start, 0) for start, _ in ends)
        )
        return full_correlation(kernel, dy, unit, groups, precision, conv)

    def all_from(*phase: int) -> jax.Array:
        """Returns all phases that begin so, their dimensions after those of x."""
        if len(phase) == rank:
            return of_phase(*phase)
        return jnp.stack([all_from(*phase, p) for p in range(stride[len(phase)])], 2 + len(phase))

    dx = all_from()  # (N, Q1, r1, Q2, r2, ..., C)
    dx = dx.reshape(-1, *(size * s for size, s in zip(sizes, stride, strict=True)), dx.shape[-1])
    return lax.slice(dx, (0,) * dx.ndim, (dx.shape[0], *windows.sizes, dx.shape[-1]))


def phases_as_channels(
    w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision, conv: Conv
) -> jax.Array:
    """Computes one `full_correlation` with the phases of x side by side in its channels.

    dx[n, q stride + r - low, c] = sum_j sum_f dy[n, q - j, f] w[j stride + r, c, f],  r from 0 to stride - 1

    So nothing is multiplied by the zeros that strides set: each phase has its own taps of w.
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
    dx = full_correlation(w, dy, whole, groups, precision, conv)
    dx = dx.reshape(-1, *sizes, groups, *stride, per_group)
    # (N, *Q, G, *r, C) to (N, Q1, r1, Q2, r2, ..., G, C)
    pairs = [axis for dim in range(rank) for axis in (1 + dim, 2 + rank + dim)]
    dx = dx.transpose(0, *pairs, 1 + rank, 2 + 2 * rank)
    dx = dx.reshape(-1, *(size * s for size, s in zip(sizes, stride, strict=True)), groups * per_group)
    ends = [
        (-low, size + low - full)
        for size, (low, _), full in zip(windows.sizes, windows.padding, dx.shape[1:-1], strict=True)
    ]
    return pad_spatial(dx, tuple(ends))


def depthwise_phases(w: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes `phases_as_channels` tap by tap, for depthwise kernels.

    Several phases to a channel are features of its group, and oneDNN is slow where a group has one input channel.
    """
    return phases_as_channels(w, dy, windows, groups, precision, direct)
