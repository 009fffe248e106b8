"""TextCNN (Kim: Convolutional neural networks for sentence classification, EMNLP 2014)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.layers import Conv, Embedding, GlobalMaxPool

#: Which vectors a word has: random and trained; given and fixed; given and trained on; the sum of these two.
FORMS = ("rand", "static", "non-static", "multichannel")


class TextCNN(nnx.Module):
    """Convolutions over 3, 4 and 5 words, of each map its maximum over the sentence, dropout, a dense layer.

    360,902 parameters beside the vectors of the words, at a width of 300. In multichannel form each filter is applied
    to both vectors of a word and the results are added, so it has as many.

    Args:
      num_classes: length of the logits.
      vocabulary: how many different words there are; their ids are 1 to `vocabulary`, 0 is no word.
      width: of the vectors.
      form: ``rand``, ``static``, ``non-static`` or ``multichannel``. The vectors are random in all of them until
        `set_vectors` has given those of a file.
      windows, maps: words that a filter sees, and how many filters there are for each.
      dropout: the share of the maxima that is dropped. As in the paper the others are not enlarged for it; in
        evaluation all are multiplied by ``1 - dropout``.
      dtype: of the computation; parameters are float32.
      rngs: where the weights are drawn from. As in the paper's code: vectors uniform within 0.25, filters within 0.01,
        the dense layer 0.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        vocabulary: int,
        width: int = 300,
        form: str = "rand",
        windows: Sequence[int] = (3, 4, 5),
        maps: int = 100,
        dropout: float = 0.5,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, was {form!r}")
        if not windows or min(windows) < 1:
            raise ValueError(f"windows must be numbers of words, as (3, 4, 5), was {windows!r}")
        self.kept = 1 - dropout
        self.longest = max(windows)
        how: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        kinds = {"static": (False,), "multichannel": (True, False)}.get(form, (True,))
        self.vectors = nnx.List([Embedding(vocabulary, width, trained=trained, **how) for trained in kinds])
        if form == "multichannel":
            self.vectors[1].table[...] = self.vectors[0].table[...]
        self.convs = nnx.List([Conv(width, maps, (w,), kernel_init=within(0.01), **how) for w in windows])
        self.pool = GlobalMaxPool()
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.dense = nnx.Linear(maps * len(windows), num_classes, kernel_init=zeros, **how)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Sentences (N, L), int, to logits (N, num_classes)."""
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer) or ids.shape[1] < self.longest:
            raise ValueError(f"ids must be ints (N, L) with L at least {self.longest}, was {ids.dtype}{ids.shape}")
        x = reduce(operator.add, [vectors(ids) for vectors in self.vectors])  #      (N, L, width)
        maxima = [jax.nn.relu(self.pool(conv(x))) for conv in self.convs]  # ReLU commutes with the maximum
        return self.dense(self.dropout(jnp.concatenate(maxima, -1)) * self.kept)

    def set_vectors(self, ids: jax.typing.ArrayLike, vectors: jax.typing.ArrayLike) -> None:
        """Give the words `ids` (M,) these vectors (M, width); the others keep theirs."""
        for embedding in self.vectors:
            embedding.table[...] = embedding.table[...].at[ids].set(vectors)


def within(bound: float) -> nnx.Initializer:
    """Uniform between -bound and bound."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)
