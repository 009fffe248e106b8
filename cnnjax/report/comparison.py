"""Runs beside each other: scores as mean and standard deviation, and overlaid curves with bands."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnjax.report.axes import is_accuracy, set_epoch_axis, set_quantity_axis
from cnnjax.report.figures import new_figure, plain, save
from cnnjax.report.training import MOST_MARKED, PREFIXES, Record, by_epoch, quantities

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Runs = Sequence[Sequence[Record]]  # the records of each run of a group, which differ in their seeds
HELD_OUT = ("test", "validation")
LETTERS_OF_A_LINE = 45  # of the legend, per panel above it


def comparison(groups: Mapping[str, Runs], path: Path) -> None:
    """Draws the mean curves of groups of runs over each other, a panel for each quantity that all have.

    A solid line is the mean over the runs on the test set (or on the validation set, or in training, where all groups
    have no other), a dashed one that of training; a band reaches one standard deviation to both sides. A line ends
    with the shortest run of its group. The axes are those of `set_quantity_axis`.

    Args:
      groups: for each group its label and the records of each of its runs.
      path: the PNG file.

    Raises:
      ValueError: the runs have no score in common.
    """
    names = common_scores([run for runs in groups.values() for run in runs])
    measured = [name for name in quantities([dict.fromkeys(names)]) if solid_split(names, name)]
    if not measured:
        raise ValueError(f"groups must have a score in common, of a test or validation set or of whole epochs; got "
                         f"the labels {list(groups)}")  # fmt: skip
    columns = min(len(measured), 3)
    rows = -(-len(measured) // columns)
    labels = [
        textwrap.fill(f"{plain(label)} (n = {len(runs)})", LETTERS_OF_A_LINE * columns)
        for label, runs in groups.items()
    ]
    lines = sum(label.count("\n") + 1 for label in labels)
    figure = new_figure(5 * columns, 4 * rows + 0.5 + 0.19 * lines)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[len(measured) :]:
        panel.axis("off")
    for panel, quantity in zip(panels.flat, measured, strict=False):
        _draw_quantity(panel, quantity, names, groups)
    handles = [line for line in panels.flat[0].get_lines() if line.get_linestyle() == "-"]
    figure.legend(handles, labels, loc="outside lower left", fontsize=9)
    splits = list(dict.fromkeys(solid_split(names, quantity) for quantity in measured))
    title = f"solid: {' or '.join(map(str, splits))}"
    if any(_train_name(names, quantity) for quantity in measured) and splits != ["train"]:
        title += "; dashed: train"
    if any(len(runs) > 1 for runs in groups.values()):
        title += "; bands: one standard deviation over the runs to both sides"
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def common_scores(runs: Runs) -> list[str]:
    """Returns the names of the scores that all runs have: of test and validation sets, and means over epochs.

    They are sorted by split, test first, and are in the order of the records otherwise.
    """
    wanted = ("test_", "validation_", "train_epoch_")
    found = [{name: None for record in run for name in record if name.startswith(wanted)} for run in runs]
    common = [name for name in (found[0] if found else ()) if all(name in other for other in found)]
    return sorted(common, key=lambda name: next(n for n, prefix in enumerate(wanted) if name.startswith(prefix)))


def solid_split(names: Sequence[str], quantity: str) -> str | None:
    """Returns the split of a quantity that says most: test, then validation, then train; `None` without any."""
    held_out = next((split for split in HELD_OUT if f"{split}_{quantity}" in names), None)
    return held_out or ("train" if _train_name(names, quantity) else None)


def mean_curve(runs: Runs, name: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Returns the epochs at which all runs have a score, its means there, and its standard deviations.

    The deviations of a single run are zero.

    Example:
      >>> one, other = ([{"epoch": 1, "test_loss": loss}] for loss in (1.0, 3.0))
      >>> epochs, means, deviations = mean_curve([one, other], "test_loss")
      >>> epochs, float(means[0]), round(float(deviations[0]), 3)
      ([1], 2.0, 1.414)
    """
    found = [dict(zip(*by_epoch(run, name), strict=True)) for run in runs]
    epochs = [epoch for epoch in found[0] if all(epoch in other for other in found)]
    values = np.array([[of_run[epoch] for epoch in epochs] for of_run in found]).reshape(len(found), len(epochs))
    deviations = values.std(0, ddof=1) if len(runs) > 1 else np.zeros(len(epochs))
    return epochs, values.mean(0), deviations


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the standard deviation (of a sample, `n - 1`), which one value does not have."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def score_text(name: str, values: Sequence[float]) -> str:
    """Writes a score of several runs as mean ± standard deviation, accuracies in per cent.

    Example:
      >>> score_text("test_accuracy", [0.99, 0.98])
      '98.50 ± 0.71 %'
      >>> score_text("test_loss", [0.25])
      '0.25'
    """
    quantity = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), name)
    mean, deviation = mean_and_deviation(values)
    if is_accuracy(quantity, values):
        return f"{100 * mean:.2f} %" if deviation is None else f"{100 * mean:.2f} ± {100 * deviation:.2f} %"
    if not deviation or not math.isfinite(deviation):
        return f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:g}"
    decimals = max(0, 1 - math.floor(math.log10(deviation)))  # two digits of the deviation, as many of the mean
    return f"{mean:.{decimals}f} ± {deviation:.{decimals}f}"


def _train_name(names: Sequence[str], quantity: str) -> str | None:
    name = f"train_epoch_{quantity}"
    return name if name in names else None


def _draw_quantity(panel: Axes, quantity: str, names: Sequence[str], groups: Mapping[str, Runs]) -> None:
    """Draws one quantity of all groups, the solid lines first and in the order of the groups."""
    split = solid_split(names, quantity)
    solid = _train_name(names, quantity) if split == "train" else f"{split}_{quantity}"
    dashed = None if split == "train" else _train_name(names, quantity)
    found = {
        (name, label): mean_curve(runs, name)
        for name in (solid, dashed) if name
        for label, runs in groups.items()
    }  # fmt: skip
    drawn = [float(value) for _, means, _ in found.values() for value in means]
    error = is_accuracy(quantity, drawn)
    few = max(len(epochs) for epochs, _, _ in found.values()) <= MOST_MARKED
    for number, ((name, _), (epochs, means, deviations)) in enumerate(found.items()):
        colour, main = f"C{number % len(groups)}", name == solid
        heights = 1 - means if error else means
        marker = "." if main and few else ""
        panel.plot(epochs, heights, color=colour, marker=marker, linestyle="-" if main else "--",
                   linewidth=1.3 if main else 0.9, alpha=1.0 if main else 0.8)  # fmt: skip
        if main and deviations.any():
            panel.fill_between(epochs, heights - deviations, heights + deviations, color=colour, alpha=0.2, linewidth=0)
    held_out = [float(value) for (name, _), (_, means, _) in found.items() if name == solid for value in means]
    set_quantity_axis(panel, quantity, drawn, held_out)
    set_epoch_axis(panel, [epoch for epochs, _, _ in found.values() for epoch in epochs])
    panel.grid(alpha=0.3)
