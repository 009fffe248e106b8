"""Pictures of a training: curves over the epochs and over the updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.report.axes import is_accuracy, set_epoch_axis, set_quantity_axis
from cnnjax.report.figures import new_figure, save

Record = dict[str, Any]  # "step" and "epoch", ints, and scores by name, floats
PREFIXES = ("train_epoch_", "train_", "validation_", "test_")
STYLES = {"train": "C0", "validation": "C2", "test": "C1"}
MOST_MARKED = 50  # points of a curve that get a dot each


def curves(records: Sequence[Record], path: Path, *, augmented: bool = False) -> None:
    """Draws the loss and each metric over the epochs, a panel each.

    The axes are those of `set_quantity_axis`: the loss on a log scale, an accuracy as its error on a log scale. The
    legend has the last value of each curve.

    Args:
      records: those of `metrics.jsonl`. Of training the means over the epochs are drawn (`train_epoch_loss`), or those
        of `train_loss` before the first epoch is over; of `validation_` and `test_` every evaluation.
      path: the PNG file.
      augmented: whether training saw distorted images; the legend says so.
    """
    names = quantities(records) or ["loss"]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = new_figure(5 * columns, 4 * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[len(names) :]:
        panel.axis("off")
    for panel, quantity in zip(panels.flat, names, strict=False):
        found = {split: curve(records, split, quantity) for split in STYLES}
        values = {split: of_split for split, (_, of_split) in found.items()}
        drawn = [value for of_split in values.values() for value in of_split]
        error = is_accuracy(quantity, drawn)
        for split, (epochs, of_split) in found.items():
            if not epochs:
                continue
            last = f"{100 * (1 - of_split[-1]):.3g} %" if error else f"{of_split[-1]:.3g}"
            note = " (as augmented)" if split == "train" and augmented else ""
            marker = "." if len(epochs) <= MOST_MARKED else ""
            heights = 1 - np.asarray(of_split) if error else of_split
            panel.plot(
                epochs, heights, color=STYLES[split], marker=marker, linewidth=1.2, label=f"{split}{note}: {last}"
            )
        set_quantity_axis(panel, quantity, drawn, [*values["validation"], *values["test"]])
        set_epoch_axis(panel, [epoch for epochs, _ in found.values() for epoch in epochs])
        panel.grid(alpha=0.3)
        if drawn:
            panel.legend(title="at the end", fontsize=9, title_fontsize=8)
    save(figure, path)


def quantities(records: Sequence[Record]) -> list[str]:
    """Returns what was measured, the loss first: the names of the records without their split."""
    names = dict.fromkeys(name for record in records for name in record)
    found: dict[str, None] = {}
    for name in names:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix:
            found[name.removeprefix(prefix)] = None
    return sorted(found, key=lambda name: name != "loss")


def curve(records: Sequence[Record], split: str, quantity: str) -> tuple[list[int], list[float]]:
    """Returns the epochs and the values of a quantity; of training the means over the epochs."""
    if split == "train":
        epochs, values = by_epoch(records, f"train_epoch_{quantity}")
        if epochs:
            return epochs, values
    return by_epoch(records, f"{split}_{quantity}")


def by_epoch(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    """Returns the epochs that have records of a name, and the mean of each epoch's values."""
    values: dict[int, list[float]] = {}
    for record in records:
        if name in record:
            values.setdefault(record["epoch"], []).append(record[name])
    return list(values), [float(np.mean(v)) for v in values.values()]


def learning_rates(losses: Mapping[float, np.ndarray], path: Path, title: str, *, classes: int | None = None) -> None:
    """Draws the loss over the updates under several learning rates, on a log scale.

    A pale line is the loss of each update, drawn for up to 1,000 of them; a bold line is its mean over a twentieth of
    the updates. Losses above ten times the first loss are cut off, in the mean too. A curve ends before its first loss
    that is not finite, with a cross, and the legend says so.

    Args:
      losses: for each learning rate the loss before each update, `(updates,)`, which may end in NaN or infinity.
      path: the PNG file.
      title: of the picture.
      classes: number of classes; adds the loss of guessing, ln(classes).
    """
    figure = new_figure(8, 4.5)
    panel = figure.subplots()
    span = max(map(len, losses.values()))
    starts = [float(values[0]) for values in losses.values() if finite_length(values)]
    top = 10 * max([*starts, math.log(classes or 10)])
    lowest = top
    for number, (rate, values) in enumerate(losses.items()):
        kept = np.minimum(values[: finite_length(values)], top)
        means, updates = running_mean(kept, max(1, span // 20)), np.arange(1, len(kept) + 1)
        label, colour = f"{rate:g}", f"C{number}"
        if len(kept) < len(values):
            label += f": {'NaN' if np.isnan(values[len(kept)]) else 'infinite'} at update {len(kept) + 1}"
            panel.plot(updates[-1:], kept[-1:], "x", color=colour, markersize=9, markeredgewidth=2, clip_on=False)
        if span <= 1000:  # more of them would hide each other
            panel.plot(updates, kept, color=colour, alpha=0.3, linewidth=0.8)
        panel.plot(updates, means, color=colour, linewidth=1.8, label=label)
        lowest = min([lowest, *means])
    if classes:
        panel.axhline(math.log(classes), color="0.5", linestyle=":", label=f"guessing: ln {classes}")
    panel.set(xlabel="update", ylabel="cross-entropy of the batch", yscale="log", title=title)
    panel.set(xlim=(0, span + 1), ylim=(max(lowest / 3, 1e-6), top))
    panel.grid(alpha=0.3, which="both")
    panel.legend(title="learning rate", fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    save(figure, path)


def finite_length(values: np.ndarray) -> int:
    """Counts the values before the first that is NaN or infinite."""
    not_finite = np.flatnonzero(~np.isfinite(values))
    return int(not_finite[0]) if len(not_finite) else len(values)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Returns the mean of each value and up to `width - 1` values before it: (N,) -> (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    past = np.arange(1, len(values) + 1)
    first = np.maximum(past - width, 0)
    return (sums[past] - sums[first]) / (past - first)
