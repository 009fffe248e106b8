"""Pictures are drawn whatever the run was like; what they count is counted right. How they look, a person sees."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from cnnjax import report
from tests.report.pictures import size


def test_confusion_matrix_by_hand() -> None:
    counts = report.confusion_matrix(np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 0, 2]), 3)
    np.testing.assert_array_equal(counts, [[1, 1, 0], [0, 1, 0], [1, 0, 1]])


@pytest.mark.parametrize("classes", [2, 10, 47])
def test_confusion(classes: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels, predicted = draw.integers(0, classes, (2, 300))
    report.confusion(labels, predicted, [f"class {c}" for c in range(classes)], tmp_path / "a.png")
    width, height = size(tmp_path / "a.png")
    assert 300 < height < 2200 and 300 < width < 2700


@pytest.mark.parametrize("wrong", [0, 1, 5, 60])
def test_mistakes(wrong: int, tmp_path: Path) -> None:
    labels = np.zeros(60, int)
    probabilities = np.tile([0.9, 0.1], (60, 1))
    probabilities[:wrong] = [0.2, 0.8]
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3)).astype(np.uint8)
    report.mistakes(images, labels, probabilities, ["cat", "dog"], tmp_path / "a.png")
    size(tmp_path / "a.png")


def test_long_names_of_classes_widen_the_mistakes(tmp_path: Path) -> None:
    probabilities = np.tile([0.2, 0.8], (8, 1))
    images = np.zeros((8, 8, 8, 1), np.uint8)
    for name, long in (("a", "dog"), ("b", "American Staffordshire terrier")):
        report.mistakes(images, np.zeros(8, int), probabilities, ["cat", long], tmp_path / f"{name}.png")
    assert size(tmp_path / "b.png")[0] > 1.5 * size(tmp_path / "a.png")[0]


def test_mistakes_have_the_numbers_of_their_images(tmp_path: Path) -> None:
    class Images:
        read: ClassVar[list[int]] = []

        def __getitem__(self, number: int) -> np.ndarray:
            self.read.append(int(number))
            return np.zeros((8, 8, 1), np.uint8)

    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    report.mistakes(Images(), np.zeros(3, int), probabilities, ["a", "b"], tmp_path / "a.png", numbers=[0, 4, 9])
    assert Images.read == [4, 9], "those alone are read"


@pytest.mark.parametrize(("count", "names"), [(2, ["a.png"]), (9, ["a.png", "a-2.png"])])
def test_predictions(count: int, names: list[str], tmp_path: Path) -> None:
    images = [np.zeros((8, 8, 1), np.uint8), np.full((32, 32, 3), 90, np.uint8)] * 5
    titles = [f"image {number}" for number in range(count)]
    probabilities = np.full((count, 30), 1 / 30)
    written = report.predictions(images[:count], titles, probabilities, [str(c) for c in range(30)], tmp_path / "a.png")
    assert written == [tmp_path / name for name in names]
    for path in written:
        size(path)


@pytest.mark.parametrize("name", ["$1_$2", "$50%$", "under $10 or over $20", "a\udcff"])
def test_names_are_no_mathematics(name: str, tmp_path: Path) -> None:
    labels, shares = np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
    images = np.zeros((3, 8, 8, 1), np.uint8)
    report.confusion(labels, shares.argmax(-1), [name, "b"], tmp_path / "confusion.png")
    report.mistakes(images, labels, shares, [name, "b"], tmp_path / "mistakes.png")
    report.predictions([images[0]], [name], shares[:1], [name, "b"], tmp_path / "predictions.png")
    report.maps([("dense", shares[0]), ("sequence", shares)], tmp_path / "maps.png", name, names=[name, "b"])
    assert len(list(tmp_path.iterdir())) == 4
