"""How kernels are drawn, beyond what `nnx.initializers` has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def dirac(init: nnx.Initializer) -> nnx.Initializer:
    """Returns an initialiser of convolutions that at first hand on their input, channel by channel.

    Of a kernel `(*window, C, F)` the first min(C, F) filters become the identity, 1 in the middle of the window for the
    filter's own channel and else 0; the others are drawn by `init`. It is PyTorch's `dirac_` of the first C filters.

    Args:
      init: draws the whole kernel first.

    Example:
      >>> dirac(nnx.initializers.ones)(jax.random.key(0), (3, 1, 2), jnp.float32)[:, 0]
      Array([[0., 1.],
             [1., 1.],
             [0., 1.]], dtype=float32)

    References:
      Zagoruyko, Komodakis, DiracNets: training very deep neural networks without skip-connections, 2017,
      arXiv:1706.00388.
    """

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
        *window, channels, filters = shape
        count, middle = min(channels, filters), tuple(side // 2 for side in window)
        drawn = init(key, tuple(shape), dtype)
        identity = jnp.zeros((*window, channels, count), dtype).at[middle].set(jnp.eye(channels, count, dtype=dtype))
        return jnp.concatenate([identity, drawn[..., count:]], axis=-1)

    return draw
