"""Convolution as neural networks use it, in one to three dimensions, and its adjoint."""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.checks import (
    DType,
    Precision,
    as_float_array,
    as_precision,
    check_conv_arrays,
    check_output_dtype,
    check_transposed_arrays,
    one_of,
    same_dtype,
)
from cnnjax.ops.conv import primitive
from cnnjax.ops.conv.choose import ALGORITHM_NAMES, ALGORITHMS, check_algorithm
from cnnjax.ops.geometry import (
    Ints,
    Padding,
    Windows,
    dilated,
    per_dimension,
    positive_sizes,
    resolve_padding,
    slide,
)
from cnnjax.ops.patches import PADDING_MODES, pad_spatial
from cnnjax.ops.promotion import accumulator_dtype, with_axes_of
from cnnjax.ops.public import public_op


@public_op
def conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    dilation: Ints = 1,
    input_dilation: Ints = 1,
    groups: int = 1,
    algorithm: str = "auto",
    precision: Precision = None,
    preferred_element_type: DType | None = None,
) -> jax.Array:
    """Computes the cross-correlation, what every framework calls convolution.

    With x padded, output channel f in group g, and c over the channels of that group:

        y[n, o, f] = b[f] + sum_t sum_c x[n, o * stride + t * dilation, c] w[t, c, f]

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions S, exactly one batch axis.
      w: `(*K, C // groups, F)`, of the same dtype and number of axes.
      b: `(F,)` or None.
      stride: an int, or one int per spatial dimension.
      padding: one entry per spatial dimension, each an int or a `(low, high)` pair (negative crops), or one int for
        all, or `"VALID"` (none), `"SAME"` (ceil(S / stride) outputs, the odd pixel high), `"SAME_LOWER"` (the odd
        pixel low), `"FULL"` (dilation (k - 1) on both sides), `"CAUSAL"` (that on the low side, one dimension only).
      padding_mode: `"zeros" | "reflect" | "replicate" | "circular"`, what the padding holds.
      dilation: distance between the taps of the kernel, an int or one per spatial dimension.
      input_dilation: distance between the elements of x, zeros set between them before padding; with other values
        than 1 padding_mode must be "zeros", and "SAME" speaks of the dilated size.
      groups: divides C and F; output channels see the input channels of their own group only.
      algorithm: `"auto"` (by shapes and platform), or one by name, all of the same numbers: `"lax"` (XLA's own),
        `"direct"` (the definition), `"im2col"` (one matrix product), `"fft"` (products of spectra), `"winograd"` and
        `"winograd4"` (minimal filtering with 2 and 4 outputs to a tile; windows of 3 and 5, stride and dilation 1),
        `"toeplitz"` (one explicit matrix, up to 256 MiB).
      precision: as in `jax.lax.conv_general_dilated`; None follows `jax.default_matmul_precision`.
      preferred_element_type: the dtype of the output, by default that of x.

    Returns:
      `(N, *S', F)`. Sums are accumulated in float32, or in float64 where that is the dtype, and cast at the end.
      Largest error over the largest output, against exact sums: float64 1e-14, float32 3e-6, float16 1e-3, bfloat16
      8e-3; "winograd4", and "winograd" with a window of 5, lose up to a factor of 20 in float32 and float64. On the
      CPU "auto" takes minimal filtering for the gradient of wide float32 kernels, unless a precision is given: up to
      5e-6 (3x3) and 2e-5 (5x5). NaN and infinities of x reach the outputs that see them and no others, but by "fft",
      "winograd" and "toeplitz" they spread; in a cotangent they may reach up to three neighbours by "auto".

    Raises:
      TypeError: an argument is of the wrong kind, x is not of a float dtype, or x, w and b differ in dtype.
      ValueError: shapes disagree, the window is larger than the padded input, or the algorithm named does not take
        the arguments. Where the sizes of another layout coincide with cnnjax's by chance, nothing can tell.

    Example:
      >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
      >>> w = jnp.arange(4.0).reshape(2, 2, 1, 1)
      >>> conv(x, w)[0, :, :, 0]
      Array([[19., 25.],
             [37., 43.]], dtype=float32)

    References:
      Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
      Chellapilla, Puri and Simard, High performance convolutional neural networks for document processing, IWFHR 2006
      (im2col).
      Mathieu, Henaff and LeCun, Fast training of convolutional networks through FFTs, arXiv:1312.5851.
      Lavin and Gray, Fast algorithms for convolutional neural networks, arXiv:1509.09308 (Winograd).
    """
    x, w = as_float_array("x", x), as_float_array("w", w)
    b = None if b is None else as_float_array("b", b)
    same_dtype(x=x, w=w, b=b)
    groups = check_conv_arrays(x, w, b, groups)
    check_output_dtype(preferred_element_type)
    one_of("padding_mode", padding_mode, PADDING_MODES)
    one_of("algorithm", algorithm, ALGORITHM_NAMES)
    precision = as_precision(precision)
    x, windows = _pad(x, w.shape[:-2], stride, padding, padding_mode, dilation, input_dilation)

    out_dtype = jnp.dtype(x.dtype if preferred_element_type is None else preferred_element_type)
    wide = accumulator_dtype(x.dtype, out_dtype)
    if algorithm in ALGORITHMS:
        check_algorithm(algorithm, windows, x.shape[-1], w.shape[-1], wide.itemsize)
    if 0 in x.shape:  # an empty batch; not every platform's convolution takes one
        return jnp.zeros((x.shape[0], *windows.output, w.shape[-1]), out_dtype)
    if algorithm in ALGORITHMS:
        return _by_name(x, w, b, algorithm, windows, groups, precision, wide, out_dtype)
    # A bias is added before the result is cast; accelerators may cast halves before as well.
    dtype, narrow = (out_dtype, False) if b is None else (wide, out_dtype == x.dtype)
    y = primitive.conv(x, w, windows, groups, precision, dtype=dtype, narrow=narrow, plain=algorithm == "lax")
    return add_bias(y, b, out_dtype)


@public_op
def conv_transpose(
    y: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    output_padding: Ints = 0,
    output_shape: Sequence[int] | None = None,
    dilation: Ints = 1,
    groups: int = 1,
    precision: Precision = None,
) -> jax.Array:
    """Computes the adjoint of `conv` in x, with the same w: each output is spread where conv reads it from.

        x[n, s, c] = b[c] + sum over (o, t) with o * stride + t * dilation - low = s  of  sum_f y[n, o, f] w[t, c, f]

    so that <conv(x, w), y> = <x, conv_transpose(y, w)>. The spatial sizes are

        S = (S' - 1) stride - low - high + dilation (k - 1) + 1 + output_padding

    Args:
      y: `(N, *S', F)`, one to three spatial dimensions.
      w: `(*K, C // groups, F)`, the kernel of that conv: F is y's channels, C the result's.
      b: `(C,)` or None.
      stride: that of that conv.
      padding: that of that conv. With "SAME" and "SAME_LOWER" S is S' stride, or output_shape, and the padding is
        what conv has for that S.
      output_padding: an int, or one per spatial dimension, from 0 to below max(stride, dilation): how much further S
        reaches on the high side, as strides let several S give one S'. From the stride upwards that conv has more
        outputs than S', and this is the adjoint of the first S'.
      output_shape: S, one int per spatial dimension, in place of output_padding. That conv must give S' of it.
      dilation: that of that conv.
      groups: those of that conv.
      precision: as in `jax.lax.conv_general_dilated`; None follows `jax.default_matmul_precision`.

    Returns:
      `(N, *S, C)`. Sums are accumulated in float32 or better.

    Raises:
      TypeError: an argument is of the wrong kind, y is not of a float dtype, or y, w and b differ in dtype.
      ValueError: shapes disagree, nothing is left within the padding, output_padding is out of its range, or stands
        beside output_shape or "SAME", or the conv of output_shape does not give S'.

    Example:
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
    groups = check_transposed_arrays(y, w, b, groups)
    precision = as_precision(precision)
    windows = _windows_onto(y.shape[1:-1], w.shape[:-2], stride, padding, dilation, output_padding, output_shape)
    if 0 in y.shape:
        return jnp.zeros((0, *windows.sizes, w.shape[-2] * groups), y.dtype)
    dtype = y.dtype if b is None else accumulator_dtype(y.dtype)
    x = primitive.conv_input_grad(y, w, windows, groups, precision, dtype=dtype, narrow=b is not None)
    return add_bias(x, b, y.dtype)


def add_bias(y: jax.Array, b: jax.Array | None, dtype: Any) -> jax.Array:
    """Adds b (F,), or (*S', F), or nothing, to y (N, *S', F) in the dtype of y, and casts.

    Accelerators cast first: their libraries add a bias of the result's dtype within the convolution, in float32.
    """
    if b is None:
        return y.astype(dtype)

    def add(y: jax.Array, b: jax.Array, within: Any) -> jax.Array:
        y, b = y.astype(within), b.astype(within)
        return (y + with_axes_of(y, b)).astype(dtype)

    if y.dtype == dtype:
        return add(y, b, dtype)
    return lax.platform_dependent(y, b, cpu=partial(add, within=y.dtype), default=partial(add, within=dtype))


@partial(jax.jit, static_argnames=("algorithm", "windows", "groups", "precision", "wide", "dtype"))
def _by_name(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    algorithm: str,
    windows: Windows,
    groups: int,
    precision: Precision,
    wide: Any,
    dtype: Any,
) -> jax.Array:
    y = ALGORITHMS[algorithm](x.astype(wide), w.astype(wide), windows, groups, precision)
    return add_bias(y, b, dtype)


def _pad(
    x: jax.Array,
    window: tuple[int, ...],
    stride: Ints,
    padding: Padding,
    padding_mode: str,
    dilation: Ints,
    input_dilation: Ints,
) -> tuple[jax.Array, Windows]:
    """Does all but the zero padding of x, and places the windows over it, whose padding is then not negative."""
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
    """Sets the dilation of windows of one to 1: they have no taps to set apart."""
    pairs = zip(windows.window, windows.dilation, strict=True)
    return windows._replace(dilation=tuple(1 if k == 1 else d for k, d in pairs))


def _windows_onto(
    output: tuple[int, ...],
    window: tuple[int, ...],
    stride: Ints,
    padding: Padding,
    dilation: Ints,
    output_padding: Ints,
    output_shape: Sequence[int] | None,
) -> Windows:
    """Places the windows of the convolution that gives `output`, and whose input is what conv_transpose gives."""
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
