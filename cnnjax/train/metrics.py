"""Records of a run in `metrics.jsonl` and TensorBoard events; scores computed from logits."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.errors import UserError

Record = dict[str, Any]  # "step" and "epoch", ints, and scores by name, floats
SPLITS = ("train", "validation", "test")


def score(logits: np.ndarray, labels: np.ndarray, loss: Callable[..., jax.Array]) -> dict[str, float]:
    """Returns loss and accuracy of logits (N, C) for labels (N,), by name."""
    return {"loss": float(loss(logits, labels)), "accuracy": float((logits.argmax(-1) == labels).mean())}


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
    """

    def __init__(self, workdir: Path, step: int):
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        self.records = [record for record in read(path) if record["step"] <= step]
        fresh = path.with_suffix(".new")
        fresh.write_text("".join(json.dumps(record) + "\n" for record in self.records))
        os.replace(fresh, path)
        self._file = open(path, "a")  # noqa: SIM115
        self._events = SummaryWriter(str(workdir / "events"), purge_step=step + 1)

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Adds the record `{"step", "epoch", **values}`.

        TensorBoard groups names such as `test_loss` by split.
        """
        record = {"step": step, "epoch": epoch, **values}
        self.records.append(record)
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            split, _, what = name.partition("_")
            self._events.add_scalar(f"{split}/{what}" if split in SPLITS else name, value, step)

    def flush(self) -> None:
        """Writes everything to disk: a checkpoint must not be newer than its records."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._events.flush()

    def close(self) -> None:
        """Flushes and closes both files."""
        self._file.close()
        self._events.close()


def add_pictures(workdir: Path, step: int, names: Sequence[str]) -> None:
    """Adds each `WORKDIR/NAME.png` to the TensorBoard events, at `step`."""
    from PIL import Image
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(workdir / "events")) as events:
        for name in names:
            with Image.open(workdir / f"{name}.png") as image:
                events.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
