"""When a run is said to overfit: a rise of the test loss beyond the noise of the test set, while training went on."""

from __future__ import annotations

import pytest

from cnnjax import report
from cnnjax.app.overfitting import overfitting


def records(tested: list[float], accuracies: list[float] | None, trained: list[float]) -> list[report.Record]:
    found: list[report.Record] = []
    for epoch, (test, train) in enumerate(zip(tested, trained, strict=True), 1):
        found.append({"step": epoch, "epoch": epoch, "train_epoch_loss": train, "test_loss": test})
        if accuracies is not None:
            found[-1]["test_accuracy"] = accuracies[epoch - 1]
    return found


FALLING = [1.2, 0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
CIFAR = [1.30, 1.00, 0.88, 0.81, 0.83, 0.86, 0.90, 0.95]
ACCURACIES = [0.54, 0.65, 0.70, 0.72, 0.73, 0.735, 0.74, 0.74]


def test_a_clear_rise_on_ten_thousand_images_is_told() -> None:
    """Twice the standard error is 2 sqrt(0.81^2 / 2800 + 0.90^2 / 2600) = 0.047; the loss rose by 0.09 for good."""
    assert overfitting(records(CIFAR, ACCURACIES, FALLING), 10_000) == (
        "the test loss turned after epoch 4 (0.8100, at the end 0.9500: more than the noise of 10,000 test examples) "
        "while the train loss fell from 0.6000 to 0.2000: the net overfits"
    )
    assert overfitting(records(CIFAR, None, FALLING), 10_000) is not None


def test_two_errors_of_360_digits_are_not_told() -> None:
    """From 1 to 2 errors the loss rose by a half, which the noise of so few can do."""
    tested = [0.3, 0.1, 0.03, 0.0125, 0.015, 0.016, 0.018, 0.019]
    accuracies = [0.92, 0.97, 0.99, 359 / 360, 358 / 360, 358 / 360, 358 / 360, 358 / 360]
    assert overfitting(records(tested, accuracies, FALLING), 360) is None
    assert overfitting(records(tested, accuracies, FALLING), 360_000) is not None


def test_the_same_rise_on_fewer_examples_is_noise() -> None:
    """With 28 and 26 errors twice the standard error is 0.47, more than the rise of 0.09."""
    assert overfitting(records(CIFAR, ACCURACIES, FALLING), 100) is None
    assert overfitting(records(CIFAR, None, FALLING), 100) is None


@pytest.mark.parametrize(
    ("tested", "trained"),
    [
        ([1.3, 1.0, 0.88, 0.81, 0.80, 0.79, 0.78, 0.77], FALLING),  # still falling
        ([1.3, 1.0, 0.88, 0.81, 0.83, 0.86, 0.82, 0.95], FALLING),  # a spike at the end
        ([1.3, 1.0, 0.95, 0.93, 0.90, 0.88, 0.70, 0.95], FALLING),  # one evaluation after the lowest
        (CIFAR, [1.2, 0.9, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6]),  # training stood still
        ([1.3, 1.0, 0.88, 0.81, 0.82, 0.82, 0.82, 0.82], FALLING),  # a rise below 5 %
        ([1.3, 1.0, 0.88, 0.81, 0.83, 0.86, float("nan"), 0.95], FALLING),
    ],
)
def test_without_evidence_nothing_is_told(tested: list[float], trained: list[float]) -> None:
    assert overfitting(records(tested, ACCURACIES, trained), 1_000_000) is None


def test_other_records_do_no_harm() -> None:
    """No test set, no records, evaluations at some epochs, and means over epochs that are missing."""
    assert overfitting([], 0) is None
    assert overfitting([{"step": 1, "epoch": 1, "train_epoch_loss": 1.0, "validation_loss": 1.0}], 0) is None
    run = records(CIFAR, ACCURACIES, FALLING)
    for record in run[::2]:
        del record["test_loss"], record["test_accuracy"]
    assert "turned after epoch 4 (0.8100, at the end 0.9500" in str(overfitting(run, 10_000))
    for record in run:
        del record["train_epoch_loss"]
    assert overfitting(run, 10_000) is None
