"""Pictures of how a net classifies: confusions, mistakes, probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cnnjax.report.figures import new_figure, pages, percent, plain, save, show_image


class Images(Protocol):
    """Images by their numbers: an array, or what reads them one by one."""

    def __getitem__(self, index: Any, /) -> np.ndarray:
        """Returns an image, `(H, W, C)` uint8."""


IMAGES_OF_A_PAGE = 8  # of `predictions`
WIDTH_OF_A_LETTER = 0.063  # inches, on average, of a font of 8 points


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
    names = [*map(plain, names)]
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
    title = f"{percent(right / max(len(labels), 1), 2)} right: {right:,} of {len(labels):,}"
    panel.set(xlabel="predicted", ylabel="true", title=title)
    save(figure, path)


def mistakes(
    images: Images,
    labels: np.ndarray,
    probabilities: np.ndarray,
    names: Sequence[str],
    path: Path,
    most: int = 24,
    *,
    numbers: Sequence[int] | None = None,
) -> None:
    """Draws the errors that the net was surest of, surest first.

    Each has the predicted class with its probability, the true class, and its number in the test set.

    Args:
      images: `(N, H, W, C)` uint8; those that are drawn are read. With `numbers` there may be more.
      labels: `(N,)`, the true classes.
      probabilities: `(N, classes)`.
      names: of the classes.
      path: the PNG file.
      most: largest number of errors drawn.
      numbers: `(N,)`, of the examples among the images; by default 0, 1, ...
    """
    names = [*map(plain, names)]
    predicted = probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != labels)
    number_of = np.arange(len(labels)) if numbers is None else np.asarray(numbers)
    total = len(wrong)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:most]
    shares = [percent(probabilities[index, predicted[index]]) for index in wrong]
    above = [f"predicted {names[predicted[index]]}, {share}" for index, share in zip(wrong, shares, strict=True)]
    below = [f"true {names[labels[index]]} (#{number_of[index]})" for index in wrong]
    columns = min(max(total, 1), 8)
    rows = max(1, -(-len(wrong) // columns))
    wide = max(1.45, WIDTH_OF_A_LETTER * max(map(len, above + below), default=0) + 0.1)
    figure = new_figure(max(wide * columns, 4), 1.9 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, index, first, second in zip(panels.flat, wrong, above, below, strict=False):
        show_image(panel, images[number_of[index]])
        panel.set_title(f"{first}\n{second}", fontsize=8)
    if total == 0:
        title = f"no mistakes in {len(labels):,} examples"
    elif total == len(wrong):
        title = f"{total} mistake{'s' if total > 1 else ''} in {len(labels):,} examples, surest first"
    else:
        title = f"the {len(wrong)} surest of {total:,} mistakes in {len(labels):,} examples"
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def predictions(
    images: Sequence[np.ndarray], titles: Sequence[str], probabilities: np.ndarray, names: Sequence[str], path: Path
) -> list[Path]:
    """Draws each image beside bars for its ten most probable classes.

    Args:
      images: each `(H, W, C)` uint8.
      titles: one per image.
      probabilities: `(N, classes)`.
      names: of the classes.
      path: the PNG file; after eight images another page begins, `STEM-2.png`, ...

    Returns:
      The files written.
    """
    names = [*map(plain, names)]
    dealt = pages(list(zip(images, titles, probabilities, strict=True)), IMAGES_OF_A_PAGE, path)
    for file, _, rows in dealt:
        figure = new_figure(6.5, 2.6 * max(len(rows), 1))
        panels = figure.subplots(max(len(rows), 1), 2, squeeze=False, width_ratios=(1, 1.6))
        for (left, right), (image, title, row) in zip(panels, rows, strict=False):
            show_image(left, image)
            left.set_title(plain(title), fontsize=9)
            left.axis("off")
            best = int(row.argmax())
            top = np.sort(np.argsort(-row, kind="stable")[:10])
            right.barh(range(len(top)), row[top], color=["C1" if c == best else "C0" for c in top])
            right.set_yticks(range(len(top)), [names[c] for c in top], fontsize=8)
            right.invert_yaxis()
            right.set_title(f"predicted {names[best]}, {percent(row[best])}", fontsize=9)
            right.set(xlim=(0, 1), xlabel="probability")
            right.grid(alpha=0.3, axis="x")
        save(figure, file)
    return [file for file, _, _ in dealt]
