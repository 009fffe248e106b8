"""Pictures of a training: curves over the epochs and over the updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.report.figures import new_figure, save

Record = dict[str, Any]  # "step" and "epoch", ints, and scores by name, floats


def curves(records: Sequence[Record], path: Path) -> None:
    """Draws loss (log scale) and accuracy over the epochs.

    Args:
      records: those of `metrics.jsonl`; of the training records each epoch's mean is drawn, and every evaluation.
      path: the PNG file.
    """
    figure = new_figure(10, 4)
    panels = figure.subplots(1, 2)
    for split, style in (("train", "C0-"), ("validation", "C2.-"), ("test", "C1.-")):
        for panel, what in zip(panels, ("loss", "accuracy"), strict=True):
            epochs, values = by_epoch(records, f"{split}_{what}")
            if epochs:
                label = "train (batches as augmented)" if split == "train" else split
                panel.plot(epochs, values, style, label=label, markersize=4, linewidth=1.2)
    panels[0].set(xlabel="epoch", ylabel="loss", yscale="log", title="loss")
    panels[1].set(xlabel="epoch", ylabel="accuracy", title="accuracy")
    panels[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    for panel in panels:
        panel.grid(alpha=0.3, which="both")
        panel.legend()
        panel.xaxis.get_major_locator().set_params(integer=True)
    save(figure, path)


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
