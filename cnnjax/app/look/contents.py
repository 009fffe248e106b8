"""What the page shows beside the net: test examples, how a drawing becomes an image, and the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cnnjax import data, report
from cnnjax.train.metrics import softmax

SPLITS = ("train", "validation", "test")
#: Examples of the strip below the canvas.
IN_STRIP = 30
#: Surest mistakes that are shown.
MOST_MISTAKES = 30
#: Bytes of pixels that the page holds, unless the strip alone takes more.
MOST_BYTES = 1_200_000
#: Images that are looked at to learn how large a digit is in its image.
MEASURED = 500


class Tested(NamedTuple):
    """Test examples and what the net said.

    Attributes:
      images: `(N, H, W, C)` uint8, as the net sees them, before they are standardised.
      labels: `(N,)`.
      outputs: `(N, classes)`, as the run evaluates, which may be by several views of an image.
      numbers: `(N,)`, of the examples in the test set.
      total: examples in the test set.
    """

    images: np.ndarray
    labels: np.ndarray
    outputs: np.ndarray
    numbers: np.ndarray
    total: int

    @property
    def predicted(self) -> np.ndarray:
        """The predicted classes, `(N,)`."""
        return self.outputs.argmax(-1)

    @property
    def confidence(self) -> np.ndarray:
        """The probabilities of the predicted classes, `(N,)`."""
        return softmax(self.outputs).max(-1)


def surest_mistakes(tested: Tested) -> list[int]:
    """Returns the rows of the mistakes that the net was surest of, surest first."""
    wrong = np.flatnonzero(tested.predicted != tested.labels)
    order = np.argsort(-tested.confidence[wrong], kind="stable")
    return wrong[order][:MOST_MISTAKES].tolist()


def strip(tested: Tested) -> list[int]:
    """Returns rows for the strip: the first examples of each class, as many of one as of another, by class."""
    classes = tested.outputs.shape[-1]
    each = max(1, IN_STRIP // classes)
    rows = [np.flatnonzero(tested.labels == label)[:each].tolist() for label in range(classes)]
    return [row for of_class in rows for row in of_class][:IN_STRIP]


def chosen(tested: Tested) -> list[int]:
    """Returns the rows that the page holds: strip, surest mistakes, then cell after cell of the confusion matrix.

    Of each cell the first example comes, then of each the second, and so on, as far as `MOST_BYTES` reach.
    """
    classes = tested.outputs.shape[-1]
    cells: dict[int, list[int]] = {}
    for row, cell in enumerate(tested.labels * classes + tested.predicted):
        cells.setdefault(int(cell), []).append(row)
    by_turns: list[int] = []
    for turn in range(max(map(len, cells.values()), default=0)):
        by_turns += [rows[turn] for rows in cells.values() if turn < len(rows)]
        if len(by_turns) > 4 * len(cells) and turn >= 12:
            break
    first = list(dict.fromkeys([*strip(tested), *surest_mistakes(tested)]))
    most = max(len(first), MOST_BYTES // tested.images[0].size)
    return list(dict.fromkeys([*first, *by_turns]))[:most]


def drawing(spec: data.InputSpec, images: np.ndarray) -> dict[str, Any]:
    """Returns how a drawing becomes an image like those of the data set.

    For gray images of something bright on a dark ground, or the reverse, as digits are: `side`, the median of the
    longer side of what is drawn, in pixels, and `centre`, the mean of its centres of mass. For others, as photographs,
    `side` is 0: strokes go onto the image as they are.
    """
    inverted = data.looks_inverted(np.zeros((3, 3, 1), np.uint8), spec.brightness)  # black, where the ground is white
    plain = data.looks_inverted(np.full((3, 3, 1), 255, np.uint8), spec.brightness)
    if spec.channels != 1 or not (inverted or plain):
        return {"side": 0, "centre": [0, 0], "inverted": False}
    ink = images[:MEASURED, ..., 0].astype(np.float64) / 255
    ink = 1 - ink if inverted else ink
    sides, centres = [], []
    for image in ink:
        rows, columns = np.nonzero(image > 0.2)
        if len(rows):
            sides.append(max(np.ptp(rows), np.ptp(columns)) + 1)
            mass = image.sum()
            centres.append([(image.sum(axis) * np.arange(image.shape[1 - axis])).sum() / mass for axis in (1, 0)])
    if not sides:
        return {"side": 0, "centre": [0, 0], "inverted": False}
    centre = np.mean(centres, 0).round(2).tolist()  # row, column
    return {"side": float(np.median(sides)), "centre": centre, "inverted": bool(inverted)}


def curves(records: Sequence[report.Record]) -> list[dict[str, Any]]:
    """Returns each quantity that the run measured: its name, and by split the epochs and values."""
    found = []
    for quantity in report.quantities(records):
        splits = {split: _curve(records, split, quantity) for split in SPLITS}
        found.append({"name": quantity, "splits": {split: curve for split, curve in splits.items() if curve[0]}})
    return [one for one in found if one["splits"]]


def _curve(records: Sequence[report.Record], split: str, quantity: str) -> list[list[float]]:
    names = [f"train_epoch_{quantity}", f"train_{quantity}"] if split == "train" else [f"{split}_{quantity}"]
    for name in names:
        epochs, values = report.by_epoch(records, name)
        if epochs:
            return [list(map(float, epochs)), _finite(values)]
    return [[], []]


def _finite(values: Iterable[float]) -> Any:
    """Returns numbers as JSON has them: None for NaN and infinity."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
