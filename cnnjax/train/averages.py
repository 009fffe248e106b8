"""Averages of the weights over the updates, which often generalise better than the last ones."""

from __future__ import annotations

from typing import TypeVar

import jax
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
    share = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    moved = optax.incremental_update(*jax.tree.map(_wide, (params, average)), share)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, average)


def lookahead(slow: Tree, fast: Tree, updates: ArrayLike, *, every: int, total: int) -> tuple[Tree, Tree]:
    """Returns slow and fast arrays after one more update of the fast ones: every so often both meet.

    After `every` updates, and again and again, the slow ones move towards the fast ones, which go on from there:

        slow <- d slow + (1 - d) fast,   fast <- slow,   d = 0.95^every (t / total)^3

    After the last update the fast ones become the slow ones, which do not move where it is no multiple of `every`.

    Args:
      slow: tree of arrays; before the first update, the fast ones themselves.
      fast: tree of arrays, as the optimiser and batch norm left them. Others than floats, such as counts, are theirs.
      updates: t, done so far, this one included.
      every: updates from one meeting to the next.
      total: updates of the whole run.

    Returns:
      `(slow, fast)`.

    References:
      Zhang, Lucas, Hinton, Ba, Lookahead optimizer: k steps forward, 1 step back, 2019, arXiv:1907.08610. The schedule,
      and that running statistics count: Jordan, 2024, arXiv:2404.00498.
    """
    done = jnp.asarray(updates, jnp.int32)
    decay = 0.95**every * (done.astype(jnp.float32) / total) ** 3
    meets, ends = done % every == 0, done == total

    def move(slow: jax.Array, fast: jax.Array) -> jax.Array:
        if not jnp.issubdtype(fast.dtype, jnp.floating):
            return slow
        moved = _wide(slow) + (1 - decay).astype(_wide(slow).dtype) * (_wide(fast) - _wide(slow))
        return jnp.where(meets, moved.astype(slow.dtype), slow)

    def follow(slow: jax.Array, fast: jax.Array) -> jax.Array:
        return jnp.where(meets | ends, slow, fast) if jnp.issubdtype(fast.dtype, jnp.floating) else fast

    slow = jax.tree.map(move, slow, fast)
    return slow, jax.tree.map(follow, slow, fast)


def _wide(x: jax.Array) -> jax.Array:
    """Casts halves to float32, in which averages are computed."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
