"""Vectors for words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers.base import Buffer, Layer


class Embedding(Layer):
    """A vector for each word: ids `(N, *S)`, int, -> `(N, *S, width)`.

    Words have the ids 1 to `vocabulary`. The id 0, no word, has the vector 0, which is not trained.

    Args:
      vocabulary: how many words.
      width: of the vectors.
      trained: whether the vectors are parameters; else they stay as they are.
      table_init: draws the table `(vocabulary + 1, width)`; by default uniform between -0.25 and 0.25.
      dtype: of the output; by default float32, as the table.
      rngs: where the table is drawn from.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        *,
        trained: bool = True,
        table_init: nnx.Initializer | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        table = (table_init or _uniform)(rngs.params(), (vocabulary + 1, width), jnp.float32)
        self.table = (nnx.Param if trained else Buffer)(table.at[0].set(0))
        self.dtype = dtype

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Returns the vectors of ids `(N, *S)`."""
        vectors = jnp.where(ids[..., None] > 0, self.table[...][ids], 0)
        return vectors.astype(self.dtype or vectors.dtype)


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -0.25, 0.25)
