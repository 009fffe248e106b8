"""The ways to compute one convolution, one function each. All give the same numbers.

Each takes x (N, *S, C) and w (*K, C // groups, F) of one float dtype and the `Windows` of w over x, and returns (N,
*S', F) in that dtype. `cnnjax.ops.conv.choose` says which one is taken.
"""

import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.checks import Precision
from cnnjax.ops.conv import onednn
from cnnjax.ops.conv.blocked import banded_kernel, width_blocked
from cnnjax.ops.conv.chunks import map_over_images
from cnnjax.ops.conv.winograd import WORD_BYTES, conv_of_tiles, transform_kernel
from cnnjax.ops.geometry import Windows, slide
from cnnjax.ops.patches import MANY_TAPS, columns, pad_spatial, taps

# Winograd's tiles of x and y at a time, in bytes: with smaller ones the loop shows, larger ones leave the cache.
WINOGRAD_FORWARD_BYTES = 14_000_000
# The patches of width-blocked images at a time, in bytes.
PATCHES_BYTES = 16_000_000


def lax_conv(
    x: jax.Array,
    w: jax.Array,
    windows: Windows,
    groups: int,
    precision: Precision,
    preferred_element_type: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    """Computes the convolution as XLA does, on any platform; what strides read of x is cut to size before."""
    if max(windows.stride) > 1:
        # Padded to the exact size beforehand, the input gradient has padding in every dimension that it
        # dilates. Without it XLA (jax 0.10 to 0.12) can take kernel 2 with stride 2 for a grouped
        # convolution, and ends the process.
        x = pad_spatial(x, windows.exact_padding)
        windows = windows._replace(padding=((0, 0),) * len(windows.padding))
    return whole_lax_conv(x, w, windows, groups, precision, preferred_element_type)


def whole_lax_conv(
    x: jax.Array,
    w: jax.Array,
    windows: Windows,
    groups: int,
    precision: Precision,
    preferred_element_type: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    """Computes the convolution as XLA does, of x as it is: nothing is copied to pad or cut it."""
    spatial = "DHW"[-len(windows.padding) :]
    return lax.conv_general_dilated(
        x,
        w,
        windows.stride,
        windows.padding,
        rhs_dilation=windows.dilation,
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


def by_onednn(
    x: jax.Array,
    w: jax.Array,
    windows: Windows,
    groups: int,
    precision: Precision,
    preferred_element_type: jax.typing.DTypeLike | None = None,
) -> jax.Array:
    """Computes the convolution by oneDNN, which sums in float32 whatever the precision."""
    del precision
    return onednn.conv(x, w, windows, groups, preferred_element_type)


def winograd_by_onednn(
    x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision, *, swapped: bool = False
) -> jax.Array:
    """Computes a wide 3x3 convolution by F(2x2, 3x3), whose products run through oneDNN.

    Where the kernel is `swapped`, w is (*K, F, C), and transposed by oneDNN.
    """
    del precision
    product = partial(onednn.matmul, transpose_b=swapped)
    run = partial(conv_of_tiles, w=transform_kernel(w, 2), windows=windows, outputs=2, product=product)
    minimal = partial(map_over_images, run, most=WINOGRAD_FORWARD_BYTES // winograd_image_bytes(windows, *w.shape[-2:]))
    # Winograd spreads NaN and infinity to neighbouring outputs.
    direct = partial(onednn.conv, w=w, windows=windows, groups=groups, swapped=swapped)
    return lax.cond(jnp.isfinite(x).all(), minimal, direct, x)


def winograd_image_bytes(windows: Windows, channels: int, features: int) -> int:
    """Returns the bytes of one image's tiles of x and y in `winograd_by_onednn`: 16 elements for 2x2 outputs."""
    return WORD_BYTES * 16 * math.prod(-(-count // 2) for count in windows.output) * (channels + features)


def pointwise(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes a convolution of windows of one: the pixels that strides skip are dropped, and the rest is a product."""
    x = sampled(x, windows)
    unit = slide(windows.output, windows.window)
    if onednn.supports(x, w):
        return onednn.conv(x, w, unit, groups)
    return im2col(x, w, unit, groups, precision)


def sampled(x: jax.Array, windows: Windows) -> jax.Array:
    """Returns the pixels of x, padded, that windows of one read: (N, *S', C)."""
    ((_, read),) = taps(pad_spatial(x, windows.exact_padding), windows)
    return read


def direct(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Sums over the taps of the kernel the shifted input times the weights of the tap: the definition.

    y[n, o, f] = sum_t sum_c x[n, o * stride + t * dilation, c] w[t, c, f]
    """
    x = lax.optimization_barrier(pad_spatial(x, windows.exact_padding))
    if math.prod(windows.window) > MANY_TAPS:  # tap by tap it would hardly end compiling
        return patches_times_kernel(x, w, windows, groups, precision)
    terms = (
        _channel_product(shifted[..., None, :], w[tap][None], groups, precision) for tap, shifted in taps(x, windows)
    )
    return functools.reduce(jnp.add, terms)


def im2col(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes one matrix product: each row is the input under one window, each column one kernel.

    y[n, o, f] = sum_(t, c) cols[n, o, (t, c)] w[(t, c), f]
    cols[n, o, (t, c)] = x[n, o * stride + t * dilation, c]
    """
    x = lax.optimization_barrier(pad_spatial(x, windows.exact_padding))
    return patches_times_kernel(x, w, windows, groups, precision)


def im2col_width_blocked(x: jax.Array, w: jax.Array, windows: Windows, precision: Precision, block: int) -> jax.Array:
    """Computes `im2col` for few channels, with `block` neighbours of a row at a time."""
    x, blocked = width_blocked(x, windows, block)
    y = patches_times_kernel(x, banded_kernel(w, windows, block), blocked, 1, precision)
    y = y.reshape(*y.shape[:-2], blocked.output[-1] * block, w.shape[-1])
    return lax.slice_in_dim(y, 0, windows.output[-1], axis=y.ndim - 2)


def blocked_image_bytes(windows: Windows, channels: int, block: int, itemsize: int) -> int:
    """Returns the bytes of the patches of one image in `im2col_width_blocked`."""
    *outer, width = windows.output
    taps_of_block = -(-(block + windows.window[-1] - 1) // block)
    row = -(-width // block) * taps_of_block * block * channels
    return itemsize * math.prod(outer) * math.prod(windows.window[:-1]) * row


def finite_width_blocked(
    x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision, block: int
) -> jax.Array:
    """Computes `im2col_width_blocked` where all of x is finite, else `lax_conv`.

    The zeros of the banded kernel would make NaN of an infinity or NaN that an output does not see.
    """
    images = PATCHES_BYTES // blocked_image_bytes(windows, x.shape[-1], block, x.dtype.itemsize)

    def blocked(x: jax.Array, w: jax.Array) -> jax.Array:
        return map_over_images(lambda x: im2col_width_blocked(x, w, windows, precision, block), x, images)

    plain = partial(lax_conv, windows=windows, groups=groups, precision=precision)
    return lax.cond(jnp.isfinite(x).all(), blocked, plain, x, w)


def patches_times_kernel(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Multiplies what each window reads of the padded x with the kernel."""
    count = math.prod(windows.window)
    w = w.reshape(count, *w.shape[-2:])
    # One window, the whole of x: nothing to copy.
    whole = windows.window == x.shape[1:-1]
    cols = x.reshape(x.shape[0], *windows.output, -1) if whole else columns(x, windows)
    if groups > 1:
        return _channel_product(cols.reshape(*cols.shape[:-1], count, -1), w, groups, precision)
    return jnp.matmul(cols, w.reshape(-1, w.shape[-1]), precision=precision)


def _channel_product(x: jax.Array, w: jax.Array, groups: int, precision: Precision) -> jax.Array:
    """Multiplies x (..., T, C) with w (T, C // groups, F), summed over the taps and within groups over the channels."""
    count, per_group, features = w.shape
    x = x.reshape(*x.shape[:-1], groups, per_group)
    w = w.reshape(count, per_group, groups, features // groups)
    if per_group == 1:  # depthwise: no sum over channels, so no matrix product
        kernels = jnp.expand_dims(w[:, 0], tuple(range(x.ndim - 3)))
        y = (x * kernels).sum(-3)
    elif groups == 1:
        y = jnp.einsum("...tc,tcf->...f", x[..., 0, :], w[:, :, 0], precision=precision)
    else:
        y = jnp.einsum("...tgc,tcgf->...gf", x, w, precision=precision)
    return y.reshape(*x.shape[:-3], features)


def fft(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes a product of spectra, the kernel's conjugated: the convolution theorem for correlation.

    y = F^-1[ sum_c F[x]_c conj(F[w]_c) ], of which each stride-th element is kept

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
