"""Normalisation across channels, and over the batch."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.channel_sum import channel_sum
from cnnjax.ops.checks import as_float_array, as_number, pooled_rank
from cnnjax.ops.geometry import as_int
from cnnjax.ops.promotion import accumulator_dtype, with_axes_of
from cnnjax.ops.public import public_op

Triple = tuple[jax.Array, jax.Array, jax.Array]


@public_op
def local_response_norm(
    x: jax.Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> jax.Array:
    """Divides each element by a power of the energy of neighbouring channels, as AlexNet does.

        y[n, s, c] = x[n, s, c] / (k + alpha sum_j x[n, s, j]^2)^beta

    with j from c - size // 2 to c + (size - 1) // 2, as far as there are channels.

    Args:
      x: `(N, *S, C)`, one to three spatial dimensions.
      size: the number of neighbouring channels, the channel itself among them; of an even number the odd
        neighbour is the lower.
      alpha: the factor of the sum, not divided by size, as in the paper. PyTorch, Caffe and ONNX divide theirs, so
        their alpha is this one times size.
      beta: the exponent.
      k: the constant beside the sum, at least 0; PyTorch's default is 1.

    Returns:
      `(N, *S, C)` of x's dtype; computed in float32, or in float64 where that is the dtype. On a TPU, where the sum is
      a product with a banded matrix, an infinity or NaN reaches all channels of its pixel.

    Raises:
      TypeError: an argument is of the wrong kind, or x is not of a float dtype.
      ValueError: size is below 1, k is negative, or x has not one to three spatial dimensions.

    Example:
      >>> local_response_norm(jnp.ones((1, 1, 4)), size=3, alpha=1.0, beta=1.0, k=2.0).ravel()
      Array([0.25, 0.2 , 0.2 , 0.25], dtype=float32)

    References:
      Krizhevsky, Sutskever and Hinton, ImageNet classification with deep convolutional neural networks,
      NIPS 2012, section 3.3.
    """
    x = as_float_array("x", x)
    pooled_rank(x, ())
    size = as_int("size", size)
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    alpha, beta, k = as_number("alpha", alpha), as_number("beta", beta), as_number("k", k)
    if not k >= 0:
        raise ValueError(f"k must be at least 0, got {k}")
    return _normalize(x, size, alpha, beta, k)


@public_op
def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float = 1e-5, parts: int = 1
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each channel by its own mean and variance over batch and space, as in training.

        y[n, s, c] = scale[c] (x[n, s, c] - mean[c]) / sqrt(var[c] + epsilon) + bias[c]

    Mean and variance come from one pass over x, var = mean of squares - square of mean, and so do the derivatives.
    Where a channel's mean is 30 times its deviation the variance loses half of float32's digits, as flax's does.

    With `parts`, the first N / parts images are normalised by their own mean and variance, the next by theirs, and so
    on ("ghost batch norm"): where a batch is sharded over so many devices, each normalises its share by itself.

    Args:
      x: `(N, *S, C)`, with any number of spatial dimensions, or none.
      scale, bias: `(C,)`.
      epsilon: added to the variance, at least 0.
      parts: number of parts of the batch, divides N.

    Returns:
      y of x's shape and dtype; mean and var, `(C,)`, the variance with divisor N prod(S); of several parts the means
      of theirs. These two are, as all sums, in float32, or in float64 where that is x's dtype.

    Raises:
      TypeError: an argument is of the wrong kind, or x is not of a float dtype.
      ValueError: shapes disagree, x is empty, epsilon is negative, or `parts` does not divide the batch.

    Example:
      >>> y, mean, var = batch_norm(jnp.array([[1.0], [3.0]]), jnp.ones(1), jnp.zeros(1), epsilon=0.0)
      >>> y.ravel(), mean, var
      (Array([-1.,  1.], dtype=float32), Array([2.], dtype=float32), Array([1.], dtype=float32))

    References:
      Ioffe and Szegedy, Batch normalization, ICML 2015, arXiv:1502.03167, algorithm 1. Parts: Hoffer, Hubara, Soudry,
      Train longer, generalize better, NIPS 2017, arXiv:1705.08741.
    """
    x, scale, bias, epsilon = as_batch_norm_arrays(x, scale, bias, epsilon)
    if (parts := as_parts(parts, x)) > 1:
        return by_parts(partial(batch_norm, scale=scale, bias=bias, epsilon=epsilon), x, parts)
    wide = accumulator_dtype(x.dtype)
    y, mean, var = _batch_norm(x.astype(wide), scale.astype(wide), bias.astype(wide), epsilon)
    return y.astype(x.dtype), mean, var


def as_batch_norm_arrays(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array, float]:
    """Checks the arguments of `batch_norm`."""
    x, scale, bias = (as_float_array(*pair) for pair in (("x", x), ("scale", scale), ("bias", bias)))
    epsilon = as_number("epsilon", epsilon)
    if not epsilon >= 0:
        raise ValueError(f"epsilon must not be negative, got {epsilon}")
    if x.ndim < 2 or not x.size or {scale.shape, bias.shape} != {x.shape[-1:]}:
        raise ValueError(
            f"scale and bias must be (C,) and x (N, *S, C), not empty, "
            f"got x {x.shape}, scale {scale.shape}, bias {bias.shape}"
        )
    return x, scale, bias, epsilon


def as_parts(parts: int, x: jax.Array) -> int:
    """Checks the number of parts of a batch."""
    parts = as_int("parts", parts)
    if parts < 1 or (parts > 1 and x.shape[0] % parts):  # a batch may be a symbol
        raise ValueError(f"parts must be at least 1 and divide the batch, got {parts} for a batch of {x.shape[0]}")
    return parts


def by_parts(norm: Callable[[jax.Array], Triple], x: jax.Array, parts: int) -> Triple:
    """Applies a norm to each part of a batch; its statistics are the means of those of the parts."""
    y, mean, var = jax.vmap(norm)(x.reshape(parts, len(x) // parts, *x.shape[1:]))
    return y.reshape(len(x), *y.shape[2:]), mean.mean(0), var.mean(0)


@partial(jax.custom_jvp, nondiff_argnums=(3,))
@partial(jax.jit, static_argnums=3)
def _batch_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> Triple:
    mean, var = mean_and_variance(x)
    slope = scale * lax.rsqrt(var + epsilon)
    return (x - with_axes_of(x, mean)) * with_axes_of(x, slope) + with_axes_of(x, bias), mean, var


@_batch_norm.defjvp
def _batch_norm_jvp(epsilon: float, primals: Triple, tangents: Triple) -> tuple[Triple, Triple]:
    # arranged so that neither this nor its transpose writes x - mean to memory, and that the cotangent is read once for
    # both of its sums, which XLA does not do for the derivative that autodiff finds
    x, scale, _ = primals
    dx, dscale, dbias = tangents
    y, mean, var = _batch_norm(*primals, epsilon)
    root = lax.rsqrt(var + epsilon)
    dmean = channel_mean(dx)
    dvar = 2 * (channel_mean(x * dx) - mean * dmean)
    slope = root * dscale - 0.5 * scale * root**3 * dvar
    offset = dbias - scale * root * dmean - mean * slope
    dy = with_axes_of(x, scale * root) * dx + x * with_axes_of(x, slope) + with_axes_of(x, offset)
    return (y, mean, var), (dy, dmean, dvar)


def mean_and_variance(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the variance of each channel, of one pass over x."""
    mean = channel_mean(x)
    return mean, jnp.maximum(channel_mean(x * x) - mean * mean, 0)


def channel_mean(x: jax.Array) -> jax.Array:
    """Returns the mean of each channel; XLA sums a matrix faster than an array of more axes."""
    return x.reshape(-1, x.shape[-1]).sum(0) / (x.size // x.shape[-1])


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _normalize(x: jax.Array, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    wide = x.astype(accumulator_dtype(x.dtype))
    base = k + alpha * channel_sum(jnp.square(wide), size // 2, (size - 1) // 2)
    if beta == 0.75:  # as published: two roots are faster than a power
        root = lax.rsqrt(base)
        return (wide * root * jnp.sqrt(root)).astype(x.dtype)
    return (wide * base**-beta).astype(x.dtype)
