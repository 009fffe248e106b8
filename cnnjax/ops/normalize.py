"""Normalisation across channels."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from cnnjax.ops.arguments import as_float_array, as_number, meets_habits, pooled_rank
from cnnjax.ops.geometry import as_int, slide
from cnnjax.ops.pool import sum_of_windows


@meets_habits
def local_response_norm(
    x: jax.Array, *, size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 2.0
) -> jax.Array:
    """AlexNet's local response normalisation: each element over a power of the energy of its neighbour channels.

        y[n, s, c] = x[n, s, c] / (k + alpha sum_j x[n, s, j]^2)^beta

    with j over the channels from c - size // 2 to c + (size - 1) // 2 that there are.

    Args:
        x: (N, *S, C), one to three spatial dimensions.
        size: how many neighbouring channels count, the channel itself among them; with an even one the odd
            neighbour is the lower.
        alpha: the factor of the sum, as the paper has it: not divided by size.  PyTorch, Caffe and ONNX
            divide theirs, so their alpha is this one times size.
        beta: the power.
        k: what stands beside the sum, at least 0; PyTorch's default is 1.

    Returns:
        (N, *S, C) of x's dtype; computed in float32, or in float64 where that is the dtype.

    Raises:
        TypeError: an argument is of the wrong kind, or x is not of a float dtype.
        ValueError: size is below 1, k is negative, or x has not one to three spatial dimensions.

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


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _normalize(x: jax.Array, size: int, alpha: float, beta: float, k: float) -> jax.Array:
    channels = x.shape[-1]
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # a pool over the channels; beyond their other end there is nothing to count
    low, high = min(size // 2, channels - 1), min((size - 1) // 2, channels - 1)
    windows = slide((channels,), (low + high + 1,), padding=((low, high),))
    line = jnp.square(wide).reshape(math.prod(x.shape[:-1]), channels, 1)
    energy = sum_of_windows(line, windows).reshape(x.shape)
    return (wide * (k + alpha * energy) ** -beta).astype(x.dtype)
