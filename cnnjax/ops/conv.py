"""Convolution as neural networks use it, in one to three dimensions, and the choice of algorithm."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.ops.arguments import (
    as_float_array,
    check_conv_arrays,
    check_output_dtype,
    meets_habits,
    one_of,
    same_dtype,
)
from cnnjax.ops.conv_algorithms import ALGORITHMS, im2col
from cnnjax.ops.geometry import Windows, per_dimension, slide
from cnnjax.ops.patches import PADDING_MODES, pad_spatial


@meets_habits
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
        algorithm: ``"auto"`` (by shapes and platform), or ``"lax" | "direct" | "im2col"``: the same numbers.
        precision: as in ``jax.lax.conv_general_dilated``.
        preferred_element_type: the dtype of the output, by default that of x.

    Returns:
        (N, *S', F).  Sums are accumulated in float32, or in float64 where that is the dtype, and cast at the
        end.  Largest error over the largest output, against exact sums: float64 1e-14, float32 2e-6, float16
        1e-3, bfloat16 8e-3.  By "lax" and "direct" NaN and infinities reach the outputs that see them and no
        others; "auto" may choose a way by which they also reach up to three neighbours in the last dimension.

    Raises:
        TypeError: an argument is of the wrong kind, x is not of a float dtype, or x, w and b differ in dtype.
        ValueError: shapes disagree, or the window is larger than the padded input.  Where the sizes of
            another layout coincide with cnnjax's by chance, nothing can tell.

    >>> x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> w = jnp.arange(4.0).reshape(2, 2, 1, 1)
    >>> conv(x, w)[0, :, :, 0]
    Array([[19., 25.],
           [37., 43.]], dtype=float32)

    References:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
        Chellapilla, Puri and Simard, High performance convolutional neural networks for document processing,
        IWFHR 2006 (im2col).
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
    if 0 in x.shape:  # an empty batch; not every platform's convolution takes one
        return jnp.zeros((x.shape[0], *windows.output, w.shape[-1]), out_dtype)
    run = _chosen(x, w, windows, groups) if algorithm == "auto" else ALGORITHMS[algorithm]
    return _compute(x, w, b, run, windows, groups, precision, compute_dtype, out_dtype)


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
    windows = slide(sizes, window, stride=stride, padding=padding, dilation=dilation)
    # a window of one has no taps to set apart
    windows = windows._replace(
        dilation=tuple(1 if k == 1 else d for k, d in zip(window, windows.dilation, strict=True))
    )
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
_im2col_of_2, _im2col_of_4 = partial(im2col, block=2), partial(im2col, block=4)


def _chosen(x: jax.Array, w: jax.Array, windows: Windows, groups: int) -> Any:
    """The algorithm for "auto": XLA's own on accelerators; on the CPU what was measured to be faster."""
    if jax.default_backend() != "cpu":
        return ALGORITHMS["lax"]
    in_channels, out_channels = x.shape[-1], w.shape[-1]
    if w.shape[-2] == 1 and groups > 1:
        return ALGORITHMS["direct"]  # depthwise: XLA computes the dense kernel gradient and drops most of it
    if groups > 1:
        return ALGORITHMS["lax"]
    if math.prod(windows.window) == 1 or math.prod(windows.output) == 1:
        return ALGORITHMS["im2col"]  # a single matrix product, and nothing is copied for it
    if set(windows.stride) == set(windows.dilation) == {1} and in_channels <= 16 and out_channels <= 32:
        # XLA's convolution is slow with few channels, and many times slower inside a loop
        return _im2col_of_4 if in_channels <= 2 and out_channels <= 16 else _im2col_of_2
    return ALGORITHMS["lax"]
