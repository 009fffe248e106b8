"""TextCNN (Kim, EMNLP 2014).

Convolutional neural networks for sentence classification.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers import Conv, Embedding, GlobalMaxPool

#: Word vectors: random and trained; given and fixed; given and trained; the last two added.
FORMS = ("rand", "static", "non-static", "multichannel")


class TextCNN(nnx.Module):
    """Convolutions over words, their maxima over the sentence, and a dense layer.

    It has 360,902 parameters beside the word vectors, at a width of 300. In the multichannel form each filter is
    applied to both vectors of a word and the results are added, so that it has as many.

    Args:
      num_classes: number of logits.
      vocabulary: number of different words; their ids are 1 to `vocabulary`, 0 is padding.
      width: of the word vectors.
      form: `rand`, `static`, `non-static` or `multichannel`. The vectors are random in all of them until
        `set_vectors` is called.
      windows: widths of the filters, in words.
      maps: number of filters of each width.
      dropout: fraction of the maxima that is dropped. As in the paper the others are not scaled up in training; in
        evaluation all are multiplied by `1 - dropout`.
      dtype: of the computation; parameters are float32.
      rngs: source of the weights. As in the paper's code: vectors uniform within 0.25, filters within 0.01,
        the dense layer 0.

    Raises:
      ValueError: no such form, or no windows.
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
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, was {form!r}")
        if not windows or min(windows) < 1:
            raise ValueError(f"windows must be numbers of words, as (3, 4, 5), was {windows!r}")
        self.kept = 1 - dropout
        self.longest = max(windows)
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        kinds = {"static": (False,), "multichannel": (True, False)}.get(form, (True,))
        self.vectors = nnx.List([Embedding(vocabulary, width, trained=trained, **common) for trained in kinds])
        if form == "multichannel":
            self.vectors[1].table[...] = self.vectors[0].table[...]
        self.convs = nnx.List([Conv(width, maps, (w,), kernel_init=uniform_within(0.01), **common) for w in windows])
        self.pool = GlobalMaxPool()
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.dense = nnx.Linear(maps * len(windows), num_classes, kernel_init=zeros, **common)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Maps sentences (N, L), int, to logits (N, num_classes)."""
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer) or ids.shape[1] < self.longest:
            raise ValueError(f"ids must be ints (N, L) with L at least {self.longest}, was {ids.dtype}{ids.shape}")
        x = reduce(operator.add, [vectors(ids) for vectors in self.vectors])  #      (N, L, width)
        maxima = [jax.nn.relu(self.pool(conv(x))) for conv in self.convs]  # ReLU commutes with the maximum
        return self.dense(self.dropout(jnp.concatenate(maxima, -1)) * self.kept)

    def set_vectors(self, ids: jax.typing.ArrayLike, vectors: jax.typing.ArrayLike) -> None:
        """Sets the vectors (M, width) of the words `ids` (M,); the others keep theirs."""
        for embedding in self.vectors:
            embedding.table[...] = embedding.table[...].at[ids].set(vectors)


def uniform_within(bound: float) -> nnx.Initializer:
    """Returns an initializer that draws uniformly between -bound and bound."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)
