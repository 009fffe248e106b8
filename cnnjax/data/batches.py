"""The examples of each batch, as functions of (seed, step).

Resuming thus needs no iterator state.
"""

import math
from functools import lru_cache, partial

import jax
import numpy as np

from cnnjax.data import rng
from cnnjax.errors import UserError


@lru_cache(maxsize=2)  # the updates of one call may straddle two epochs
def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """Returns the order of the examples in one epoch.

    It is `jax.random.permutation(key(seed, SHUFFLE, epoch), n)`.

    Args:
      seed: the run's seed.
      epoch: 0, 1, ...
      n: number of training examples.

    Returns:
      `(n,)` int32 on the host, read-only because it is shared with the next caller.
    """
    order = np.array(_permutation(np.int64(seed), np.int64(epoch), n), np.int32)
    order.flags.writeable = False
    return order


@partial(jax.jit, static_argnums=2)  # one program; called as it is, JAX compiles six
def _permutation(seed: jax.Array, epoch: jax.Array, n: int) -> jax.Array:
    return jax.random.permutation(rng.key(seed, rng.SHUFFLE, epoch), n)


def sample(seed: int, epoch: int, n: int, count: int) -> np.ndarray:
    """Draws different examples to look at before an epoch.

    Returns `(count,)` int32, or all n where `count` is larger.
    """
    order = jax.random.permutation(rng.key(seed, rng.CURVATURE, epoch), n)
    return np.array(order[:count], np.int32)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Returns `n // batch_size`: the last, partial batch of an epoch is dropped.

    Raises:
      UserError: not even one batch fits, or `batch_size` is not positive.
    """
    if batch_size < 1:
        raise UserError(f"The batch size is {batch_size}; it must be at least 1.")
    if batch_size > n:
        raise UserError(
            f"The batch size is {batch_size}, more than the {n} training examples; choose a batch size of at most {n}."
        )
    return n // batch_size


def updates_of_run(n: int, batch_size: int, epochs: float) -> int:
    """Returns the updates of a run, `epochs` times those of an epoch, rounded up: epochs may be a fraction."""
    return math.ceil(round(steps_per_epoch(n, batch_size) * epochs, 6))  # 0.1 x 30 is 3.0000000000000004


def indices(seed: int, step: int, count: int, n: int, batch_size: int) -> np.ndarray:
    """Returns the examples of `count` updates from `step` on.

    Update t takes entries `[i * batch_size, (i + 1) * batch_size)` of `permutation(seed, epoch, n)`, where
    `epoch, i = divmod(t, steps_per_epoch(n, batch_size))`.

    Args:
      seed: the run's seed.
      step: number of the first update, from 0.
      count: number of updates.
      n: number of training examples.
      batch_size: examples per update.

    Returns:
      `(count, batch_size)` int32 on the host, each in `0..n-1`.

    Raises:
      UserError: not even one batch fits, or `batch_size` is not positive.
    """
    per_epoch = steps_per_epoch(n, batch_size)
    batches = np.empty((count, batch_size), np.int32)
    for row in range(count):
        epoch, i = divmod(step + row, per_epoch)
        batches[row] = permutation(seed, epoch, n)[i * batch_size : (i + 1) * batch_size]
    return batches
