"""Curves are drawn of whatever was recorded; what they show is computed right. How they look, a person sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnjax import report
from cnnjax.report.training import curve
from tests.report.pictures import size

BEGUN = [{"step": 10, "epoch": 1, "train_loss": 2.3, "train_accuracy": 0.1, "learning_rate": 0.1}]
ONE_EPOCH = [*BEGUN, {"step": 11, "epoch": 1, "train_epoch_loss": 2.0, "train_epoch_accuracy": 0.3,
                      "test_loss": 1.5, "test_accuracy": 0.5}]  # fmt: skip


def long_run(epochs: int) -> list[report.Record]:
    """A run with all splits, two records an epoch, that ends without an error in training."""
    found: list[report.Record] = []
    for epoch in range(1, epochs + 1):
        found.append(
            {"step": 2 * epoch - 1, "epoch": epoch, "train_loss": 3 / epoch, "train_accuracy": 1 - 0.9 / epoch}
        )
        scores = {"train_epoch_loss": 2 / epoch**2, "train_epoch_accuracy": min(1.0, 1.01 - 0.9 / epoch)}
        for split in ("validation", "test"):
            scores |= {f"{split}_loss": 2 / epoch, f"{split}_accuracy": 0.99 - 0.8 / epoch, f"{split}_top5": 1.0}
        found.append({"step": 2 * epoch, "epoch": epoch, **scores})
    return found


@pytest.mark.parametrize(
    ("records", "panels"),
    [
        (BEGUN, 2),
        (ONE_EPOCH, 2),
        (long_run(100), 3),
        ([{"step": 1, "epoch": e, "train_epoch_loss": 1.0 / e} for e in (1, 2, 3)], 1),  # regression, no test set
        ([{"step": 1, "epoch": e, "train_epoch_loss": -e, "test_psnr": 20.0 + e} for e in (1, 2)], 2),
        ([{"step": 1, "epoch": 1, "train_loss": float("nan"), "train_accuracy": 0.1}], 2),
        ([], 1),
    ],
)
def test_curves_of_all_kinds_of_runs(records: list[report.Record], panels: int, tmp_path: Path) -> None:
    report.curves(records, tmp_path / "a.png", augmented=True)
    assert size(tmp_path / "a.png") == (650 * panels, 520)


def test_four_quantities_make_two_rows(tmp_path: Path) -> None:
    scores = {f"test_{name}": 0.5 for name in ("loss", "accuracy", "top5", "calibration")}
    report.curves([{"step": 1, "epoch": 1, **scores}], tmp_path / "a.png")
    assert size(tmp_path / "a.png") == (1950, 1040)


def test_only_augmented_training_is_said_to_be(tmp_path: Path) -> None:
    """The legends differ, so the pictures do."""
    for name, augmented in (("a", False), ("b", True)):
        report.curves(ONE_EPOCH, tmp_path / f"{name}.png", augmented=augmented)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_quantities_are_named_without_their_split_and_the_loss_is_first() -> None:
    records = [{"step": 1, "epoch": 1, "train_top5": 0.0, "learning_rate": 0.1},
               {"step": 2, "epoch": 1, "train_epoch_loss": 1.0, "validation_loss": 1.0, "test_psnr": 1.0}]  # fmt: skip
    assert report.quantities(records) == ["loss", "top5", "psnr"]


def test_training_is_drawn_by_the_means_over_its_epochs() -> None:
    """Before the first epoch is over, and in records that have none, by the means of those records."""
    records = [
        {"epoch": 1, "train_loss": 3.0},
        {"epoch": 1, "train_loss": 1.0},
        {"epoch": 1, "train_epoch_loss": 2.5, "test_loss": 4.0},
        {"epoch": 2, "train_loss": 0.5},
    ]
    assert curve(records, "train", "loss") == ([1], [2.5])
    assert curve(records[:2], "train", "loss") == ([1], [2.0])
    assert curve(records, "test", "loss") == ([1], [4.0])


def test_a_curve_is_the_mean_over_each_epoch() -> None:
    records = [{"epoch": 1, "a": 1.0}, {"epoch": 1, "a": 3.0}, {"epoch": 1, "b": 9.0}, {"epoch": 2, "a": 5.0}]
    assert report.by_epoch(records, "a") == ([1, 2], [2.0, 5.0])


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
