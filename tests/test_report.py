"""Pictures are drawn whatever the run was like; what they count is counted right. How they look, a person sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import report


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert np.asarray(image.convert("L")).std() > 1, "the picture is blank"
        return image.size


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


@pytest.mark.parametrize("shape", [(5, 5, 1, 6), (3, 3, 3, 32), (3, 3, 16, 1)])
def test_kernels(shape: tuple[int, ...], tmp_path: Path) -> None:
    report.kernels(np.random.default_rng(0).normal(size=shape), tmp_path / "a.png")
    size(tmp_path / "a.png")


def test_curves_of_a_run_just_begun_and_of_a_long_one(tmp_path: Path) -> None:
    begun = [{"step": 10, "epoch": 1, "train_loss": 2.3, "train_accuracy": 0.1}]
    report.curves(begun, tmp_path / "a.png")
    size(tmp_path / "a.png")
    long = begun + [
        {"step": e, "epoch": e, f"{split}_loss": 1 / e, f"{split}_accuracy": 1 - 1 / e}
        for e in range(1, 101)
        for split in ("train", "validation", "test")
    ]
    report.curves(long, tmp_path / "b.png")
    size(tmp_path / "b.png")


def test_a_curve_is_the_mean_over_each_epoch() -> None:
    records = [{"epoch": 1, "a": 1.0}, {"epoch": 1, "a": 3.0}, {"epoch": 1, "b": 9.0}, {"epoch": 2, "a": 5.0}]
    assert report.by_epoch(records, "a") == ([1, 2], [2.0, 5.0])


def test_predictions(tmp_path: Path) -> None:
    images = [np.zeros((8, 8, 1), np.uint8), np.full((32, 32, 3), 90, np.uint8)]
    probabilities = np.full((2, 30), 1 / 30)
    report.predictions(images, ["a", "b"], probabilities, [str(c) for c in range(30)], tmp_path / "a.png")
    size(tmp_path / "a.png")


@pytest.mark.parametrize(("shape", "runs"), [((6, 8), 1), ((90, 200), 30)])
def test_learned_kernel_and_filter(shape: tuple[int, int], runs: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    image, output, small = draw.normal(size=shape), draw.normal(size=shape), draw.normal(size=(6, 8))
    entries = {name: draw.normal(size=(runs, 21)) for name in ("k1", "k2")}
    report.learned_kernel(small, small[:, 1:], entries, {"k1": 1.0, "k2": -1.0}, tmp_path / "a.png")
    size(tmp_path / "a.png")
    kernels = {name: draw.normal(size=(3, 3)) for name in ("wanted", "step 0", "step 20")}
    errors = draw.random((runs, 21))
    report.learned_filter({"photograph": image, "a": output, "b": output}, kernels, errors, tmp_path / "b.png")
    size(tmp_path / "b.png")
