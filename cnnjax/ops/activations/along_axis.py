"""Activation functions along an axis that jax.nn lacks: projections, gates, and pairs of channels."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.activations.elementwise import gelu
from cnnjax.ops.activations.from_jax import softmax
from cnnjax.ops.activations.parameters import as_axis
from cnnjax.ops.checks import as_float_array
from cnnjax.ops.geometry import as_int
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op


@public_op
def softmin(x: jax.Array, axis: int = -1) -> jax.Array:
    """Returns softmax(-x) along an axis."""
    return softmax(-as_float_array("x", x), axis)


@public_op
def sparsemax(x: jax.Array, axis: int = -1) -> jax.Array:
    """Projects x on the simplex: the nearest point without negative entries that sums to 1 along an axis.

        y = max(x - tau, 0)

    Example:
      >>> sparsemax(jnp.array([0.5, 1.0, -1.0]))
      Array([0.25, 0.75, 0.  ], dtype=float32)

    References:
      Martins and Astudillo, From softmax to sparsemax, ICML 2016, arXiv:1602.02068.
    """
    x = as_float_array("x", x)
    axis = as_axis(x, axis)
    wide = x.astype(accumulator_dtype(x.dtype))
    wide = wide - lax.stop_gradient(wide.max(axis, keepdims=True))  # no change: only differences count
    descending = -jnp.sort(-wide, axis)
    count = lax.broadcasted_iota(wide.dtype, wide.shape, axis) + 1
    # the support is the largest entries, as long as each is above the tau that it leads to
    in_support = 1 + count * descending > jnp.cumsum(descending, axis)
    total = jnp.where(in_support, descending, 0).sum(axis, keepdims=True)
    tau = (total - 1) / in_support.sum(axis, keepdims=True, dtype=wide.dtype)
    return jax.nn.relu(wide - tau).astype(x.dtype)


@public_op
def crelu(x: jax.Array, axis: int = -1) -> jax.Array:
    """Concatenates relu(x) and relu(-x): twice the channels.

    Example:
      >>> crelu(jnp.array([-1.0, 2.0]))
      Array([0., 2., 1., 0.], dtype=float32)

    References:
      Shang et al., Understanding and improving convolutional neural networks via concatenated rectified linear
      units, ICML 2016, arXiv:1603.05201.
    """
    x = as_float_array("x", x)
    return jax.nn.relu(jnp.concatenate([x, -x], as_axis(x, axis)))


@public_op
def maxout(x: jax.Array, pieces: int, axis: int = -1) -> jax.Array:
    """Returns the largest of every `pieces` neighbouring channels; among equals the first takes the gradient.

    Example:
      >>> maxout(jnp.array([1.0, 3.0, 2.0, 0.0]), 2)
      Array([3., 2.], dtype=float32)

    References:
      Goodfellow et al., Maxout networks, ICML 2013, arXiv:1302.4389.
    """
    x = as_float_array("x", x)
    axis, pieces = as_axis(x, axis), as_int("pieces", pieces)
    size = x.shape[axis]
    if pieces < 1 or size % pieces:
        raise ValueError(f"pieces must divide the {size} entries of axis {axis}, got {pieces}")
    x = x.reshape(*x.shape[:axis], size // pieces, pieces, *x.shape[axis + 1 :])
    first = lax.stop_gradient(x).argmax(axis + 1, keepdims=True)
    return jnp.take_along_axis(x, first, axis=axis + 1).squeeze(axis + 1)


@public_op
def glu(x: jax.Array, axis: int = -1) -> jax.Array:
    """Multiplies the first half of an axis by sigmoid of the second: the gated linear unit.

    Example:
      >>> glu(jnp.array([2.0, 3.0, 0.0, 0.0]))
      Array([1. , 1.5], dtype=float32)

    References:
      Dauphin et al., Language modeling with gated convolutional networks, ICML 2017, arXiv:1612.08083.
    """
    return _gated(x, axis, jax.nn.sigmoid)


@public_op
def reglu(x: jax.Array, axis: int = -1) -> jax.Array:
    """Multiplies the first half of an axis by relu of the second.

    References:
      Shazeer, GLU variants improve transformer, arXiv:2002.05202.
    """
    return _gated(x, axis, jax.nn.relu)


@public_op
def geglu(x: jax.Array, axis: int = -1) -> jax.Array:
    """Multiplies the first half of an axis by the exact gelu of the second.

    References:
      Shazeer, GLU variants improve transformer, arXiv:2002.05202.
    """
    return _gated(x, axis, gelu)


@public_op
def swiglu(x: jax.Array, axis: int = -1) -> jax.Array:
    """Multiplies the first half of an axis by silu of the second.

    Example:
      >>> swiglu(jnp.array([2.0, 3.0, 0.0, 0.0]))
      Array([0., 0.], dtype=float32)

    References:
      Shazeer, GLU variants improve transformer, arXiv:2002.05202.
    """
    return _gated(x, axis, jax.nn.silu)


def _gated(x: jax.Array, axis: int, gate: Callable[[jax.Array], jax.Array]) -> jax.Array:
    x = as_float_array("x", x)
    axis = as_axis(x, axis)
    if x.shape[axis] % 2:
        raise ValueError(f"axis must be one of even size, got axis {axis} of shape {x.shape}")
    first, second = jnp.split(x, 2, axis)
    return first * gate(second)
