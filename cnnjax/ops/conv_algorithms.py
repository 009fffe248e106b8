"""The ways to compute one convolution, one function each.  All give the same numbers.

Each takes x (N, *S, C) and w (*K, C // groups, F) of one float dtype and the :class:`Windows` of w over x,
whose padding is not negative, and returns (N, *S', F) in that dtype.  The door and the choice between them
are in :mod:`cnnjax.ops.conv`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.geometry import Windows, slide
from cnnjax.ops.patches import pad_spatial, taps


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
    gaps = [
        (extent - 1 - low, size + low - (count - 1) * stride - 1, stride - 1)
        for extent, size, stride, (low, _), count in zip(
            windows.extents, windows.sizes, windows.stride, windows.padding, windows.output, strict=True
        )
    ]
    # XLA ends the process on some derivatives of convolutions with strides; behind the barrier it cannot
    # merge this padding into the convolution, which stays a plain one of stride 1.
    y = lax.optimization_barrier(lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *gaps, (0, 0, 0)]))
    window = windows.window
    full = slide(y.shape[1:-1], window, dilation=windows.dilation)
    turned = lax.rev(w, range(len(window)))
    # (*K, C // groups, F) with F group by group, to (*K, F // groups, C) with C group by group
    per_group, features = w.shape[-2:]
    turned = turned.reshape(*window, per_group, groups, features // groups)
    turned = jnp.moveaxis(turned, -1, -3).swapaxes(-1, -2)
    turned = turned.reshape(*window, features // groups, groups * per_group)
    return run(y, turned, full, groups, precision)


def direct(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """The definition: over the taps of the kernel, the sum of the shifted input times the weights of the tap.

    y[n, o, f] = sum_t sum_c x[n, o * stride + t * dilation, c] w[t, c, f]
    """
    x = lax.optimization_barrier(pad_spatial(x, windows.exact_padding))
    terms = (
        _channel_product(shifted[..., None, :], w[tap][None], groups, precision) for tap, shifted in taps(x, windows)
    )
    return sum(terms, start=jnp.zeros((), x.dtype))


def im2col(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any, block: int = 1) -> jax.Array:
    """One matrix product: each row the input under one window, each column one kernel.

    y[n, o, f] = sum_(t, c) cols[n, o, (t, c)] w[(t, c), f]
    cols[n, o, (t, c)] = x[n, o * stride + t * dilation, c]

    With few channels the rows are short and the product is slow.  ``block`` = B > 1 computes B neighbours of
    the last spatial dimension in one row: x (..., W, C) is seen as (..., W / B, B C), and the kernel becomes
    a band, B copies of itself each shifted by one column, so that the same product has B times the columns.
    It needs stride and dilation 1 in that dimension, and groups 1.
    """
    x = pad_spatial(x, windows.exact_padding)
    if block == 1:
        return _patches_times_kernel(lax.optimization_barrier(x), w, windows, groups, precision)
    *sizes, width, channels = x.shape
    *_, k, _, features = w.shape
    outputs = windows.output[-1]
    out_blocks = -(-outputs // block)
    block_taps = -(-(block + k - 1) // block)
    in_blocks = out_blocks + block_taps - 1
    blank = [(0, 0, 0)] * len(sizes)
    x = lax.pad(x, jnp.zeros((), x.dtype), [*blank, (0, in_blocks * block - width, 0), (0, 0, 0)])
    # the barrier keeps XLA from computing the padding again for each of the slices
    x = lax.optimization_barrier(x.reshape(*sizes, in_blocks, block * channels))
    blocked = windows._replace(window=(*windows.window[:-1], block_taps), output=(*windows.output[:-1], out_blocks))
    y = _patches_times_kernel(x, _band(w, block, block_taps), blocked, 1, precision)
    y = y.reshape(*y.shape[:-2], out_blocks * block, features)
    return lax.slice_in_dim(y, 0, outputs, axis=y.ndim - 2)


def _band(w: jax.Array, block: int, taps: int) -> jax.Array:
    """w (..., k, C, F) as (..., taps, block * C, block * F): column o of a block sees w shifted by o."""
    *outer, k, channels, features = w.shape
    blank = [(0, 0, 0)] * len(outer)
    zero = jnp.zeros((), w.dtype)
    shifted = [lax.pad(w, zero, [*blank, (o, taps * block - k - o, 0), (0, 0, 0), (0, 0, 0)]) for o in range(block)]
    return jnp.stack(shifted, axis=-2).reshape(*outer, taps, block * channels, block * features)


def _patches_times_kernel(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    count = math.prod(windows.window)
    w = w.reshape(count, *w.shape[-2:])
    if windows.window == x.shape[1:-1]:  # one window, the whole of x: nothing to copy
        cols = x.reshape(x.shape[0], *windows.output, -1)
    else:
        cols = lax.concatenate([shifted for _, shifted in taps(x, windows)], x.ndim - 1)
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


ALGORITHMS = {"lax": lax_conv, "direct": direct, "im2col": im2col}
