"""Scores of a split: the means of loss and metrics over all examples, each counted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax.train.examples import Examples, Split, gather
from cnnjax.train.losses import Loss, Metric, Scalars, default_metrics, with_scalars
from cnnjax.train.state import GraphDefs, TrainState, Tree
from cnnjax.train.step import Prepare, Views, make_apply, pad_batch

BATCH_SIZE = 256
"""Examples per device and call."""


class Evaluator:
    """Computes outputs and scores of a split, batch by batch.

    Args:
      net: as `split` returns it.
      mesh: with the axis `"batch"`.
      prepare: turns examples into the model's input.
      views: see `make_predict`.
      loss: as trained on.
      metrics: by name; `None` means the accuracy where labels are classes.
      probabilities: see `make_predict`.
    """

    def __init__(
        self,
        net: GraphDefs,
        mesh: Mesh,
        prepare: Prepare | None,
        views: Views | None,
        loss: Loss,
        metrics: Mapping[str, Metric] | None,
        *,
        probabilities: bool,
    ):
        self._apply = make_apply(net, mesh, prepare, views=views, probabilities=probabilities)
        self._size = BATCH_SIZE * mesh.size
        self._values = jax.jit(_values_of(loss, metrics))

    def scores(self, state: TrainState, split: Split) -> dict[str, float]:
        """Returns the mean over the examples of each value, by name: `loss` and the metrics.

        Loss and metrics are means over a batch; those of the batches are weighted by their examples.
        """
        sums: dict[str, float] = {}
        for outputs, batch in self._batches(state, split):
            for name, value in self._values(outputs, batch.y).items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch)
        return {name: total / len(split) for name, total in sums.items()}

    def outputs(self, state: TrainState, split: Split) -> Tree:
        """Returns the outputs for all examples, on the host, in order."""
        parts = [jax.tree.map(np.asarray, outputs) for outputs, _ in self._batches(state, split)]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _batches(self, state: TrainState, split: Split) -> Iterator[tuple[Tree, Examples]]:
        for start in range(0, len(split), self._size):
            batch = gather(split, np.arange(start, min(start + self._size, len(split))))
            outputs = self._apply(state.evaluated(), state.rest, pad_batch(batch.x, self._size))
            count = len(batch)
            yield jax.tree.map(lambda leaf, count=count: leaf[:count], outputs), batch


def _values_of(loss: Loss, metrics: Mapping[str, Metric] | None) -> Callable[[Tree, Tree], Scalars]:
    def values(outputs: Tree, y: Tree) -> Scalars:
        value, scalars = with_scalars(loss(outputs, y))
        chosen = default_metrics(outputs, y) if metrics is None else metrics
        return {"loss": value, **scalars, **{name: metric(outputs, y) for name, metric in chosen.items()}}

    return values
