"""Means and deviations over runs, by hand; and pictures of groups of all kinds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from cnnjax import report
from cnnjax.report.comparison import solid_split
from tests.report.pictures import size


def run(losses: list[float], *, split: str = "test", accuracy: float | None = None) -> list[report.Record]:
    found: list[report.Record] = []
    for epoch, loss in enumerate(losses, 1):
        found.append({"step": epoch, "epoch": epoch, "train_epoch_loss": loss / 2, f"{split}_loss": loss})
        if accuracy is not None:
            found[-1][f"{split}_accuracy"] = accuracy + epoch / 1000
    return found


def test_a_mean_curve_has_the_epochs_that_all_runs_have() -> None:
    epochs, means, deviations = report.mean_curve([run([1.0, 2.0, 5.0]), run([3.0, 6.0])], "test_loss")
    assert epochs == [1, 2]
    np.testing.assert_allclose(means, [2.0, 4.0])
    np.testing.assert_allclose(deviations, [math.sqrt(2), math.sqrt(8)])
    np.testing.assert_array_equal(report.mean_curve([run([1.0, 2.0])], "test_loss")[2], [0.0, 0.0])
    assert report.mean_curve([run([1.0]), []], "test_loss")[0] == []


def test_mean_and_deviation_by_hand() -> None:
    assert report.mean_and_deviation([1.0, 2.0, 6.0]) == pytest.approx((3.0, math.sqrt(7)))
    assert report.mean_and_deviation([4.0]) == (4.0, None)


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("test_accuracy", [0.9916, 0.9914, 0.9912], "99.14 ± 0.02 %"),
        ("test_top5", [0.5], "50.00 %"),
        ("train_epoch_loss", [1.0, 2.0, 6.0], "3.0 ± 2.6"),
        ("test_loss", [0.03, 0.04], "0.0350 ± 0.0071"),
        ("test_loss", [1000.0, 3000.0], "2000 ± 1414"),
        ("test_loss", [0.25, 0.25], "0.25 ± 0"),
        ("test_loss", [0.25, math.nan], "nan ± nan"),
        ("test_psnr", [31.25], "31.25"),
    ],
)
def test_scores_in_words(name: str, values: list[float], text: str) -> None:
    assert report.score_text(name, values) == text


def test_common_scores_are_those_of_all_runs_sorted_by_split() -> None:
    one = [
        {"epoch": 1, "train_loss": 1.0},
        {"epoch": 1, "train_epoch_loss": 1.0, "validation_loss": 1.0, "test_a": 1.0},
    ]
    other = [{"epoch": 1, "train_epoch_loss": 1.0, "validation_loss": 1.0, "test_a": 1.0, "test_b": 1.0}]
    assert report.common_scores([one, other]) == ["test_a", "validation_loss", "train_epoch_loss"]
    assert report.common_scores([one, one[:1]]) == report.common_scores([]) == []


def test_the_solid_line_is_of_the_split_that_says_most() -> None:
    assert solid_split(["validation_loss", "test_loss", "train_epoch_loss"], "loss") == "test"
    assert solid_split(["validation_loss", "train_epoch_loss"], "loss") == "validation"
    assert solid_split(["train_epoch_loss"], "loss") == "train"
    assert solid_split(["train_epoch_loss"], "accuracy") is None


@pytest.mark.parametrize(
    ("groups", "panels"),
    [
        ({"a": [run([2.0, 1.0])], "b": [run([3.0, 0.5]), run([2.5, 0.7])]}, 1),
        ({"one epoch": [run([2.0], accuracy=0.9), run([1.0], accuracy=0.95)]}, 2),
        ({"long": [run([3.0 / e for e in range(1, 200)], accuracy=0.7)] * 3, "short": [run([2.0], accuracy=0.9)]}, 2),
        ({"no test set": [run([2.0, 1.0], split="validation")], "b": [run([2.0, 1.0], split="validation")]}, 1),
        ({"diverged": [run([2.0, math.nan]), run([2.0, math.inf])]}, 1),
        ({"other epochs": [run([2.0])[:1], [{"epoch": 2, "test_loss": 1.0}]]}, 1),
        (
            {
                f"learning_rate={0.1 / n}, schedule=cosine, optimizer=momentum": [run([2.0, 1.0 / n])]
                for n in range(1, 9)
            },
            1,
        ),
    ],
)
def test_comparison(groups: dict[str, list[list[report.Record]]], panels: int, tmp_path: Path) -> None:
    report.comparison(groups, tmp_path / "a.png")
    assert size(tmp_path / "a.png")[0] == 650 * panels


def test_runs_without_a_common_score_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have a score in common.*\['a', 'b'\]"):
        report.comparison({"a": [run([1.0])], "b": [[{"epoch": 1, "test_psnr": 1.0}]]}, tmp_path / "a.png")
