"""Batch normalisation and max-pooling in one: where no window reaches into another, only the winners are normalised."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.geometry import Ints, Padding, Windows
from cnnjax.ops.normalize import (
    Triple,
    as_batch_norm_arrays,
    as_parts,
    batch_norm,
    by_parts,
    channel_mean,
    mean_and_variance,
)
from cnnjax.ops.patches import taps
from cnnjax.ops.pool import choose
from cnnjax.ops.pool.maxima import keeps_best, max_of_windows, tangent_at_winners
from cnnjax.ops.pool.windows import slide_pool
from cnnjax.ops.pool.winners import offset_dtype, tap_offset
from cnnjax.ops.promotion import accumulator_dtype, with_axes_of
from cnnjax.ops.public import public_op


@public_op
def batch_norm_max_pool(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    window: Ints,
    *,
    stride: Ints | None = None,
    padding: Padding = "VALID",
    epsilon: float = 1e-5,
    parts: int = 1,
) -> Triple:
    """Pools what `batch_norm` makes of x: `max_pool(batch_norm(x, scale, bias)[0], window)`.

    Where windows tile x, nothing of its size is written but its gradient: the maxima are taken of what each window
    reads, normalised on the way, and the sums in the gradient run over the winners alone.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions.
      scale, bias: `(C,)`.
      window: an int, or one int per spatial dimension (where there is one: `(k,)`).
      stride: an int, or one per spatial dimension; `None` means `window`.
      padding: as for `max_pool`.
      epsilon: added to the variance, at least 0.
      parts: as for `batch_norm`.

    Returns:
      y `(N, *S', C)` of x's dtype; mean and var, `(C,)`, as `batch_norm` returns them. In half precision the winner is
      the largest before rounding.

    Raises:
      TypeError: an argument is of the wrong kind, or x is not of a float dtype.
      ValueError: shapes disagree, x is empty, epsilon is negative, `parts` does not divide the batch, or a window is
        larger than the padded input or lies wholly in the padding.

    Example:
      >>> x = jnp.array([1.0, 3.0, 5.0, 7.0]).reshape(1, 4, 1)
      >>> y, mean, var = batch_norm_max_pool(x, jnp.ones(1), jnp.zeros(1), (2,), epsilon=0.0)
      >>> y.ravel().round(4), mean, var
      (Array([-0.4472,  1.3416], dtype=float32), Array([4.], dtype=float32), Array([5.], dtype=float32))

    References:
      Ioffe and Szegedy, Batch normalization, ICML 2015, arXiv:1502.03167, algorithm 1.
    """
    x, scale, bias, epsilon = as_batch_norm_arrays(x, scale, bias, epsilon)
    if (parts := as_parts(parts, x)) > 1:
        alone = partial(batch_norm_max_pool, scale=scale, bias=bias, window=window, stride=stride, padding=padding,
                        epsilon=epsilon)  # fmt: skip
        return by_parts(alone, x, parts)
    windows = slide_pool(x, window, stride, padding)
    if not choose.is_pooled_with_norm(windows):
        y, mean, var = batch_norm(x, scale, bias, epsilon=epsilon)
        return max_of_windows(y, windows), mean, var
    wide = accumulator_dtype(x.dtype)
    y, mean, var = _norm_and_pool(x, scale.astype(wide), bias.astype(wide), windows, epsilon)
    return y.astype(x.dtype), mean, var


@partial(jax.custom_jvp, nondiff_argnums=(3, 4))
@partial(jax.jit, static_argnums=(3, 4))
def _norm_and_pool(x: jax.Array, scale: jax.Array, bias: jax.Array, windows: Windows, epsilon: float) -> Triple:
    mean, var = mean_and_variance(x.astype(scale.dtype))
    winner, _ = _winners(x, mean, scale * lax.rsqrt(var + epsilon), bias, windows)
    return _normalize(winner, mean, scale * lax.rsqrt(var + epsilon), bias), mean, var


@_norm_and_pool.defjvp
def _norm_and_pool_jvp(windows: Windows, epsilon: float, primals: Triple, tangents: Triple) -> tuple[Triple, Triple]:
    # that of batch_norm, at the winners: the transpose sums over them, and scatters to them
    x, scale, bias = primals
    dx, dscale, dbias = tangents
    x_wide, dx_wide = x.astype(scale.dtype), dx.astype(scale.dtype)
    mean, var = mean_and_variance(x_wide)
    root = lax.rsqrt(var + epsilon)
    winner, offset = _winners(x, mean, scale * root, bias, windows)
    # scaled before, so that the transpose scatters cotangents as they come, in half precision too
    scaled = (with_axes_of(x, scale * root) * dx_wide).astype(x.dtype)
    dwinner = tangent_at_winners(scaled, x, offset, windows).astype(scale.dtype)
    dmean = channel_mean(dx_wide)
    dvar = 2 * (channel_mean(x_wide * dx_wide) - mean * dmean)
    dslope = root * dscale - 0.5 * scale * root**3 * dvar
    doffset = dbias - scale * root * dmean - mean * dslope
    y = _normalize(winner, mean, scale * root, bias)
    winner = winner.astype(scale.dtype)
    dy = dwinner + winner * with_axes_of(y, dslope) + with_axes_of(y, doffset)
    return (y, mean, var), (dy, dmean, dvar)


def _normalize(x: jax.Array, mean: jax.Array, slope: jax.Array, bias: jax.Array) -> jax.Array:
    x = x.astype(mean.dtype)
    return (x - with_axes_of(x, mean)) * with_axes_of(x, slope) + with_axes_of(x, bias)


def _winners(
    x: jax.Array, mean: jax.Array, slope: jax.Array, bias: jax.Array, windows: Windows
) -> tuple[jax.Array, jax.Array]:
    """Returns the element of each window that is largest when normalised, the first of equals, and its offset."""
    (_, winner), *others = taps(x, windows)  # sliced before they are normalised, so that the whole is not written
    best = _normalize(winner, mean, slope, bias)
    offset = jnp.zeros(best.shape, offset_dtype(windows))
    for tap, element in others:
        value = _normalize(element, mean, slope, bias)
        keep = keeps_best(best, value)
        best, winner = jnp.where(keep, best, value), jnp.where(keep, winner, element)
        offset = jnp.where(keep, offset, np.asarray(tap_offset(tap, windows), offset.dtype))
    return winner, offset
