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


def test_the_96_kernels_of_alexnet_are_six_rows_of_sixteen(tmp_path: Path) -> None:
    report.kernels(np.random.default_rng(0).normal(size=(11, 11, 3, 96)), tmp_path / "a.png")
    width, height = size(tmp_path / "a.png")
    assert 2 < width / height < 2.7


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


def test_maps_of_many_layers(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    shapes = [(32, 32, 6), (16, 20, 64), (3, 1, 1), (500,), (10,)]
    stacks = [(f"layer {number}", draw.normal(size=shape)) for number, shape in enumerate(shapes)]
    stacks.append(("nothing", np.zeros((4, 4, 9))))
    report.maps(stacks, tmp_path / "a.png", "of all kinds", image=image)
    report.maps(stacks[4:5], tmp_path / "b.png", "logits", names=[f"class {c}" for c in range(10)])
    assert size(tmp_path / "a.png")[0] == size(tmp_path / "b.png")[0] == 1300


def test_receptive_fields(tmp_path: Path) -> None:
    image = np.zeros((32, 24, 1), np.uint8)
    fields = [(f"layer {n}", ((16 - n, 17 + n), (12 - n, 13 + n))) for n in (1, 3, 8, 20, 50, 200)]
    report.receptive_fields(image, fields, tmp_path / "a.png", "two rows")
    size(tmp_path / "a.png")
    assert report.clip(3, 8, 32) == (3, 8)
    assert report.clip(-4, 40, 32) == (0, 32)
    assert report.clip(-4, -1, 32) == (0, 0)


@pytest.mark.parametrize("end", [[], [np.nan], [1e38, np.inf]])
def test_learning_rates(end: list[float], tmp_path: Path) -> None:
    losses = {1.0: np.array([2.3, 9.0, *end]), 0.1: np.geomspace(2.3, 1e-9, 50), 1e-3: np.full(1200, 2.0)}
    report.learning_rates(losses, tmp_path / "a.png", "three rates", classes=10)
    report.learning_rates({1e9: np.array([np.nan])}, tmp_path / "b.png", "nothing to see")
    size(tmp_path / "a.png")
    size(tmp_path / "b.png")


def test_running_mean_and_finite_length_by_hand() -> None:
    np.testing.assert_allclose(report.running_mean(np.array([1.0, 3.0, 5.0, 1.0]), 2), [1, 2, 4, 3])
    np.testing.assert_allclose(report.running_mean(np.array([1.0, 3.0]), 9), [1, 2])
    assert report.finite_length(np.array([1.0, np.nan, 2.0, np.inf])) == 1
    assert report.finite_length(np.array([1.0, 2.0])) == 2
