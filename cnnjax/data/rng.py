"""Random keys as a function of (seed, purpose, index): nothing random is ever carried along.

Each purpose has a number of its own, so that, say, another number of augmentations leaves the order of
the examples alone.  The numbers are part of every recorded result: add new ones, never renumber.
"""

import jax

INIT = 0
SHUFFLE = 1
AUGMENT = 2
HOLD_OUT = 3
DROPOUT = 4
CURVATURE = 5
FOLDS = 6


def key(seed, purpose, index=0) -> jax.Array:
    """``fold_in(fold_in(key(seed), purpose), index)``: the key of the ``index``-th draw for one purpose.

    Args:
      seed: int, the run's seed.
      purpose: one of ``INIT``, ``SHUFFLE``, ``AUGMENT``, ``HOLD_OUT``, ``DROPOUT``, ``CURVATURE``, ``FOLDS``.
      index: int or int32 scalar, traced or not: the epoch or the step.

    Returns:
      A typed scalar key.  Always threefry2x32, whatever ``jax_default_prng_impl`` says.
    """
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(root, purpose), index)
