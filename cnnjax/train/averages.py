"""The average of the weights over the updates, which often generalises better than the last ones."""

from __future__ import annotations

from typing import TypeVar

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

Tree = TypeVar("Tree")


def ema(average: Tree, params: Tree, decay: float, updates: ArrayLike | None = None) -> Tree:
    """Returns the exponential moving average of parameters after one more update.

        average <- d average + (1 - d) params

    Args:
      average: tree of floating arrays; before the first update, the parameters themselves.
      params: the parameters after the update, a tree alike.
      decay: d, from 0 to below 1; about 1 / (1 - d) updates count.
      updates: how many are in the average already. Where given, d is at most (1 + updates) / (10 + updates), so that an
        average of few updates is not that of the first, random weights.

    Raises:
      ValueError: `decay` is out of range.

    Example:
      >>> ema(jnp.array([1.0]), jnp.array([3.0]), 0.75)
      Array([1.5], dtype=float32)

    References:
      Polyak, Juditsky, Acceleration of stochastic approximation by averaging, 1992.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be from 0 to below 1, was {decay}")
    if updates is None:
        return optax.incremental_update(params, average, 1 - decay)
    count = jnp.asarray(updates, jnp.float32)
    return optax.incremental_update(params, average, 1 - jnp.minimum(decay, (1 + count) / (10 + count)))
