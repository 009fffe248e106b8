"""Scores of a split: the means of loss and metrics over all examples, each counted once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax.train import devices
from cnnjax.train.examples import Examples, Split, gather
from cnnjax.train.losses import Loss, Metric, batch_values
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
        self._mesh, self._size = mesh, BATCH_SIZE * mesh.size
        self._values = jax.jit(lambda outputs, y: batch_values(loss, metrics, outputs, y)[1])

    def scores(self, state: TrainState, split: Split) -> dict[str, float]:
        """Returns the mean over the examples of each value, by name: `loss` and the metrics.

        Loss and metrics are means over a batch; those of the batches are weighted by their examples.
        """
        sums: dict[str, float] = {}
        counts = [min(self._size, len(split) - start) for start in range(0, len(split), self._size)]
        of_batches = (
            self._values(outputs, devices.replicate(self._mesh, batch.y))
            for outputs, batch in self._batches(state, split)
        )
        for values, count in zip(_fetch(of_batches), counts, strict=True):
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value) * count
        return {name: total / len(split) for name, total in sums.items()}

    def outputs(self, state: TrainState, split: Split) -> Tree:
        """Returns the outputs for all examples, on the host, in order."""
        parts = _fetch(outputs for outputs, _ in self._batches(state, split))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _batches(self, state: TrainState, split: Split) -> Iterator[tuple[Tree, Examples]]:
        for start in range(0, len(split), self._size):
            batch = gather(split, np.arange(start, min(start + self._size, len(split))))
            x = devices.share_out(self._mesh, pad_batch(batch.x, self._size))
            outputs, count = self._apply(state.evaluated(), state.rest, x), len(batch)
            yield jax.tree.map(lambda leaf, count=count: jax.lax.slice_in_dim(leaf, 0, count), outputs), batch


def _fetch(trees: Iterable[Tree]) -> Iterator[Tree]:
    """Copies the arrays of each tree to the host, while the devices compute those of the next."""
    before = None
    for tree in trees:
        for leaf in jax.tree.leaves(tree):
            leaf.copy_to_host_async()
        if before is not None:
            yield jax.device_get(before)
        before = tree
    if before is not None:
        yield jax.device_get(before)
