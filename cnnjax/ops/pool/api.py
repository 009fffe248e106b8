"""Pooling: one number from each window of each channel, in one to three dimensions."""

import math
from collections.abc import Callable
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.checks import as_flag, as_float_array, as_number, as_number_array, pooled_rank
from cnnjax.ops.geometry import Ints, Padding, as_int
from cnnjax.ops.pool.maxima import max_and_index, max_of_windows, max_over_plane
from cnnjax.ops.pool.sums import Divisor, mean_of_windows, norm, power, sum_of_windows
from cnnjax.ops.pool.windows import elements, slide_pool
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op


@overload
def max_pool(
    x: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> jax.Array: ...
@overload
def max_pool(
    x: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: Literal[True],
) -> tuple[jax.Array, jax.Array]: ...
@public_op
def max_pool(
    x: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Returns the largest element of each window.

        y[n, o, c] = max_t x[n, o * stride + t * dilation, c]

    Padding never wins: a window of nothing but -inf gives -inf, from its first real element. NaN wins over all numbers.
    Among equals the first in row-major order wins, and takes the whole gradient.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer.
      window: an int, or one int per spatial dimension (where there is one: `(k,)`).
      stride: an int, or one per spatial dimension; `None` means `window`.
      padding: as for `conv`.
      dilation: distance between the taps of a window, an int or one per spatial dimension.
      ceil_mode: also takes a last window that overhangs the input, if it starts inside the input or the low padding;
        needs padding in numbers.
      return_indices: also returns where the maxima are.

    Returns:
      `(N, *S', C)` of x's dtype; with `return_indices` the pair of that and the int32 indices of the winners, flat in
      the unpadded spatial plane.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: shapes disagree, a window is larger than the padded input or lies wholly in the padding.

    Example:
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
    return max_and_index(x, windows) if as_flag("return_indices", return_indices) else max_of_windows(x, windows)


@overload
def min_pool(
    x: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> jax.Array: ...
@overload
def min_pool(
    x: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: Literal[True],
) -> tuple[jax.Array, jax.Array]: ...
@public_op
def min_pool(
    x: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Returns the smallest element of each window: `max_pool` upside down, with the same arguments and rules.

        y[n, o, c] = min_t x[n, o * stride + t * dilation, c]

    Args:
      x: `(N, *S, C)`, float or integer.
      window, stride, padding, dilation, ceil_mode, return_indices: as for `max_pool`.

    Returns:
      `(N, *S', C)` of x's dtype; with `return_indices` also the int32 indices of the winners.

    Raises:
      TypeError, ValueError: as for `max_pool`.

    Example:
      >>> min_pool(jnp.array([1.0, 3.0, 2.0, 5.0]).reshape(1, 4, 1), (2,)).ravel()
      Array([1., 2.], dtype=float32)
    """
    x = as_number_array("x", x)
    windows = slide_pool(x, window, stride, padding, dilation, ceil_mode)
    # ~ reverses the order of integers without the overflow of -
    reverse = jnp.negative if jnp.issubdtype(x.dtype, jnp.floating) else jnp.invert
    if as_flag("return_indices", return_indices):
        y, index = max_and_index(reverse(x), windows)
        return reverse(y), index
    return reverse(max_of_windows(reverse(x), windows))


@public_op
def avg_pool(
    x: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
    divisor_override: int | None = None,
) -> jax.Array:
    """Returns the mean of each window.

        y[n, o, c] = (1 / count_o) sum_t x[n, o * stride + t * dilation, c]

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions.
      window, stride, padding, dilation, ceil_mode: as for `max_pool`.
      count_include_pad: counts the padding too (never the overhang of `ceil_mode`); by default only elements of x.
      divisor_override: an int to divide by instead of the count.

    Returns:
      `(N, *S', C)` of x's dtype; the sum is accumulated in float32, or in float64 where that is the dtype.

    Raises:
      TypeError: an argument is of the wrong kind, or x is not of a float dtype.
      ValueError: shapes disagree, a window is larger than the padded input or lies wholly in the padding.

    Example:
      >>> avg_pool(jnp.array([1.0, 3.0, 2.0, 6.0]).reshape(1, 4, 1), (2,)).ravel()
      Array([2., 4.], dtype=float32)

    References:
      LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998.
    """
    x = as_float_array("x", x)
    windows = slide_pool(x, window, stride, padding, dilation, ceil_mode)
    divisor: Divisor = "elements and padding" if as_flag("count_include_pad", count_include_pad) else "elements"
    if divisor_override is not None:
        divisor = as_int("divisor_override", divisor_override)
        if divisor == 0:
            raise ValueError("divisor_override must not be 0")
    return mean_of_windows(x, windows, divisor)


@public_op
def lp_pool(
    x: jax.Array,
    window: Ints,
    *,
    p: float = 2.0,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Returns the Lp norm of each window: the sum of magnitudes at p = 1, the largest at p = inf.

        y[n, o, c] = (sum_t |x[n, o * stride + t * dilation, c]|^p)^(1/p)

    The gradient of an all-zero window is 0. Except at p = 2, no power overflows: each window is scaled by its largest
    magnitude first (for p other than 1, 2 and inf the windows are copied out to do so, as in `pool`).

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions.
      window, stride, padding, dilation, ceil_mode: as for `max_pool`; padding counts as zero.
      p: a number above 0, or `float("inf")`.

    Returns:
      `(N, *S', C)` of x's dtype; the sum is accumulated in float32, or in float64 where that is the dtype. PyTorch's
      lp_pool leaves out the absolute value, and scales up the windows that `ceil_mode` cuts short.

    Raises:
      TypeError: an argument is of the wrong kind, or x is not of a float dtype.
      ValueError: p is not above 0, shapes disagree, a window is larger than the padded input or lies wholly in the
        padding.

    Example:
      >>> lp_pool(jnp.array([3.0, -4.0, 0.0, 2.0]).reshape(1, 4, 1), (2,)).ravel()
      Array([5., 2.], dtype=float32)

    References:
      Sermanet, Chintala and LeCun, Convolutional neural networks applied to house numbers digit classification,
      ICPR 2012, arXiv:1204.3968.
    """
    x = as_float_array("x", x)
    p = as_number("p", p)
    if not p > 0:
        raise ValueError(f"p must be above 0, got {p}")
    windows = slide_pool(x, window, stride, padding, dilation, ceil_mode)
    # not abs, whose derivative at 0 is 1
    magnitude = x * lax.stop_gradient(jnp.sign(x))
    if p == math.inf:
        return max_of_windows(magnitude, windows)
    if p == 1:
        return sum_of_windows(magnitude, windows)
    wide = accumulator_dtype(x.dtype)
    if p == 2:
        y = power(sum_of_windows(jnp.square(x.astype(wide)), windows), 0.5)
    else:
        y = norm(elements(magnitude.astype(wide), windows), p)
    return y.astype(x.dtype)


@public_op
def pool(
    x: jax.Array,
    window: Ints,
    reduce: Callable[..., jax.Array],
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    pad_value: float | jax.Array | None = None,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """Pools by a function of your own, which sees each window whole and returns one number for it.

        y[n, o, c] = reduce over t of x[n, o * stride + t * dilation, c]

    The function may be any that JAX can trace, such as jnp.prod, jnp.median, jax.nn.logsumexp, or one with parameters
    to learn; what is differentiable in it stays so, in every mode.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer.
      window, stride, padding, dilation, ceil_mode: as for `max_pool`.
      reduce: called once, as `reduce(windows, axis=-2)` with windows `(N, *S', prod(K), C)` of x's dtype, the elements
        of each window in row-major order; must drop that axis.
      pad_value: the number that padding holds; required where there is padding (with `ceil_mode` also the overhang's).

    Returns:
      `(N, *S', C)` of the dtype that `reduce` returns. The windows are copied out: prod(K) / prod(stride) times the
      memory of x.

    Raises:
      TypeError: an argument is of the wrong kind.
      ValueError: shapes disagree, a window is larger than the padded input or lies wholly in the padding, `pad_value`
        is missing, or `reduce` does not drop the axis.

    Example:
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
    elif isinstance(pad_value, jax.Array):
        if pad_value.ndim:
            raise ValueError(f"pad_value must be one number, got an array of shape {pad_value.shape}")
    else:
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
    """Returns the mean of each channel over all spatial dimensions.

        y[n, c] = mean over s of x[n, s, c]

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions. A single image without its batch axis cannot be told from a
        batch of sequences.

    Returns:
      `(N, C)` of x's dtype; the sum is accumulated in float32, or in float64 where that is the dtype.

    Raises:
      TypeError: x is not of a float dtype.
      ValueError: x has not one to three spatial dimensions, or an empty one.

    Example:
      >>> global_avg_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
      Array([[3., 4.]], dtype=float32)

    References:
      Lin, Chen and Yan, Network in network, ICLR 2014, arXiv:1312.4400.
    """
    x = as_float_array("x", x)
    pooled_rank(x, ())
    return x.mean(range(1, x.ndim - 1), dtype=accumulator_dtype(x.dtype)).astype(x.dtype)


@public_op
def global_max_pool(x: jax.Array) -> jax.Array:
    """Returns the largest element of each channel over all spatial dimensions.

        y[n, c] = max over s of x[n, s, c]

    NaN wins over all numbers. The first of equals in row-major order takes the whole gradient.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer. A single image without its batch axis cannot
        be told from a batch of sequences.

    Returns:
      `(N, C)` of x's dtype.

    Raises:
      TypeError: x is neither float nor integer.
      ValueError: x has not one to three spatial dimensions, or an empty one.

    Example:
      >>> global_max_pool(jnp.arange(8.0).reshape(1, 2, 2, 2))
      Array([[6., 7.]], dtype=float32)

    References:
      Collobert et al., Natural language processing (almost) from scratch, JMLR 12, 2011 (max over time).
    """
    x = as_number_array("x", x)
    pooled_rank(x, ())
    return max_over_plane(x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1]))
