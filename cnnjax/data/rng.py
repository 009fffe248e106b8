"""Random keys as a function of (seed, purpose, index).

No random state is carried from step to step.

Each purpose has its own number, so that more draws for one, such as the augmentation, leave the others unchanged. The
numbers are part of every recorded result: add new ones, never renumber.
"""

import jax

INIT = 0
SHUFFLE = 1
AUGMENT = 2
HOLD_OUT = 3
DROPOUT = 4
CURVATURE = 5
FOLDS = 6
FLIP = 7


def root(seed: int | jax.Array) -> jax.Array:
    """Returns the key that all keys of a seed are made from; `key` takes it for the seed, so that `jax.vmap` can."""
    return jax.random.key(seed, impl="threefry2x32")


def key(seed: int | jax.Array, purpose: int, index: int | jax.Array = 0) -> jax.Array:
    """Returns the key of the `index`-th draw for one purpose.

    It is `fold_in(fold_in(key(seed), purpose), index)`.

    Args:
      seed: int, the run's seed; or its `root`.
      purpose: one of `INIT`, `SHUFFLE`, `AUGMENT`, `HOLD_OUT`, `DROPOUT`, `CURVATURE`, `FOLDS`, `FLIP`.
      index: int or int32 scalar, traced or not: the epoch or the step.

    Returns:
      A typed scalar key. Always threefry2x32, whatever `jax_default_prng_impl` says.
    """
    is_root = isinstance(seed, jax.Array) and jax.dtypes.issubdtype(seed.dtype, jax.dtypes.prng_key)
    own = seed if is_root else root(seed)
    return jax.random.fold_in(jax.random.fold_in(own, purpose), index)
