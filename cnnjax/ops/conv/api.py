"""Convolution as neural networks use it, in one to three dimensions, and the choice of algorithm."""

import math
import operator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.ops.checks import (
    as_float_array,
    check_conv_arrays,
    check_output_dtype,
    check_transposed_arrays,
    one_of,
    same_dtype,
)
from cnnjax.ops.conv import onednn
from cnnjax.ops.conv.forward import (
    ALGORITHMS,
    check_matrix_size,
    check_serves,
    explicit_matrix,
    im2col_if_finite,
)
from cnnjax.ops.conv.primitive import conv_by_platform, transposed_by_platform
from cnnjax.ops.geometry import Windows, dilated, per_dimension, positive_sizes, resolve_padding, slide
from cnnjax.ops.patches import MANY_TAPS, PADDING_MODES, pad_spatial
from cnnjax.ops.public import public_op


@public_op
def conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = "VALID",
    padding_mode: str = "zeros",
    dilation: Any = 1,
    input_dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Cross-correlation, what every framework calls convolution.

    With x padded, output channel f in group g, and c over the channels of that group:

        y[n, o, f] = b[f] + sum_t sum_c x[n, o * stride + t * dilation, c] w[t, c, f]

    Args:
        x: (N, *S, C), one to three spatial dimensions S, exactly one batch axis.
        w: (*K, C // groups, F), of the same dtype and number of axes.
        b: (F,) or None.
        stride: an int, or one int per spatial dimension.
        padding: one entry per spatial dimension, each an int or a ``(low, high)`` pair (negative crops), or
            one int for all, or ``"VALID"`` (none), ``"SAME"`` (ceil(S / stride) outputs, the odd pixel high),
            ``"SAME_LOWER"`` (the odd pixel low), ``"FULL"`` (dilation (k - 1) on both sides), ``"CAUSAL"``
            (that on the low side, one dimension only).
        padding_mode: ``"zeros" | "reflect" | "replicate" | "circular"``, what the padding holds.
        dilation: distance between the taps of the kernel, an int or one per spatial dimension.
        input_dilation: distance between the elements of x, zeros set between them before padding; with other
            values than 1 padding_mode must be "zeros", and "SAME" speaks of the dilated size.
        groups: divides C and F; output channels see the input channels of their own group only.
        algorithm: ``"auto"`` (by shapes and platform), or one by name, all of the same numbers: ``"lax"``
            (XLA's own), ``"direct"`` (the definition), ``"im2col"`` (one matrix product), ``"fft"`` (products
            of spectra), ``"winograd"`` and ``"winograd4"`` (minimal filtering with 2 and 4 outputs to a tile;
            windows of 3 and 5, stride and dilation 1), ``"toeplitz"`` (one explicit matrix, up to 256 MiB).
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: the dtype of the output, by default that of x.

    Returns:
        (N, *S', F).  Sums are accumulated in float32, or in float64 where that is the dtype, and cast at the
        end.  Largest error over the largest output, against exact sums: float64 1e-14, float32 3e-6, float16
        1e-3, bfloat16 8e-3; "winograd4", and "winograd" with a window of 5, lose up to a factor of 20 in
        float32 and float64.  On the CPU "auto" takes minimal filtering for the gradient of wide float32 kernels,
        unless a precision is given: up to 5e-6 (3x3) and 2e-5 (5x5).  NaN and infinities of x reach the outputs
        that see them and no others, but by "fft", "winograd" and "toeplitz" they spread; in a cotangent they may
        reach up to three neighbours by "auto".

    Raises:
        TypeError: an argument is of the wrong kind, x is not of a float dtype, or x, w and b differ in dtype.
        ValueError: shapes disagree, the window is larger than the padded input, or the algorithm named
            cannot serve the arguments.  Where the sizes of another layout coincide with cnnjax's by chance,
            nothing can tell.

    >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> w = jnp.arange(4.0).reshape(2, 2, 1, 1)
    >>> conv(x, w)[0, :, :, 0]
    Array([[19., 25.],
           [37., 43.]], dtype=float32)

    References:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
        Chellapilla, Puri and Simard, High performance convolutional neural networks for document processing,
        IWFHR 2006 (im2col).
        Mathieu, Henaff and LeCun, Fast training of convolutional networks through FFTs, arXiv:1312.5851.
        Lavin and Gray, Fast algorithms for convolutional neural networks, arXiv:1509.09308 (Winograd).
    """
    x, w = as_float_array("x", x), as_float_array("w", w)
    b = None if b is None else as_float_array("b", b)
    same_dtype(x=x, w=w, b=b)
    check_conv_arrays(x, w, b, groups)
    check_output_dtype(preferred_element_type)
    one_of("padding_mode", padding_mode, PADDING_MODES)
    one_of("algorithm", algorithm, ("auto", *ALGORITHMS))
    precision = _checked_precision(precision)
    x, windows = _place(x, w.shape[:-2], stride, padding, padding_mode, dilation, input_dilation)

    out_dtype = x.dtype if preferred_element_type is None else jnp.dtype(preferred_element_type)
    compute_dtype = _compute_dtype(x.dtype, out_dtype)
    if algorithm != "auto":
        check_serves(algorithm, windows, x.shape[-1], w.shape[-1], compute_dtype.itemsize)
    if 0 in x.shape:  # an empty batch; not every platform's convolution takes one
        return jnp.zeros((x.shape[0], *windows.output, w.shape[-1]), out_dtype)
    run = _chosen(x, w, windows, groups) if algorithm == "auto" else ALGORITHMS[algorithm]
    return _compute(x, w, b, run, windows, groups, precision, compute_dtype, out_dtype)


@public_op
def true_conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = "VALID",
    padding_mode: str = "zeros",
    dilation: Any = 1,
    input_dilation: Any = 1,
    groups: int = 1,
    algorithm: str = "auto",
    precision: Any = None,
    preferred_element_type: Any = None,
) -> jax.Array:
    """Convolution as mathematics has it: :func:`conv` with the kernel turned about all its axes.

        y[n, o, f] = b[f] + sum_t sum_c x[n, o * stride + (k - 1 - t) * dilation, c] w[t, c, f]

    With padding "FULL" y[s] is the sum of x[s - t] w[t]: it commutes, and polynomials multiply by it.

    Args:
        x: (N, *S, C).
        w: (*K, C // groups, F).
        b: (F,) or None.
        stride, padding, padding_mode, dilation, input_dilation, groups, algorithm, precision,
            preferred_element_type: as for :func:`conv`.  ``scipy.signal.convolve``'s modes "full", "valid"
            and "same" are the paddings "FULL", "VALID" and "SAME_LOWER".

    Returns:
        (N, *S', F).

    Raises:
        TypeError, ValueError: as for :func:`conv`.

    >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
    >>> true_conv(x, jnp.array([3.0, 4.0]).reshape(2, 1, 1), padding="FULL").ravel()  # (1 + 2z) (3 + 4z)
    Array([ 3., 10.,  8.], dtype=float32)

    References:
        Goodfellow, Bengio and Courville, Deep Learning, MIT Press 2016, section 9.1.
    """
    w = as_float_array("w", w)
    return conv(
        x,
        jnp.flip(w, range(max(w.ndim - 2, 0))),
        b,
        stride=stride,
        padding=padding,
        padding_mode=padding_mode,
        dilation=dilation,
        input_dilation=input_dilation,
        groups=groups,
        algorithm=algorithm,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


@public_op
def depthwise_conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = "VALID",
    padding_mode: str = "zeros",
    dilation: Any = 1,
) -> jax.Array:
    """M kernels for each channel by itself, and no sum over channels.

        y[n, o, c M + m] = b[c M + m] + sum_t x[n, o * stride + t * dilation, c] w[t, c, m]

    Args:
        x: (N, *S, C).
        w: (*K, C, M), of the same dtype and number of axes.
        b: (C M,) or None.
        stride, padding, padding_mode, dilation: as for :func:`conv`.

    Returns:
        (N, *S', C M).

    Raises:
        TypeError, ValueError: as for :func:`conv`.

    >>> x = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> depthwise_conv(x, jnp.array([[[1.0, 10.0], [1.0, 10.0]]]))[0]
    Array([[ 1., 10.,  2., 20.],
           [ 3., 30.,  4., 40.]], dtype=float32)

    References:
        Sifre, Rigid-motion scattering for image classification, PhD thesis, 2014.
        Howard et al., MobileNets, arXiv:1704.04861.
    """
    x, w = as_float_array("x", x), as_float_array("w", w)
    same_dtype(x=x, w=w)
    _check_depthwise_kernel("w", x, w)
    channels, multiplier = w.shape[-2:]
    w = w.reshape(*w.shape[:-2], 1, channels * multiplier)
    return conv(x, w, b, stride=stride, padding=padding, padding_mode=padding_mode, dilation=dilation, groups=channels)


@public_op
def separable_conv(
    x: jax.Array,
    w_depth: jax.Array,
    w_point: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = "VALID",
    padding_mode: str = "zeros",
    dilation: Any = 1,
) -> jax.Array:
    """A :func:`depthwise_conv`, and a product over its channels at each place.

        y[n, o, f] = b[f] + sum_c sum_m (sum_t x[n, o * stride + t * dilation, c] w_depth[t, c, m]) w_point[c M + m, f]

    Args:
        x: (N, *S, C).
        w_depth: (*K, C, M), of the same dtype and number of axes.
        w_point: (C M, F), or (1, ..., 1, C M, F) with as many axes as x.
        b: (F,) or None.
        stride, padding, padding_mode, dilation: those of the depthwise convolution, as for :func:`conv`.

    Returns:
        (N, *S', F).

    Raises:
        TypeError, ValueError: as for :func:`conv`.

    >>> x = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
    >>> separable_conv(x, jnp.ones((2, 2, 1)), jnp.array([[1.0], [10.0]]))
    Array([[[64.]]], dtype=float32)

    References:
        Chollet, Xception: deep learning with depthwise separable convolutions, CVPR 2017.
    """
    x, w_depth, w_point = (
        as_float_array(name, value) for name, value in (("x", x), ("w_depth", w_depth), ("w_point", w_point))
    )
    b = None if b is None else as_float_array("b", b)
    same_dtype(x=x, w_depth=w_depth, w_point=w_point, b=b)
    _check_depthwise_kernel("w_depth", x, w_depth)
    ones, middle = (1,) * (x.ndim - 2), w_depth.shape[-2] * w_depth.shape[-1]
    if w_point.shape[:-1] not in ((middle,), (*ones, middle)) or not w_point.shape[-1]:
        raise ValueError(
            f"w_point must be (C M, F) or {(*ones, 'C M', 'F')}, C M = {middle} of w_depth {w_depth.shape}, "
            f"got shape {w_point.shape}".replace("'", "")
        )
    # what lies between the two is kept in float32 or better
    dtype, wide = x.dtype, jnp.promote_types(x.dtype, jnp.float32)
    y = conv(
        x,
        w_depth.reshape(*w_depth.shape[:-2], 1, middle),
        stride=stride,
        padding=padding,
        padding_mode=padding_mode,
        dilation=dilation,
        groups=x.shape[-1],
        preferred_element_type=wide,
    )
    w_point = w_point.reshape(*ones, *w_point.shape[-2:]).astype(wide)
    return conv(y, w_point, None if b is None else b.astype(wide), preferred_element_type=dtype)


def _check_depthwise_kernel(name: str, x: jax.Array, w: jax.Array) -> None:
    if w.ndim not in (3, 4, 5) or x.ndim != w.ndim or x.shape[-1] != w.shape[-2] or 0 in w.shape:
        raise ValueError(
            f"{name} must be (*K, C, M) and x (N, *S, C), of the same number of axes and channels C, with one "
            f"to three spatial dimensions and no empty axis but x's batch, got x {x.shape}, {name} {w.shape}"
        )


@public_op
def toeplitz_matrix(
    w: jax.Array,
    spatial_shape: Any,
    *,
    stride: Any = 1,
    padding: Any = "VALID",
    dilation: Any = 1,
    groups: int = 1,
) -> jax.Array:
    """A convolution as one explicit matrix: vec(conv(x, w)) = M vec(x), vec row-major over (*S, C).

        M[(o, f), (s, c)] = w[t, c, f] where s = o * stride + t * dilation - low for a tap t, and else 0

    In one dimension with one channel and stride 1 it is a Toeplitz matrix: constant along its diagonals.

    Args:
        w: (*K, C // groups, F).
        spatial_shape: S, one int per spatial dimension.
        stride, padding, dilation, groups: as for :func:`conv`.

    Returns:
        (prod(S') F, prod(S) C), of w's dtype.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: shapes disagree, or the matrix is larger than 256 MiB.

    >>> toeplitz_matrix(jnp.array([1.0, 10.0]).reshape(2, 1, 1), (3,))
    Array([[ 1., 10.,  0.],
           [ 0.,  1., 10.]], dtype=float32)

    References:
        Sedghi, Gupta and Long, The singular values of convolutional layers, ICLR 2019.
    """
    w = as_float_array("w", w)
    sizes = positive_sizes("spatial_shape", spatial_shape)
    if len(sizes) != w.ndim - 2:
        raise ValueError(f"spatial_shape must have one size per spatial dimension of w {w.shape}, got {sizes}")
    channels = w.shape[-2] * (groups if isinstance(groups, int) else 1)
    check_conv_arrays(jax.ShapeDtypeStruct((1, *sizes, channels), w.dtype), w, None, groups)
    windows = slide(sizes, w.shape[:-2], stride=stride, padding=padding, dilation=dilation)
    check_matrix_size("toeplitz_matrix", windows, channels, w.shape[-1], w.dtype.itemsize)
    # its gradient sums over places, so in float32 or better
    return explicit_matrix(w.astype(jnp.promote_types(w.dtype, jnp.float32)), windows, groups).astype(w.dtype)


@public_op
def conv_transpose(
    y: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Any = 1,
    padding: Any = "VALID",
    output_padding: Any = 0,
    output_shape: Any = None,
    dilation: Any = 1,
    groups: int = 1,
    precision: Any = None,
) -> jax.Array:
    """The adjoint of :func:`conv` in x, with the same w: each output is spread where conv reads it from.

        x[n, s, c] = b[c] + sum over (o, t) with o * stride + t * dilation - low = s  of  sum_f y[n, o, f] w[t, c, f]

    so that <conv(x, w), y> = <x, conv_transpose(y, w)>.  The spatial sizes are

        S = (S' - 1) stride - low - high + dilation (k - 1) + 1 + output_padding

    Args:
        y: (N, *S', F), one to three spatial dimensions.
        w: (*K, C // groups, F), the kernel of that conv: F is y's channels, C the result's.
        b: (C,) or None.
        stride, padding, dilation, groups: those of that conv.  With "SAME" and "SAME_LOWER" S is S' stride,
            or output_shape, and the padding is what conv has for that S.
        output_padding: an int, or one per spatial dimension, from 0 to below max(stride, dilation): how much
            further S reaches on the high side, as strides let several S give one S'.  From the stride upwards
            that conv has more outputs than S', and this is the adjoint of the first S'.
        output_shape: S, one int per spatial dimension, in place of output_padding.  That conv must give S' of it.
        precision: as in ``jax.lax.conv_general_dilated``.

    Returns:
        (N, *S, C).  Sums are accumulated in float32 or better.

    Raises:
        TypeError: an argument is of the wrong kind, y is not of a float dtype, or y, w and b differ in dtype.
        ValueError: shapes disagree, nothing is left within the padding, output_padding is out of its range,
            or stands beside output_shape or "SAME", or the conv of output_shape does not give S'.

    >>> y = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
    >>> w = jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    >>> conv_transpose(y, w, stride=2).ravel()
    Array([  1.,  10., 102.,  20., 200.], dtype=float32)

    References:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285, chapter 4.
        Zeiler et al., Deconvolutional networks, CVPR 2010.
    """
    y, w = as_float_array("y", y), as_float_array("w", w)
    b = None if b is None else as_float_array("b", b)
    same_dtype(y=y, w=w, b=b)
    check_transposed_arrays(y, w, b, groups)
    precision = _checked_precision(precision)
    windows = _windows_onto(y.shape[1:-1], w.shape[:-2], stride, padding, dilation, output_padding, output_shape)
    if 0 in y.shape:
        return jnp.zeros((0, *windows.sizes, w.shape[-2] * groups), y.dtype)
    compute_dtype = _compute_dtype(y.dtype, y.dtype)
    return _compute(y, w, b, transposed_by_platform, windows, groups, precision, compute_dtype, y.dtype)


def _windows_onto(
    output: tuple[int, ...],
    window: tuple[int, ...],
    stride: Any,
    padding: Any,
    dilation: Any,
    output_padding: Any,
    output_shape: Any,
) -> Windows:
    """The windows of the convolution that gives ``output``, and whose input is what conv_transpose gives."""
    rank = len(window)
    strides, dilations = per_dimension("stride", stride, rank), per_dimension("dilation", dilation, rank)
    further = per_dimension("output_padding", output_padding, rank, minimum=0)
    same = padding in ("SAME", "SAME_LOWER") if isinstance(padding, str) else False
    if any(further) and (same or output_shape is not None):
        beside = f"padding is {padding!r}" if same else f"output_shape is given ({output_shape!r})"
        raise ValueError(f"output_padding must be 0 where {beside}, got {output_padding!r}")
    limits = tuple(map(max, strides, dilations))
    if any(map(operator.ge, further, limits)):
        raise ValueError(f"output_padding must be below max(stride, dilation) = {limits}, got {output_padding!r}")
    if output_shape is not None:
        sizes = positive_sizes("output_shape", output_shape)
        if len(sizes) != rank:
            raise ValueError(f"output_shape must have one size per spatial dimension ({rank}), got {output_shape!r}")
    elif same:
        sizes = tuple(map(operator.mul, output, strides))
    else:
        # none of these paddings depends on the size, so any will do to read them
        pads = resolve_padding(padding, output, window, strides, dilations)
        sizes = tuple(
            (count - 1) * s - low - high + dilated(k, d) + more
            for count, s, (low, high), k, d, more in zip(output, strides, pads, window, dilations, further, strict=True)
        )
        if min(sizes) < 1:
            raise ValueError(f"padding must leave something: {pads} leaves {sizes} of y's spatial shape {output}")
        return _without_idle_dilation(Windows(sizes, window, strides, dilations, pads, output))
    windows = slide(sizes, window, stride=strides, padding=padding, dilation=dilations)
    if windows.output != output:
        raise ValueError(
            f"output_shape must be one of which conv gives y's spatial shape {output}, got {sizes}, of which "
            f"it gives {windows.output}"
        )
    return _without_idle_dilation(windows)


@partial(jax.jit, static_argnums=(3, 4, 5, 6, 7, 8))
def _compute(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    run: Any,
    windows: Windows,
    groups: int,
    precision: Any,
    compute_dtype: Any,
    out_dtype: Any,
) -> jax.Array:
    y = run(x.astype(compute_dtype), w.astype(compute_dtype), windows, groups, precision)
    if b is not None:
        sum_dtype = jnp.promote_types(compute_dtype, jnp.float32)
        y = y.astype(sum_dtype) + b.astype(sum_dtype)
    return y.astype(out_dtype)


def _place(
    x: jax.Array,
    window: tuple[int, ...],
    stride: Any,
    padding: Any,
    padding_mode: str,
    dilation: Any,
    input_dilation: Any,
) -> tuple[jax.Array, Windows]:
    """x with all but its zero padding done, and the windows over it, whose padding is not negative."""
    holes = per_dimension("input_dilation", input_dilation, len(window))
    sizes = [(size - 1) * hole + 1 for size, hole in zip(x.shape[1:-1], holes, strict=True)]
    windows = _without_idle_dilation(slide(sizes, window, stride=stride, padding=padding, dilation=dilation))
    if max(holes) > 1:
        if padding_mode != "zeros":
            raise ValueError(
                f"padding_mode must be 'zeros' where input_dilation is not 1, got {padding_mode!r} and {input_dilation}"
            )
        x = pad_spatial(x, windows.padding, holes=holes)
    elif padding_mode != "zeros":
        x = pad_spatial(x, windows.padding, mode=padding_mode)
    elif min(min(pair) for pair in windows.padding) < 0:
        crop = tuple((min(low, 0), min(high, 0)) for low, high in windows.padding)
        rest = tuple((max(low, 0), max(high, 0)) for low, high in windows.padding)
        x = pad_spatial(x, crop)
        return x, windows._replace(sizes=x.shape[1:-1], padding=rest)
    else:
        return x, windows
    return x, windows._replace(sizes=x.shape[1:-1], padding=((0, 0),) * len(window))


def _without_idle_dilation(windows: Windows) -> Windows:
    """A window of one has no taps to set apart."""
    pairs = zip(windows.window, windows.dilation, strict=True)
    return windows._replace(dilation=tuple(1 if k == 1 else d for k, d in pairs))


def _compute_dtype(dtype: Any, out_dtype: Any) -> Any:
    """The dtype to multiply and add in, so that sums are accumulated in float32 or better."""
    if dtype == out_dtype and dtype in ("bfloat16", "float16") and jax.default_backend() != "cpu":
        return dtype  # accelerators take halves and accumulate in float32 by themselves
    return jnp.promote_types(jnp.promote_types(dtype, out_dtype), jnp.float32)


def _checked_precision(precision: Any) -> Any:
    """precision, hashable, and refused if lax does not know it."""
    for part in precision if isinstance(precision, tuple | list) else (precision,):
        if part is None or isinstance(part, jax.lax.DotAlgorithmPreset):
            continue
        try:
            jax.lax.Precision(part)
        except ValueError:
            raise ValueError(
                f"precision must be None, a jax.lax.Precision or its name, or two of them, got {precision!r}"
            ) from None
    return tuple(precision) if isinstance(precision, list) else precision


# partials are equal only to themselves, so jit must meet the same two each time
_by_blocks_of_2, _by_blocks_of_4 = partial(im2col_if_finite, block=2), partial(im2col_if_finite, block=4)


def _chosen(x: jax.Array, w: jax.Array, windows: Windows, groups: int) -> Any:
    """The algorithm for "auto": XLA's own on accelerators; on the CPU what was measured to be faster.

    Time over PyTorch 2.13 on 2 cores, 3x3 convolutions of 32 to 256 channels, batch 32 and 128, forward / forward and
    backward: by platform 1.0-1.3 / 1.0-1.7, plain lax 1.3-4.8 / 1.5-5; 5x5 in two groups 1.0 / 1.1 and 4.9 / 15.
    experiments/bench.py times all.
    """
    if jax.default_backend() != "cpu":
        return ALGORITHMS["lax"]
    if math.prod(windows.output) == 1:
        return ALGORITHMS["im2col"]  # a single matrix product, and nothing is copied for it
    if onednn.serves(x, w) or groups > 1:
        return conv_by_platform
    if math.prod(windows.window) == 1:
        return ALGORITHMS["im2col"]
    in_channels, out_channels = x.shape[-1], w.shape[-1]
    products = x.shape[0] * math.prod(windows.output) * math.prod(w.shape)
    plain = set(windows.stride) == set(windows.dilation) == {1} and math.prod(windows.window) <= MANY_TAPS
    if plain and in_channels <= 16 and out_channels <= 32 and products >= 2**14:
        # XLA's convolution is slow with few channels; a small one compiles faster
        return _by_blocks_of_4 if in_channels <= 2 and out_channels <= 16 else _by_blocks_of_2
    return conv_by_platform
