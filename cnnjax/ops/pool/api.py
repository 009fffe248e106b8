"""Pooling: one number from each window of each channel, in one to three dimensions."""

import functools
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from cnnjax.ops.checks import (
    as_flag,
    as_float_array,
    as_number,
    as_number_array,
    is_local,
    pooled_rank,
)
from cnnjax.ops.geometry import Sizes, Windows, as_int, per_dimension, real_taps, require_real_taps, slide
from cnnjax.ops.patches import columns, pad_spatial, taps
from cnnjax.ops.primitives import (
    aval_like,
    define_batching_by_examples,
    define_eager_call,
    define_nan_check,
    define_taylor_rule,
)
from cnnjax.ops.public import public_op


@public_op
def max_pool(
    x: jax.Array,
    window: Any,
    *,
    stride: Any = None,
    padding: Any = "VALID",
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest element of each window.

        y[n, o, c] = max_t x[n, o * stride + t * dilation, c]

    Padding never wins: a window of nothing but -inf gives -inf, from its first real element.  NaN wins over
    all numbers.  Among equals the first in row-major order wins, and takes the whole gradient.

    Args:
        x: (N, *S, C), one to three spatial dimensions, float or integer.
        window: an int, or one int per spatial dimension (where there is one: ``(k,)``).
        stride: an int, or one per spatial dimension; None means the window.
        padding: as for :func:`cnnjax.ops.conv`.
        dilation: distance between the taps of a window, an int or one per spatial dimension.
        ceil_mode: also take a last window that reaches beyond the input, if it starts inside the input or the
            low padding; needs padding in numbers.
        return_indices: also return where the maxima are.

    Returns:
        (N, *S', C) of x's dtype; with return_indices the pair of that and the int32 indices of the winners,
        flat in the unpadded spatial plane.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: shapes disagree, a window is larger than the padded input or lies wholly in the padding.

    >>> x = jnp.array([1.0, 3.0, 2.0, 5.0, 5.0, 4.0]).reshape(1, 6, 1)
    >>> max_pool(x, (2,)).ravel()
    Array([3., 5., 5.], dtype=float32)
    >>> max_pool(x, (3,), stride=1, return_indices=True)[1].ravel()
    Array([1, 3, 3, 3], dtype=int32)

    References:
        Jarrett et al., What is the best multi-stage architecture for object recognition?, ICCV 2009.
    """
    x = as_number_array("x", x)
    windows = slide_pool(x, window, stride, padding, dilation, ceil_mode)
    return _max_pool(x, windows, as_flag("return_indices", return_indices))


@public_op
def min_pool(
    x: jax.Array,
    window: Any,
    *,
    stride: Any = None,
    padding: Any = "VALID",
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The smallest element of each window: :func:`max_pool` upside down, with the same arguments and rules.

        y[n, o, c] = min_t x[n, o * stride + t * dilation, c]

    Args:
        x: (N, *S, C), float or integer.
        window, stride, padding, dilation, ceil_mode, return_indices: as for :func:`max_pool`.

    Returns:
        (N, *S', C) of x's dtype; with return_indices also the int32 indices of the winners.

    Raises:
        TypeError, ValueError: as for :func:`max_pool`.

    >>> min_pool(jnp.array([1.0, 3.0, 2.0, 5.0]).reshape(1, 4, 1), (2,)).ravel()
    Array([1., 2.], dtype=float32)
    """
    x = as_number_array("x", x)
    windows = slide_pool(x, window, stride, padding, dilation, ceil_mode)
    # ~ turns the order of integers round without the overflow that - has
    turn = jnp.negative if jnp.issubdtype(x.dtype, jnp.floating) else jnp.invert
    result = _max_pool(turn(x), windows, as_flag("return_indices", return_indices))
    return (turn(result[0]), result[1]) if return_indices else turn(result)


@public_op
def avg_pool(
    x: jax.Array,
    window: Any,
    *,
    stride: Any = None,
    padding: Any = "VALID",
    dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    divisor_override: int | None = None,
) -> jax.Array:
    """The mean of each window.

        y[n, o, c] = (1 / count_o) sum_t x[n, o * stride + t * dilation, c]

    Args:
        x: (N, *S, C), one to three spatial dimensions.
        window, stride, padding, dilation, ceil_mode: as for :func:`max_pool`.
        count_include_pad: count_o counts the padding too (what ceil_mode reaches beyond it never counts);
            by default only elements of x.
        divisor_override: an int to divide by instead of count_o.

    Returns:
        (N, *S', C) of x's dtype; the sum is accumulated in float32, or in float64 where that is the dtype.

    Raises:
        TypeError: an argument is of the wrong kind, or x is not of a float dtype.
        ValueError: shapes disagree, a window is larger than the padded input or lies wholly in the padding.

    >>> avg_pool(jnp.array([1.0, 3.0, 2.0, 6.0]).reshape(1, 4, 1), (2,)).ravel()
    Array([2., 4.], dtype=float32)

    References:
        LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998.
    """
    x = as_float_array("x", x)
    windows = slide_pool(x, window, stride, padding, dilation, ceil_mode)
    if not as_flag("count_include_pad", count_include_pad) and divisor_override is None:
        count = _counts(windows, padded=False)
    elif divisor_override is None:
        count = _counts(windows, padded=True)
    else:
        count = np.asarray(as_int("divisor_override", divisor_override))
        if count == 0:
            raise ValueError("divisor_override must not be 0")
    compute_dtype = jnp.promote_types(x.dtype, jnp.float32)
    sums = sum_of_windows(x.astype(compute_dtype), windows)
    return (sums / jnp.asarray(count, compute_dtype)).astype(x.dtype)


@public_op
def lp_pool(
    x: jax.Array,
    window: Any,
    *,
    p: float = 2.0,
    stride: Any = None,
    padding: Any = "VALID",
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """The Lp norm of each window: the sum of magnitudes at p = 1, the largest at p = inf.

        y[n, o, c] = (sum_t |x[n, o * stride + t * dilation, c]|^p)^(1/p)

    The gradient of an all-zero window is 0.  Except at p = 2, no power overflows: each window is scaled by its
    largest magnitude first.

    Args:
        x: (N, *S, C), one to three spatial dimensions.
        window, stride, padding, dilation, ceil_mode: as for :func:`max_pool`; padding counts as zero.
        p: a number above 0, or ``float("inf")``.

    Returns:
        (N, *S', C) of x's dtype; the sum is accumulated in float32, or in float64 where that is the dtype.
        PyTorch's lp_pool leaves out the absolute value, and scales up the windows that ceil_mode cuts short.

    Raises:
        TypeError: an argument is of the wrong kind, or x is not of a float dtype.
        ValueError: p is not above 0, shapes disagree, a window is larger than the padded input or lies wholly
            in the padding.

    >>> lp_pool(jnp.array([3.0, -4.0, 0.0, 2.0]).reshape(1, 4, 1), (2,)).ravel()
    Array([5., 2.], dtype=float32)

    References:
        Sermanet, Chintala and LeCun, Convolutional neural networks applied to house numbers digit
        classification, ICPR 2012, arXiv:1204.3968.
    """
    x = as_float_array("x", x)
    p = as_number("p", p)
    if not p > 0:
        raise ValueError(f"p must be above 0, got {p}")
    windows = slide_pool(x, window, stride, padding, dilation, ceil_mode)
    # not abs, whose derivative at 0 is 1
    magnitude = x * lax.stop_gradient(jnp.sign(x))
    if p == math.inf:
        return _max_pool(magnitude, windows, return_indices=False)
    compute_dtype = jnp.promote_types(x.dtype, jnp.float32)
    if p == 1:
        y = sum_of_windows(magnitude.astype(compute_dtype), windows)
    elif p == 2:
        y = _power(sum_of_windows(jnp.square(x.astype(compute_dtype)), windows), 0.5)
    else:
        y = _norm(elements(magnitude.astype(compute_dtype), windows), p)
    return y.astype(x.dtype)


@public_op
def pool(
    x: jax.Array,
    window: Any,
    reduce: Callable[..., jax.Array],
    *,
    stride: Any = None,
    padding: Any = "VALID",
    pad_value: Any = None,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Pooling by a function of your own: it sees each window whole, and gives one number for it.

        y[n, o, c] = reduce over t of x[n, o * stride + t * dilation, c]

    It may be any function that JAX can trace, like jnp.prod, jnp.median, jax.nn.logsumexp, or one with
    parameters to learn; what is differentiable in it stays so, in every mode.

    Args:
        x: (N, *S, C), one to three spatial dimensions, float or integer.
        window, stride, padding, dilation, ceil_mode: as for :func:`max_pool`.
        reduce: called once, as ``reduce(windows, axis=-2)`` with windows (N, *S', prod(K), C) of x's dtype,
            the elements of each window in row-major order; must drop that axis.
        pad_value: the number that padding holds; required where there is padding (with ceil_mode also what
            a window meets beyond it).

    Returns:
        (N, *S', C) of the dtype that reduce gives.  The windows are copied out: prod(K) / prod(stride) times
        the memory of x.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: shapes disagree, a window is larger than the padded input or lies wholly in the padding,
            pad_value is missing, or reduce does not drop the axis.

    >>> x = jnp.array([1.0, 3.0, 2.0, 5.0, 5.0, 4.0]).reshape(1, 6, 1)
    >>> pool(x, (3,), jnp.median).ravel()
    Array([2., 5.], dtype=float32)
    >>> pool(x, (2,), lambda windows, axis: windows.max(axis) - windows.min(axis)).ravel()
    Array([2., 3., 1.], dtype=float32)

    References:
        Boureau, Ponce and LeCun, A theoretical analysis of feature pooling in visual recognition, ICML 2010.
    """
    x = as_number_array("x", x)
    if not callable(reduce):
        raise TypeError(f"reduce must be a function reduce(windows, axis), got {reduce!r}")
    windows = slide_pool(x, window, stride, padding, dilation, ceil_mode)
    if pad_value is None:
        if max(max(pair) for pair in windows.exact_padding) > 0:
            raise ValueError(
                f"pad_value must be given where there is padding, got padding={padding!r} and no pad_value"
            )
        pad_value = 0
    elif not isinstance(pad_value, jax.Array):
        number = as_number("pad_value", pad_value)
        whole = jnp.iinfo(x.dtype) if jnp.issubdtype(x.dtype, jnp.integer) else None
        if whole and not (number.is_integer() and whole.min <= number <= whole.max):
            raise ValueError(f"pad_value must be a number of x's dtype {x.dtype}, got {pad_value!r}")
    y = jnp.asarray(reduce(elements(x, windows, pad_value), axis=-2))
    expected = (x.shape[0], *windows.output, x.shape[-1])
    if y.shape != expected:
        raise ValueError(f"reduce must drop axis -2 of the windows and give shape {expected}, got {y.shape}")
    return y


@public_op
def global_avg_pool(x: jax.Array) -> jax.Array:
    """The mean of each channel over all spatial dimensions.

        y[n, c] = mean over s of x[n, s, c]

    Args:
        x: (N, *S, C), one to three spatial dimensions.  A single image without its batch axis cannot be told
            from a batch of sequences.

    Returns:
        (N, C) of x's dtype; the sum is accumulated in float32, or in float64 where that is the dtype.

    Raises:
        TypeError: x is not of a float dtype.
        ValueError: x has not one to three spatial dimensions, or an empty one.

    >>> global_avg_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[3., 4.]], dtype=float32)

    References:
        Lin, Chen and Yan, Network in network, ICLR 2014, arXiv:1312.4400.
    """
    x = as_float_array("x", x)
    pooled_rank(x, ())
    compute_dtype = jnp.promote_types(x.dtype, jnp.float32)
    return x.mean(range(1, x.ndim - 1), dtype=compute_dtype).astype(x.dtype)


@public_op
def global_max_pool(x: jax.Array) -> jax.Array:
    """The largest element of each channel over all spatial dimensions.

        y[n, c] = max over s of x[n, s, c]

    NaN wins over all numbers.  The first of equals in row-major order takes the whole gradient.

    Args:
        x: (N, *S, C), one to three spatial dimensions, float or integer.  A single image without its batch
            axis cannot be told from a batch of sequences.

    Returns:
        (N, C) of x's dtype.

    Raises:
        TypeError: x is neither float nor integer.
        ValueError: x has not one to three spatial dimensions, or an empty one.

    >>> global_max_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
    Array([[6., 7.]], dtype=float32)

    References:
        Collobert et al., Natural language processing (almost) from scratch, JMLR 12, 2011 (max over time).
    """
    x = as_number_array("x", x)
    pooled_rank(x, ())
    return _max_over_plane(x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]))


def slide_pool(
    x: jax.Array, window: Any, stride: Any, padding: Any, dilation: Any = 1, ceil_mode: bool = False
) -> Windows:
    """A pool's windows over x (N, *S, C), none of them empty."""
    rank = pooled_rank(x, window)
    window = per_dimension("window", window, rank)
    windows = slide(
        x.shape[1:-1],
        window,
        stride=window if stride is None else stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
    )
    require_real_taps(windows)
    return windows


def _counts(windows: Windows, *, padded: bool) -> np.ndarray:
    """How many elements each window counts: one number, or (*S', 1) where they differ."""
    per_axis = [real_taps(windows, axis, padded=padded) for axis in range(len(windows.sizes))]
    if all(min(counts) == max(counts) for counts in per_axis):
        return np.asarray(math.prod(counts[0] for counts in per_axis))
    return functools.reduce(np.multiply, np.ix_(*per_axis))[..., None]


def _padded(x: jax.Array, windows: Windows, value: Any = 0) -> jax.Array:
    """X padded to where the last window ends."""
    # cropped first: a last window of ceil_mode must not reach what a crop has taken away
    crop = tuple((0, min(high, 0)) for _, high in windows.padding)
    rest = tuple((low, high - cropped) for (low, high), (_, cropped) in zip(windows.exact_padding, crop, strict=True))
    return pad_spatial(pad_spatial(x, crop), rest, value=value)


@partial(jax.jit, static_argnums=1)
def elements(x: jax.Array, windows: Windows, pad_value: Any = 0) -> jax.Array:
    """The elements of each window side by side, row-major: (N, *S', prod(K), C)."""
    cols = columns(_padded(x, windows, pad_value), windows)
    return cols.reshape(*cols.shape[:-1], math.prod(windows.window), x.shape[-1])


# ---- sums ----


def sum_of_windows(x: jax.Array, windows: Windows) -> jax.Array:
    """X (N, *S, C) summed over each window; padding counts as zero."""
    tiling = windows.stride == windows.window and max(windows.dilation) == 1 and min(map(min, windows.padding)) >= 0
    return summed_p.bind(x, of="y", windows=windows) if tiling and is_local(x) else _sum_of_windows(x, windows)


@partial(jax.jit, static_argnums=1)
def _sum_of_windows(x: jax.Array, windows: Windows) -> jax.Array:
    x = _padded(x, windows)
    if sum(windows.window) > 32:
        return lax.reduce_window(
            x,
            np.zeros((), x.dtype),
            lax.add,
            (1, *windows.window, 1),
            (1, *windows.stride, 1),
            "VALID",
            window_dilation=(1, *windows.dilation, 1),
        )
    for axis in reversed(range(len(windows.sizes))):
        slices = _slices_along(x, windows, axis)
        x = sum(slices[1:], start=slices[0])
    return x


# Where windows tile x, the transpose of their sums repeats each cotangent over its window.  XLA would transpose
# them tap by tap, each a pad and an addition of a whole image (2x2 on 128x32x32x32, forward and backward: 3.8 ms
# against 2.2).

summed_p = Primitive("cnnjax_summed")


@summed_p.def_abstract_eval
def _summed_shape(a: Any, *, of: str, windows: Windows) -> Any:
    shape = (a.shape[0], *(windows.output if of == "y" else windows.sizes), a.shape[-1])
    return aval_like(a, shape)


def _summed(a: jax.Array, *, of: str, windows: Windows) -> jax.Array:
    return _sum_of_windows(a, windows) if of == "y" else _repeated(a, windows)


def _repeated(y: jax.Array, windows: Windows) -> jax.Array:
    """Y (N, *S', C), each element over the whole of its window: (N, *S, C)."""
    sizes = [count * k for count, k in zip(windows.output, windows.window, strict=True)]
    inner = tuple(range(2, 2 + 2 * len(sizes), 2))
    split = np.ravel(list(zip(windows.output, windows.window, strict=True)))
    whole = jnp.broadcast_to(jnp.expand_dims(y, inner), (y.shape[0], *split, y.shape[-1]))
    return _cropped(whole.reshape(y.shape[0], *sizes, y.shape[-1]), windows)


def _transposed_sum(cotangent: Any, a: Any, *, of: str, windows: Windows) -> list[Any]:
    return [summed_p.bind(cotangent, of="x" if of == "y" else "y", windows=windows)]


ad.deflinear2(summed_p, _transposed_sum)
define_batching_by_examples(summed_p)
mlir.register_lowering(summed_p, mlir.lower_fun(_summed, multiple_results=False))
define_eager_call(summed_p, ("of", "windows"))
define_nan_check(summed_p)
define_taylor_rule(summed_p, linear_in=(0,))


def _slices_along(x: jax.Array, windows: Windows, axis: int) -> list[jax.Array]:
    """Per tap of the window along one spatial dimension, the elements of the padded x that it meets."""
    stride, dilation = windows.stride[axis], windows.dilation[axis]
    last = (windows.output[axis] - 1) * stride + 1
    return [
        lax.slice_in_dim(x, t * dilation, t * dilation + last, stride, axis + 1) for t in range(windows.window[axis])
    ]


@partial(jax.jit, static_argnums=1)
def _norm(x: jax.Array, p: float) -> jax.Array:
    """The Lp norm of x >= 0 over the last axis but one."""
    scale = lax.stop_gradient(x.max(-2, keepdims=True))
    scale = jnp.where((scale == 0) | jnp.isinf(scale), 1, scale)
    return (scale * _power(_power(x / scale, p).sum(-2, keepdims=True), 1 / p)).squeeze(-2)


@partial(jax.jit, static_argnums=1)
def _power(x: jax.Array, p: float) -> jax.Array:
    """X ** p, x >= 0, with a gradient of 0 at 0 whatever p is."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.where(zero, 1, x) ** p)


# ---- maxima ----
#
# The winner of a window is remembered as its place: the flat row-major position in the dilated window.  The
# output picks the elements in those places.  With the places held fixed that is linear in x, so it is its own
# derivative, and its transpose carries the gradient back.  Written as comparisons it needs no scatter.


def _max_pool(x: jax.Array, windows: Windows, return_indices: bool) -> Any:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    best = _largest(x, windows) if floating else _first_maximum(x, windows)[0]
    if not return_indices:
        return best
    return best, _flat_index(_first_maximum(lax.stop_gradient(x), windows)[1], windows)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _largest(x: jax.Array, windows: Windows) -> jax.Array:
    return _first_maximum(x, windows)[0]


@_largest.defjvp
def _largest_jvp(windows: Windows, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    place = _first_maximum(lax.stop_gradient(x), windows)[1]
    pick = partial(picked_p.bind, of="y") if is_local(dx, place) else _pick
    # by _largest again, so that derivatives of any order come here
    return _largest(x, windows), pick(dx, place, windows=windows)


@partial(jax.jit, static_argnums=1)
def _first_maximum(x: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    """The largest element of each window and its place, the first of equals.

    Of few taps one after the other.  Otherwise one dimension after the other, last first: the first row with the
    largest row maximum, and in it the first column, is the first in row-major order.
    """
    best = _padded(x, windows, value=_lowest(x.dtype))
    if math.prod(windows.window) <= 8 and all(low <= 0 for low, _ in windows.padding):
        # without padding on the low side the first tap is real, and no padding after it wins
        (_, best), *others = taps(best, windows)
        place = jnp.zeros(best.shape, _place_dtype(windows))
        for tap, value in others:
            keep = _stays(best, value)
            best = jnp.where(keep, best, value)
            place = jnp.where(keep, place, np.asarray(_place_of(tap, windows), place.dtype))
        return best, place
    place = jnp.zeros(best.shape, _place_dtype(windows))
    for axis in reversed(range(len(windows.sizes))):
        best, place = _first_maximum_along(best, place, windows, axis)
    return best, place


def _stays(best: jax.Array, value: jax.Array) -> jax.Array:
    """Whether the best so far stays beside the next value: NaN is never <= : it is taken, and once taken it stays."""
    return (value <= best) | (best != best)


def _lowest(dtype: Any) -> Any:
    return -jnp.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min


def _first_maximum_along(x: jax.Array, place: jax.Array, windows: Windows, axis: int) -> tuple[jax.Array, jax.Array]:
    """The maxima of x along one spatial dimension, and their places in it and the later dimensions."""
    stride, dilation = windows.stride[axis], windows.dilation[axis]
    step = dilation * math.prod(windows.extents[axis + 1 :])
    starts = np.arange(windows.output[axis]) * stride
    starts = starts.reshape(-1, *(1,) * (len(windows.sizes) - axis))
    best, *values = _slices_along(x, windows, axis)
    best_place, *places = _slices_along(place, windows, axis)
    for t, (value, at) in enumerate(zip(values, places, strict=True), 1):
        keep = _stays(best, value)
        only_padding_so_far = starts + (t - 1) * dilation < windows.padding[axis][0]
        if only_padding_so_far.any():
            keep &= ~only_padding_so_far
        best = jnp.where(keep, best, value)
        best_place = jnp.where(keep, best_place, at + np.asarray(t * step, at.dtype))
    return best, best_place


def _place_dtype(windows: Windows) -> Any:
    """The smallest integer type that holds every place, and -1."""
    return np.min_scalar_type(-math.prod(windows.extents))


@partial(jax.jit, static_argnums=2)
def _pick(x: jax.Array, place: jax.Array, windows: Windows) -> jax.Array:
    """The element of each window that stands in the window's place; linear in x."""
    if math.prod(windows.window) > 64:
        return _gather(x, place, windows)
    x = _padded(x, windows)
    zero = jnp.zeros((), x.dtype)
    if windows.stride == windows.extents:  # windows tile x: a comparison per element, and no slices
        split = np.ravel(list(zip(windows.output, windows.extents, strict=True)))
        tiles = x.reshape(x.shape[0], *split, x.shape[-1])
        inner = tuple(range(2, tiles.ndim - 1, 2))
        places = np.arange(math.prod(windows.extents)).astype(place.dtype).reshape(windows.extents)
        here = np.expand_dims(places, tuple(range(1, 2 * len(inner), 2)))
        won = jnp.expand_dims(place, inner) == here
        return jnp.where(won, tiles, zero).sum(axis=inner)
    total = jnp.zeros(place.shape, x.dtype)
    for tap, met in taps(x, windows):
        here = np.asarray(_place_of(tap, windows), place.dtype)
        total += jnp.where(place == here, met, zero)
    return total


# Picking is linear, and its transpose spreads a gradient over the places.  XLA would transpose _pick tap by tap, each a
# pad and an addition of a whole image; as a primitive with a transpose of its own that is one pass (3x3 windows with
# stride 2 on 8x55x55x96, forward and backward: 31 ms before).

picked_p = Primitive("cnnjax_picked")


@picked_p.def_abstract_eval
def _picked_shape(a: Any, place: Any, *, of: str, windows: Windows) -> Any:
    sizes = windows.output if of == "y" else windows.sizes
    shape = (place.shape[0], *sizes, place.shape[-1])
    return aval_like(a, shape)


def _picked(a: jax.Array, place: jax.Array, *, of: str, windows: Windows) -> jax.Array:
    return _pick(a, place, windows) if of == "y" else _spread(a, place, windows)


def _transposed_pick(cotangent: Any, a: Any, place: jax.Array, *, of: str, windows: Windows) -> list[Any]:
    if type(cotangent) is ad.Zero:
        return [ad.Zero(a.aval), None]
    return [picked_p.bind(cotangent, place, of="x" if of == "y" else "y", windows=windows), None]


ad.defjvp(picked_p, lambda da, a, place, **static: picked_p.bind(da, place, **static), None)
ad.primitive_transposes[picked_p] = _transposed_pick
define_batching_by_examples(picked_p)
mlir.register_lowering(picked_p, mlir.lower_fun(_picked, multiple_results=False))
define_eager_call(picked_p, ("of", "windows"))
define_nan_check(picked_p)
define_taylor_rule(picked_p, linear_in=(0,))


@partial(jax.jit, static_argnums=2)
def _spread(dz: jax.Array, place: jax.Array, windows: Windows) -> jax.Array:
    """The transpose of :func:`_pick`: dz (N, *S', C) at its windows' places, added where they meet, (N, *S, C).

    Pixel q s + r, r below the stride s, lies in the windows q - j, at their tap r + j s: for each j one comparison.
    """
    shape = (dz.shape[0], *windows.sizes, dz.shape[-1])
    if max(windows.dilation) > 1 or math.prod(windows.window) > 64:
        return jax.linear_transpose(lambda x: _pick(x, place, windows), jax.ShapeDtypeStruct(shape, dz.dtype))(dz)[0]
    rank, stride = len(windows.sizes), windows.stride
    if stride == windows.window and dz.shape[-1] < 16:
        return _cropped(_spread_over_tiles(dz, place, windows), windows)
    over = [-(-k // s) for k, s in zip(windows.window, stride, strict=True)]  # windows over a pixel
    pads = tuple((count - 1,) * 2 for count in over)
    # behind the barrier nothing of this is computed again for each j
    dz, place = lax.optimization_barrier((pad_spatial(dz, pads), pad_spatial(place, pads, value=-1)))
    inner = tuple(range(2, 2 + 2 * rank, 2))
    met = [count + more - 1 for count, more in zip(windows.output, over, strict=True)]
    total: Any = 0
    for shift in itertools.product(*map(range, over)):
        starts = [more - 1 - j for j, more in zip(shift, over, strict=True)]
        limits = [start + count for start, count in zip(starts, met, strict=True)]
        box = (0, *starts, 0), (dz.shape[0], *limits, dz.shape[-1])
        won, gradient = (jnp.expand_dims(lax.slice(a, *box), inner) for a in (place, dz))
        here: Any = 0  # the tap's place, along (1, r1, 1, r2, ..., 1); none beyond the window
        real: Any = True
        for axis, (j, k, s) in enumerate(zip(shift, windows.window, stride, strict=True)):
            tap = (np.arange(s) + j * s).reshape(-1, *(1,) * (2 * (rank - axis) - 1))
            here, real = here * k + tap, real & (tap < k)
        here = np.where(real, here, -2).astype(place.dtype)
        total += jnp.where(won == here, gradient, np.zeros((), dz.dtype))
    sizes = [count * s for count, s in zip(met, stride, strict=True)]
    return _cropped(total.reshape(shape[0], *sizes, shape[-1]), windows)


def _spread_over_tiles(dz: jax.Array, place: jax.Array, windows: Windows) -> jax.Array:
    """The same where windows tile x, tap by tap and then side by side.

    For few channels alone: there XLA computes the place again for each pixel, whatever stands between (2x2 on
    128x28x28x6, forward and backward: 2.9 ms against 1.4; on 128x32x32x32 2.2 against 2.8).
    """
    zero = np.zeros((), dz.dtype)
    places = [np.asarray(_place_of(tap, windows), place.dtype) for tap in np.ndindex(*windows.window)]
    parts = [jnp.where(place == here, dz, zero) for here in places]
    for axis, k in reversed([*enumerate(windows.window)]):
        parts = [jnp.stack(parts[i : i + k], axis + 2) for i in range(0, len(parts), k)]
    sizes = [count * k for count, k in zip(windows.output, windows.window, strict=True)]
    return parts[0].reshape(dz.shape[0], *sizes, dz.shape[-1])


def _cropped(covered: jax.Array, windows: Windows) -> jax.Array:
    """What the windows cover as what x has of it: without the padding, and with what they leave out."""
    ends = zip(windows.sizes, windows.padding, covered.shape[1:-1], strict=True)
    return pad_spatial(covered, tuple((-low, size + low - whole) for size, (low, _), whole in ends))


def _place_of(tap: Sizes, windows: Windows) -> int:
    """The flat position of a tap in the dilated window."""
    place = 0
    for t, d, extent in zip(tap, windows.dilation, windows.extents, strict=True):
        place = place * extent + t * d
    return place


def _gather(x: jax.Array, place: jax.Array, windows: Windows) -> jax.Array:
    """:func:`_pick` by index, for windows of many taps."""
    n, channels = x.shape[0], x.shape[-1]
    flat = x.reshape(n, -1, channels)
    index = _flat_index(place, windows).reshape(n, -1, channels)
    return jnp.take_along_axis(flat, index, axis=1).reshape(place.shape)


@partial(jax.jit, static_argnums=1)
def _flat_index(place: jax.Array, windows: Windows) -> jax.Array:
    """Places as int32 indices, flat in the unpadded spatial plane."""
    rest = place.astype(jnp.int32)
    index: Any = 0
    scale = 1
    for axis in reversed(range(len(windows.sizes))):
        extent = windows.extents[axis]
        shape = (-1,) + (1,) * (len(windows.sizes) - axis)
        starts = np.arange(windows.output[axis], dtype=np.int32).reshape(shape) * windows.stride[axis]
        index += (starts - windows.padding[axis][0] + rest % extent) * scale
        rest //= extent
        scale *= windows.sizes[axis]
    return index.astype(jnp.int32)


@jax.custom_jvp
def _max_over_plane(x: jax.Array) -> jax.Array:
    """X (N, P, C) -> (N, C); its derivative goes to the first maximum, where jnp.max would share it out."""
    return x.max(1)


@_max_over_plane.defjvp
def _max_over_plane_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    y = _max_over_plane(x)
    fixed = lax.stop_gradient(x)
    # the first maximum by comparisons: XLA's argmax, and the scatter that its index would need, take far longer
    places = np.arange(x.shape[1], dtype=np.int32)[:, None]
    met = (fixed == lax.stop_gradient(y)[:, None]) | (fixed != fixed)
    first = jnp.where(met, places, x.shape[1]).min(1, keepdims=True)
    return y, jnp.where(places == first, dx, jnp.zeros((), dx.dtype)).sum(1)
