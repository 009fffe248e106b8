"""Scores of a split: the means of loss and metrics over all examples, each counted once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.errors import UserError
from cnnjax.train import devices
from cnnjax.train.examples import Split, specs
from cnnjax.train.losses import Loss, Metric, Scalars, batch_values
from cnnjax.train.reading import Read, Skipped, read_batches
from cnnjax.train.state import GraphDefs, TrainState, Tree
from cnnjax.train.step import Prepare, Views, make_apply

BATCH_SIZE = 256
"""Examples per device and call."""


class Evaluator:
    """Computes outputs and scores of a split, batch by batch; each process reads its devices' share of them.

    Args:
      net: as `split` returns it.
      mesh: with the axis `"batch"`.
      prepare: turns examples into the model's input.
      views: see `make_predict`.
      loss: as trained on.
      metrics: by name; `None` means the accuracy where labels are classes.
      probabilities: see `make_predict`.
      workers: threads that read a source.
      skipped: takes the corrupt examples, which count in no score; None raises.
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
        workers: int = 1,
        skipped: Skipped | None = None,
    ):
        self._apply = make_apply(net, mesh, prepare, views=views, probabilities=probabilities)
        self._mesh, self._size, self._workers, self._skipped = mesh, BATCH_SIZE * mesh.size, workers, skipped

        @partial(jax.jit, static_argnums=2, out_shardings=NamedSharding(mesh, PartitionSpec()))
        def values(outputs: Tree, y: Tree, count: int, rows: jax.Array | None) -> Scalars:
            outputs, y = jax.tree.map(lambda leaf: leaf[:count] if rows is None else leaf[rows], (outputs, y))
            return batch_values(loss, metrics, outputs, y)[1]

        self._values = values

    def check(self, state: TrainState, name: str, split: Split) -> None:
        """Raises UserError where a split cannot be evaluated: before anything is trained, and without computing."""
        rows = self._size
        x = jax.tree.map(lambda one: jax.ShapeDtypeStruct((rows, *one.shape[1:]), one.dtype), specs(split).x)
        try:
            outputs = jax.eval_shape(self._apply, state.evaluated(), state.rest, x)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise UserError(f"the net cannot be evaluated on the examples of `data['{name}']`: {error}.") from error
        for path, leaf in jax.tree_util.tree_flatten_with_path(outputs)[0]:
            if leaf.shape[:1] != (rows,):
                which = jax.tree_util.keystr(path, simple=True, separator="/")
                raise UserError(
                    f"the net must give one row for each example in evaluation; its output {which} has shape "
                    f"{leaf.shape} for {rows} examples of `data['{name}']`. Give what is not of examples in training "
                    "mode alone, or broadcast it."
                )

    def scores(self, state: TrainState, split: Split) -> dict[str, float]:
        """Returns the mean over the examples of each value, by name: `loss` and the metrics.

        Loss and metrics are means over a batch; those of the batches are weighted by their examples.
        """
        return self._evaluate(state, split, scores=True, outputs=False)[0]

    def outputs(self, state: TrainState, split: Split) -> tuple[Tree, Tree]:
        """Returns the outputs and the labels of all examples, on the host, in order, whole in each process."""
        return self._evaluate(state, split, scores=False, outputs=True)[1]

    def scores_and_outputs(self, state: TrainState, split: Split) -> tuple[dict[str, float], tuple[Tree, Tree]]:
        """Returns what `scores` and `outputs` return, of one pass over the examples."""
        return self._evaluate(state, split, scores=True, outputs=True)

    def _evaluate(
        self, state: TrainState, split: Split, *, scores: bool, outputs: bool
    ) -> tuple[dict[str, float], tuple[Tree, Tree]]:
        sums: dict[str, float] = {}
        batches: list[Batch] = []
        parts: list[Tree] = []

        def of_batches() -> Iterator[tuple[Scalars, Tree]]:
            for batch in self._batches(state, split):
                batches.append(batch._replace(outputs=None, y=None))  # whose memory is needed
                counts = scores and batch.counted
                values = self._values(batch.outputs, batch.y, batch.counted, batch.rows) if counts else {}
                yield values, devices.readable((batch.outputs, batch.y)) if outputs else ()

        for number, (values, fetched) in enumerate(_fetch(of_batches())):
            batch = batches[number]
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + float(value) * batch.counted
            rows = np.arange(batch.counted) if batch.rows is None else np.asarray(batch.rows)
            parts.append(jax.tree.map(lambda leaf, rows=rows: leaf[rows], fetched))
        total = sum(batch.counted for batch in batches)
        together = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return {name: value / total for name, value in sums.items()}, together

    def _batches(self, state: TrainState, split: Split) -> Iterator[Batch]:
        n, size = len(split), self._size
        own = devices.own_rows(self._mesh, size)

        def rows(batch: int) -> np.ndarray:
            numbers = batch * size + own
            return np.where(numbers < n, numbers, -1)

        reading = read_batches(
            split, rows, 0, -(-n // size), workers=self._workers, skipped=self._skipped, replace=False
        )
        for number, read in enumerate(reading):
            x, y = devices.share_out(self._mesh, tuple(read.examples))
            outputs = self._apply(state.evaluated(), state.rest, x)
            yield Batch(outputs, y, *self._counted(read, own, min(size, n - number * size)))

    def _counted(self, read: Read, own: np.ndarray, count: int) -> tuple[int, jax.Array | None]:
        """Returns how many rows of a batch count: the first ones, or where some were skipped those that are listed."""
        if self._skipped is None:
            return count, None
        there = np.zeros(self._size, bool)
        there[devices.from_all(own)] = devices.from_all(read.there)
        if there[:count].all():
            return count, None
        rows = np.flatnonzero(there).astype(np.int32)
        return len(rows), devices.replicate(self._mesh, rows)


class Batch(NamedTuple):
    """Holds the outputs and labels of a batch on the devices; its first `counted` rows count, or those in `rows`."""

    outputs: Tree
    y: Tree
    counted: int
    rows: jax.Array | None


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
