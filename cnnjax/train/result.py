"""What a training returns."""

from __future__ import annotations

from typing import NamedTuple

from flax import nnx

from cnnjax.train.metrics import Record
from cnnjax.train.state import TrainState, Tree


class Result(NamedTuple):
    """Holds what `fit` returns.

    Attributes:
      model: a copy of the net with the last parameters (their moving average, if one was kept), in evaluation mode.
      state: the last state.
      records: those of `metrics.jsonl`.
      outputs: of the test set, `(N, ...)` or a pytree of such; `None` without one, or where a signal ended the run.
        Without the examples that were skipped.
      finished: whether the run came to its end: the last epoch, or early stopping.
      updates: number of updates made by this process.
      seconds: time from the first of them to the last, evaluations included.
      labels: of the test set, in the order of `outputs`; `None` where those are.
      compile_seconds: those of `seconds` in which programs were made.
    """

    model: nnx.Module
    state: TrainState
    records: list[Record]
    outputs: Tree
    finished: bool
    updates: int
    seconds: float
    labels: Tree = None
    compile_seconds: float = 0.0
