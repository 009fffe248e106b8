"""The pictures of a run, as PNG files. Drawn on matplotlib figures of their own: no global state, no window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
DOTS_PER_INCH = 130


def curves(records: Sequence[Record], path: Path) -> None:
    """Loss (log scale) and error rate over the epochs: the mean of each epoch's training records, and each evaluation.

    records: what metrics.jsonl holds.
    """
    figure = _figure(10, 4)
    panels = figure.subplots(1, 2)
    for split, style in (("train", "C0-"), ("validation", "C2.-"), ("test", "C1.-")):
        for panel, what in zip(panels, ("loss", "accuracy"), strict=True):
            epochs, values = by_epoch(records, f"{split}_{what}")
            if epochs:
                label = "train (batches as augmented)" if split == "train" else split
                panel.plot(epochs, values, style, label=label, markersize=4, linewidth=1.2)
    panels[0].set(xlabel="epoch", ylabel="cross-entropy", yscale="log", title="loss")
    panels[1].set(xlabel="epoch", ylabel="accuracy", title="accuracy")
    panels[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    for panel in panels:
        panel.grid(alpha=0.3, which="both")
        panel.legend()
        panel.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def by_epoch(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    """The epochs that have records of a name, and the mean of each epoch's values."""
    values: dict[int, list[float]] = {}
    for record in records:
        if name in record:
            values.setdefault(record["epoch"], []).append(record[name])
    return list(values), [float(np.mean(v)) for v in values.values()]


def kernels(kernel: np.ndarray, path: Path, title: str = "kernels of the first layer") -> None:
    """The kernels (H, W, C, F) of a 2-D convolution, one small picture each.

    One or other than three input channels: mean over the channels, blue negative, red positive, the same scale for all.
    Three: as colours, each kernel scaled to its own range.
    """
    count = kernel.shape[-1]
    columns = min(count, 8)
    rows = -(-count // columns)
    colour = kernel.shape[2] == 3
    figure = _figure(1.2 * columns + (0 if colour else 0.8), 1.25 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False)
    shown = kernel if colour else kernel.mean(2)
    bound = float(np.abs(shown).max()) or 1.0
    for number, panel in enumerate(panels.flat):
        panel.axis("off")
        if number >= count:
            continue
        one = shown[..., number]
        if colour:
            low, high = float(one.min()), float(one.max())
            panel.imshow((one - low) / ((high - low) or 1.0))
        else:
            drawn = panel.imshow(one, cmap="RdBu_r", vmin=-bound, vmax=bound)
        panel.set_title(str(number), fontsize=8, pad=2)
    if not colour:
        figure.colorbar(drawn, ax=panels, fraction=0.05)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes): row the true class, column the predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path) -> None:
    """The confusion matrix; each row coloured by its shares, the numbers written in up to 20 classes."""
    counts = confusion_matrix(labels, predicted, len(names))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(3 + 0.4 * len(names), 16)
    figure = _figure(side * 1.2, side)
    panel = figure.subplots()
    # errors are rare: the square root makes one of a hundred visible
    drawn = panel.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(drawn, ax=panel, fraction=0.046, pad=0.03, ticks=np.sqrt([0, 0.01, 0.1, 0.5, 1]))
    bar.ax.set_yticklabels(["0", "1 %", "10 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = shares[row, column] > 0.4
                panel.text(column, row, str(count), ha="center", va="center", fontsize=8, color="w" if dark else "k")
        long = max(map(len, names)) > 3
        panel.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
        panel.set_yticks(range(len(names)), names)
    right = int(np.trace(counts))
    panel.set(xlabel="predicted", ylabel="true", title=f"test: {right} of {counts.sum()} right")
    _save(figure, path)


def mistakes(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], path: Path, most: int = 24
) -> None:
    """The errors that the net was surest of, surest first, with the predicted and the true class.

    images uint8 (N, H, W, C), labels (N,), probabilities (N, classes).
    """
    predicted = probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:most]
    columns = min(max(len(wrong), 1), 8)
    rows = max(1, -(-len(wrong) // columns))
    figure = _figure(max(1.45 * columns, 4), 1.75 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, index in zip(panels.flat, wrong, strict=False):
        _show(panel, images[index])
        guess = predicted[index]
        panel.set_title(
            f"{names[guess]} {probabilities[index, guess]:.0%}\ntrue {names[labels[index]]}  (#{index})", fontsize=7
        )
    total = int((predicted != labels).sum())
    figure.suptitle(
        f"the {len(wrong)} surest of {total} mistakes among {len(labels)}: predicted, true, index", fontsize=9
    )
    _save(figure, path)


def predictions(
    images: Sequence[np.ndarray], titles: Sequence[str], probabilities: np.ndarray, names: Sequence[str], path: Path
) -> None:
    """Each image beside a bar for each of its ten most probable classes."""
    figure = _figure(6.5, 2.6 * len(images))
    panels = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 1.6))
    for (left, right), image, title, row in zip(panels, images, titles, probabilities, strict=True):
        _show(left, image)
        left.set_title(title, fontsize=9)
        left.axis("off")
        top = np.sort(np.argsort(-row, kind="stable")[:10])
        right.barh(range(len(top)), row[top], color=["C1" if c == row.argmax() else "C0" for c in top])
        right.set_yticks(range(len(top)), [names[c] for c in top], fontsize=8)
        right.invert_yaxis()
        right.set(xlim=(0, 1), xlabel="probability")
        right.grid(alpha=0.3, axis="x")
    _save(figure, path)


def learned_kernel(
    image: np.ndarray, output: np.ndarray, entries: dict[str, np.ndarray], wanted: dict[str, float], path: Path
) -> None:
    """A small image, what the kernel makes of it, and the parameters as they are learned back: one line per run.

    image (H, W), output (H', W'), entries (runs, steps + 1) by name, and the value that each is to come to.
    """
    figure = _figure(12, 3.3)
    left, middle, right = figure.subplots(1, 3, width_ratios=(image.shape[1], output.shape[1], 10))
    left.imshow(image, cmap="gray")
    _signed(middle, output, float(np.abs(output).max()))
    for panel, values, title in ((left, image, "image"), (middle, output, "output")):
        for ticks, size in ((panel.set_yticks, values.shape[0]), (panel.set_xticks, values.shape[1])):
            ticks(range(size), [str(number + 1) for number in range(size)])
        panel.set(xlabel="column", ylabel="row", title=title)
    for number, (name, runs) in enumerate(entries.items()):
        lines = right.plot(runs.T, color=f"C{number}", linewidth=1, alpha=0.8)
        lines[0].set_label(name)
        right.axhline(wanted[name], color=f"C{number}", linestyle=":", linewidth=1)
    right.set(xlabel="step", title=f"learned back, {len(runs)} run{'s' if len(runs) > 1 else ''}")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.grid(alpha=0.3)
    right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    _save(figure, path)


def learned_filter(
    images: dict[str, np.ndarray], kernels: dict[str, np.ndarray], errors: np.ndarray, path: Path
) -> None:
    """A photograph and its outputs, the kernel and what was learned of it step by step, and the error of every run.

    images (H, W) by title: the photograph, then outputs on the scale of the first. kernels (K, K) by title, on the
    scale of the first. errors (runs, steps + 1).
    """
    photograph, *outputs = images.values()
    tall = 3.8 * photograph.shape[0] / photograph.shape[1]
    figure = _figure(11.5, tall + 3.0)
    halves: Any = figure.subfigures(2, 1, height_ratios=(tall + 0.5, 2.5))
    above, below = halves
    panels = above.subplots(1, len(images))
    panels[0].imshow(photograph, cmap="gray")
    bound = float(np.quantile(np.abs(outputs[0]), 0.99)) or 1.0
    for panel, output in zip(panels[1:], outputs, strict=True):
        _signed(panel, output, bound)
    small = below.subplots(1, len(kernels) + 1, width_ratios=[1] * len(kernels) + [1.9])
    bound = float(np.abs(next(iter(kernels.values()))).max())
    for panel, kernel in zip(small, kernels.values(), strict=False):
        _signed(panel, kernel, bound)
        for (row, column), value in np.ndenumerate(kernel):
            colour = "w" if abs(value) > 0.6 * bound else "k"
            text = f"{round(float(value), 2) + 0.0:g}"
            panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    for panel, title in zip((*panels, *small), (*images, *kernels), strict=False):
        panel.axis("off")
        panel.set_title(title, fontsize=10)
    small[-1].plot(errors.T, color="C0", linewidth=1, alpha=0.8)
    small[-1].set(xlabel="step", yscale="log")
    small[-1].set_title("largest error of the kernel, by run", fontsize=10)
    small[-1].grid(alpha=0.3)
    _save(figure, path)


def _signed(panel: Any, values: np.ndarray, bound: float) -> None:
    panel.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound)


def _show(panel: Any, image: np.ndarray) -> None:
    panel.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DOTS_PER_INCH)
