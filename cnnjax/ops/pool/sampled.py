"""Pools that draw: windows at random steps, and elements at random."""

import functools
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from cnnjax.ops.checks import as_flag, as_float_array, as_number_array, check_key, pooled_rank
from cnnjax.ops.geometry import Ints, Padding, Sizes, per_dimension
from cnnjax.ops.pool.blocks import define_lowering
from cnnjax.ops.pool.derivatives import define_selection, no_derivative
from cnnjax.ops.pool.rows import index_of_rows, max_of_rows
from cnnjax.ops.pool.windows import elements, nan_checked, slide_pool
from cnnjax.ops.primitives import aval_like
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op


@overload
def fractional_max_pool(
    x: jax.Array,
    window: Ints,
    *,
    output_size: Ints,
    key: jax.Array | None = None,
    samples: jax.Array | None = None,
    return_indices: Literal[False] = False,
) -> jax.Array: ...
@overload
def fractional_max_pool(
    x: jax.Array,
    window: Ints,
    *,
    output_size: Ints,
    key: jax.Array | None = None,
    samples: jax.Array | None = None,
    return_indices: Literal[True],
) -> tuple[jax.Array, jax.Array]: ...
@public_op
def fractional_max_pool(
    x: jax.Array,
    window: Ints,
    *,
    output_size: Ints,
    key: jax.Array | None = None,
    samples: jax.Array | None = None,
    return_indices: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Returns the largest elements of windows at random, uneven steps, so that the size shrinks by any factor.

    Along each dimension, with alpha = (S - k) / (S' - 1) and one u in [0, 1) per example and channel:

        start_o = floor((o + u) alpha) - floor(u alpha),  and the last window ends with the input

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, float or integer.
      window: k, an int or one per spatial dimension (where there is one: `(k,)`).
      output_size: S', an int or one per spatial dimension, at most S - k + 1.
      key: a random key to draw the u with; or
      samples: the u themselves, `(N, C, n)` for n spatial dimensions in axis order. (PyTorch's `_random_samples` of two
        dimensions hold the column's before the row's.)
      return_indices: also returns where the maxima are.

    Returns:
      `(N, *S', C)` of x's dtype; with `return_indices` the pair of that and the int32 indices of the winners, flat in
      the spatial plane. The maximum is that of `max_pool`.

    Raises:
      TypeError: an argument is of the wrong kind, or not exactly one of key and samples is given.
      ValueError: shapes disagree, or output_size is too large for the window.

    Example:
      >>> x = jnp.array([1.0, 4.0, 2.0, 3.0, 0.0]).reshape(1, 5, 1)
      >>> fractional_max_pool(x, (2,), output_size=(3,), samples=jnp.full((1, 1, 1), 0.5)).ravel()
      Array([4., 3., 3.], dtype=float32)

    References:
      Graham, Fractional max-pooling, arXiv:1412.6071.
      PyTorch, torch.nn.FractionalMaxPool2d.
    """
    x = as_number_array("x", x)
    rank = pooled_rank(x, window)
    window = per_dimension("window", window, rank)
    output = per_dimension("output_size", output_size, rank)
    as_flag("return_indices", return_indices)
    _check_fractions(x.shape[1:-1], window, output)
    if (key is None) == (samples is None):
        raise TypeError(f"exactly one of key and samples must be given, got key={key!r} and samples={samples!r}")
    shape = (x.shape[0], x.shape[-1], rank)
    if samples is None:
        check_key(key)
        samples = jax.random.uniform(key, shape, jnp.float32)  # type: ignore[arg-type]  # check_key refuses None
    else:
        samples = as_float_array("samples", samples)
        if samples.shape != shape:
            raise ValueError(f"samples must be (N, C, spatial dimensions) = {shape}, got {samples.shape}")
    starts = _fractional_starts(samples, x.shape[1:-1], window, output)
    y = max_of_rows(x, starts, window)
    return (y, index_of_rows(x, starts, window)) if return_indices else y


@public_op
def stochastic_pool(
    x: jax.Array,
    window: Ints,
    *,
    key: jax.Array | None,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    deterministic: bool = False,
) -> jax.Array:
    """Draws one element of each window with a probability in proportion to its value; or returns their mean by that.

        P(y[n, o, c] = a_t) = a_t / sum_s a_s          in training
        y[n, o, c] = sum_t a_t (a_t / sum_s a_s)       deterministic

    with a the elements of window o. An all-zero window gives 0, and its gradient is 0.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions, not negative, as after a relu; a negative element is never
        drawn, and makes no sense in the mean.
      window, stride, padding: as for `max_pool`; padding is never drawn.
      key: a random key; may be `None` where deterministic.
      deterministic: returns the mean, as the paper does at test time.

    Returns:
      `(N, *S', C)` of x's dtype. The gradient goes to the drawn element. The windows are copied out, as in `pool`.

    Raises:
      TypeError: an argument is of the wrong kind, or x is not of a float dtype.
      ValueError: shapes disagree, a window is larger than the padded input or lies wholly in the padding.

    Example:
      >>> x = jnp.array([0.0, 3.0, 1.0, 3.0]).reshape(1, 4, 1)
      >>> stochastic_pool(x, (2,), key=None, deterministic=True).ravel()
      Array([3. , 2.5], dtype=float32)

    References:
      Zeiler and Fergus, Stochastic pooling for regularization of deep convolutional neural networks, ICLR 2013,
      arXiv:1301.3557.
    """
    x = as_float_array("x", x)
    windows = slide_pool(x, window, stride, padding)
    as_flag("deterministic", deterministic)
    if deterministic:
        return _mean_by_value(elements(x.astype(accumulator_dtype(x.dtype)), windows)).astype(x.dtype)
    check_key(key)
    values = elements(x, windows)
    noise = jax.random.gumbel(key, values.shape, accumulator_dtype(x.dtype))  # type: ignore[arg-type]
    return _drawn_by_value(values, noise)


def _check_fractions(sizes: Sizes, window: Sizes, output: Sizes) -> None:
    for axis, (size, k, count) in enumerate(zip(sizes, window, output, strict=True)):
        if k > size:
            raise ValueError(f"window must fit into the input, got {k} for size {size} of spatial dimension {axis}")
        if count > size - k + 1:
            raise ValueError(
                f"output_size must be at most S - k + 1 = {size - k + 1} in spatial dimension {axis} "
                f"of size {size} with window {k}, got {count}"
            )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _fractional_starts(samples: jax.Array, sizes: Sizes, window: Sizes, output: Sizes) -> list[jax.Array]:
    """Returns, per dimension, where each window starts, `(N, S', C)`, from samples `(N, C, n)`."""
    u = jnp.moveaxis(samples.astype(accumulator_dtype(samples.dtype)), 1, 2)[:, :, None]
    starts = []
    for axis, (size, k, count) in enumerate(zip(sizes, window, output, strict=True)):
        alpha = np.asarray((size - k) / max(count - 1, 1), u.dtype)
        step = np.arange(count, dtype=u.dtype)[None, :, None]
        start = ((step + u[:, axis]) * alpha).astype(jnp.int32) - (u[:, axis] * alpha).astype(jnp.int32)
        starts.append(start.at[:, -1].set(size - k))
    return starts


@jax.jit
def _mean_by_value(values: jax.Array) -> jax.Array:
    total = values.sum(-2, keepdims=True)
    return (values * jnp.where(total == 0, 0, values / jnp.where(total == 0, 1, total))).sum(-2)


@jax.jit
def _drawn_by_value(values: jax.Array, noise: jax.Array) -> jax.Array:
    """Draws as `jax.random.categorical` does: by the largest sum of log-probability and Gumbel noise."""
    fixed = lax.stop_gradient(values).astype(noise.dtype)
    never = fixed <= 0
    log_value = jnp.where(never, -jnp.inf, jnp.log(jnp.where(never, 1, fixed)))
    drawn = argmax_p.bind(log_value + noise)
    y = jnp.take_along_axis(values, drawn, axis=-2).squeeze(-2)
    return nan_checked(jnp.where(never.all(-2), jnp.zeros((), values.dtype), y))


# jet has no rule for lax.argmax

argmax_p = Primitive("cnnjax_argmax")


@argmax_p.def_abstract_eval
def _argmax_shape(scores: Any) -> Any:
    return aval_like(scores, (*scores.shape[:-2], 1, scores.shape[-1]), np.dtype("int32"))


def _argmax(scores: jax.Array) -> jax.Array:
    return jnp.expand_dims(lax.argmax(scores, scores.ndim - 2, np.int32), -2)


define_selection(argmax_p, (), no_derivative)
define_lowering(argmax_p, _argmax, lambda scores: 0)
