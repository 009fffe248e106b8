"""Pictures of how a net classifies: confusions, mistakes, probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.report.figures import new_figure, save, show_image


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts examples by true class (row) and predicted class (column): (classes, classes)."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draws the confusion matrix, each row coloured by its shares.

    With up to 20 classes the counts are written in.

    Args:
      labels: `(N,)`, the true classes.
      predicted: `(N,)`, the predicted ones.
      names: of the classes.
      path: the PNG file.
    """
    counts = confusion_matrix(labels, predicted, len(names))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(3 + 0.4 * len(names), 16)
    figure = new_figure(side * 1.2, side)
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
    save(figure, path)


def mistakes(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], path: Path, most: int = 24
) -> None:
    """Draws the errors that the net was surest of, surest first.

    Each has the predicted and the true class.

    Args:
      images: `(N, H, W, C)` uint8.
      labels: `(N,)`, the true classes.
      probabilities: `(N, classes)`.
      names: of the classes.
      path: the PNG file.
      most: largest number of errors drawn.
    """
    predicted = probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:most]
    columns = min(max(len(wrong), 1), 8)
    rows = max(1, -(-len(wrong) // columns))
    figure = new_figure(max(1.45 * columns, 4), 1.75 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, index in zip(panels.flat, wrong, strict=False):
        show_image(panel, images[index])
        guess = predicted[index]
        panel.set_title(
            f"{names[guess]} {probabilities[index, guess]:.0%}\ntrue {names[labels[index]]}  (#{index})", fontsize=7
        )
    total = int((predicted != labels).sum())
    figure.suptitle(
        f"the {len(wrong)} surest of {total} mistakes among {len(labels)}: predicted, true, index", fontsize=9
    )
    save(figure, path)


def predictions(
    images: Sequence[np.ndarray], titles: Sequence[str], probabilities: np.ndarray, names: Sequence[str], path: Path
) -> None:
    """Draws each image beside bars for its ten most probable classes.

    Args:
      images: each `(H, W, C)` uint8.
      titles: one per image.
      probabilities: `(N, classes)`.
      names: of the classes.
      path: the PNG file.
    """
    figure = new_figure(6.5, 2.6 * len(images))
    panels = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 1.6))
    for (left, right), image, title, row in zip(panels, images, titles, probabilities, strict=True):
        show_image(left, image)
        left.set_title(title, fontsize=9)
        left.axis("off")
        top = np.sort(np.argsort(-row, kind="stable")[:10])
        right.barh(range(len(top)), row[top], color=["C1" if c == row.argmax() else "C0" for c in top])
        right.set_yticks(range(len(top)), [names[c] for c in top], fontsize=8)
        right.invert_yaxis()
        right.set(xlim=(0, 1), xlabel="probability")
        right.grid(alpha=0.3, axis="x")
    save(figure, path)
