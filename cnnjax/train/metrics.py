"""Records of a run: means over updates, `metrics.jsonl` and TensorBoard events."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from cnnjax.errors import UserError
from cnnjax.train.examples import SPLITS

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

Record = dict[str, Any]  # "step" and "epoch", ints, and scores by name, floats


class Means:
    """Collects the values of updates by name; their means are those of a record.

    Args:
      sums: sum and count by name, as `to_json` returned them.
    """

    def __init__(self, sums: Mapping[str, Sequence[float]] = {}):
        self._sums = {name: (float(total), int(count)) for name, (total, count) in sums.items()}

    def add(self, values: Mapping[str, float]) -> None:
        """Adds the values of one update."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1

    def take(self) -> dict[str, float]:
        """Returns the means by name, and begins anew."""
        sums, self._sums = self._sums, {}
        return {name: total / count for name, (total, count) in sums.items()}

    def to_json(self) -> dict[str, list[float]]:
        """Returns what `__init__` takes: JSON keeps every bit of a float."""
        return {name: [total, count] for name, (total, count) in self._sums.items()}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes `exp(l_i) / sum_j exp(l_j)` over the last axis, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def read(path: Path) -> list[Record]:
    """Reads the records of a metrics.jsonl; skips a last line that a kill cut short.

    Raises:
      UserError: another line cannot be read.
    """
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is cut short, or empty
        try:
            records.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path}: line {number} is not JSON: {line[:80]!r}. Mend or remove that line.") from None
    return records


class MetricsLog:
    """Appends records to `metrics.jsonl` and TensorBoard, one per step, even after a kill.

    Opened at step N it drops the records of later steps: they are about to be made again, to the bit.

    Args:
      workdir: the run's folder; `None` keeps the records in memory alone.
      step: the number of updates done.
      writes: False in a process beside the main one, which reads the older records and keeps the new ones in memory.
    """

    def __init__(self, workdir: Path | None, step: int, *, writes: bool = True):
        self.records: list[Record] = []
        self._file: TextIO | None = None
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        self.records = [record for record in read(path) if record["step"] <= step]
        if not writes:
            return
        fresh = path.with_suffix(".new")
        fresh.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        os.replace(fresh, path)
        self._file = open(path, "a")  # noqa: SIM115
        self._events = _summary_writer(str(workdir / "events"), purge_step=step + 1)

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Adds the record `{"step", "epoch", **values}`.

        TensorBoard groups names such as `test_loss` by split.
        """
        record = {"step": step, "epoch": epoch, **values}
        self.records.append(record)
        if self._file is None:
            return
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            split, _, what = name.partition("_")
            self._events.add_scalar(f"{split}/{what}" if split in SPLITS else name, value, step)

    def flush(self) -> None:
        """Writes everything to disk: a checkpoint must not be newer than its records."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes both files."""
        if self._file is not None:
            self._file.close()
            self._events.close()


def add_hyperparameters(workdir: Path, config: Mapping[str, Any], record: Record) -> None:
    """Adds a run to TensorBoard's hparams view: its settings that are scalars, and the scores of a record."""
    settings = {name: value for name, value in config.items() if isinstance(value, bool | int | float | str)}
    scores = {f"hparam/{name}": value for name, value in record.items() if name not in ("step", "epoch")}
    with _summary_writer(str(workdir / "events")) as events:
        events.add_hparams(settings, scores, name="hparams", global_step=record["step"])


def add_pictures(workdir: Path, step: int, names: Sequence[str]) -> None:
    """Adds each `WORKDIR/NAME.png` to the TensorBoard events, at `step`."""
    from PIL import Image

    with _summary_writer(str(workdir / "events")) as events:
        for name in names:
            with Image.open(workdir / f"{name}.png") as image:
                events.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")


def _summary_writer(folder: str, **options: Any) -> SummaryWriter:
    """Opens TensorBoard events.

    tensorboardX imports torch for the names of its types, which takes longer than all else before the first update: it
    does without where torch cannot be imported.
    """
    hidden = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(hidden)  # type: ignore[arg-type]
    try:
        from tensorboardX import SummaryWriter
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
    return SummaryWriter(folder, **options)
