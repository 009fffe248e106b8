"""Activation functions with a trained parameter; those without one are functions of `cnnjax.ops`.

One of your own is a module of a few lines, which trains, saves and prints in the layer table like any other:

    class LearnedTanh(layers.Layer):
        def __init__(self, features: int):
            self.alpha = nnx.Param(jnp.ones(features))

        def __call__(self, x: jax.Array) -> jax.Array:
            alpha = self.alpha[...].astype(x.dtype)
            return alpha * jnp.tanh(x)

Where it needs no parameter, write the function: `jnp.tanh(x) ** 3` is one.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax import ops
from cnnjax.layers.base import Layer
from cnnjax.ops.geometry import as_int


class PReLU(Layer):
    """`ops.prelu` with a trained slope: x where x > 0, else alpha x.

    x `(..., C)` -> `(..., C)`.

    Args:
      features: 1 for one slope, else the channels C for one slope each.
      init: the slopes at first.

    Example:
      >>> PReLU(2)(jnp.array([[-4.0, 8.0]]))
      Array([[-1.,  8.]], dtype=float32)

    References:
      He et al., Delving deep into rectifiers, ICCV 2015, arXiv:1502.01852.
    """

    def __init__(self, features: int = 1, *, init: float = 0.25):
        self.alpha = _filled(features, init)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the function to x `(..., C)`."""
        return ops.prelu(x, self.alpha[...].astype(x.dtype))


class Swish(Layer):
    """`ops.swish` with a trained beta: x sigmoid(beta x).

    x `(..., C)` -> `(..., C)`.

    Args:
      features: 1 for one beta, else the channels C for one beta each.
      init: beta at first; of 1 it is `ops.silu`.

    Example:
      >>> Swish(init=0.0)(jnp.array([[-4.0, 8.0]]))
      Array([[-2.,  4.]], dtype=float32)

    References:
      Ramachandran, Zoph and Le, Searching for activation functions, arXiv:1710.05941.
    """

    def __init__(self, features: int = 1, *, init: float = 1.0):
        self.beta = _filled(features, init)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the function to x `(..., C)`."""
        return ops.swish(x, self.beta[...].astype(x.dtype))


class ScaledSigmoid(Layer):
    """`ops.scaled_sigmoid` with a trained scale: alpha sigmoid(x).

    x `(..., features)` -> `(..., features)`.

    While alpha is 0 no gradient passes to the layers before it: the first update moves alpha alone.

    Args:
      features: of x; each has an alpha of its own.
      init: alpha at first.

    Example:
      >>> ScaledSigmoid(2, init=2.0)(jnp.zeros((1, 2)))
      Array([[1., 1.]], dtype=float32)
    """

    def __init__(self, features: int, *, init: float = 0.0):
        self.alpha = _filled(features, init)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the function to x `(..., features)`."""
        return ops.scaled_sigmoid(x, self.alpha[...].astype(x.dtype))


def _filled(features: int, value: float) -> nnx.Param:
    """Returns a float32 parameter `(features,)` of one value."""
    if as_int("features", features) < 1:
        raise ValueError(f"features must be at least 1, got {features}")
    return nnx.Param(jnp.full((features,), value, jnp.float32))
