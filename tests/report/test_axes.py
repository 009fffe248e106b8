"""Scales and ticks: 98 to 100 % can be read, one point has an axis around it, and nothing is hidden."""

from __future__ import annotations

import math

import pytest

from cnnjax.report import axes
from cnnjax.report.figures import new_figure


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.5, 2e4, [1, 10, 100, 1000, 10000]),
        (0.03, 1.2, [0.05, 0.1, 0.2, 0.5, 1]),
        (0.3, 1.1, [0.3, 0.5, 0.7, 1]),
        (0.92, 3.7, [1, 2, 3]),
        (1e-9, 1e9, [1e-9, 1e-7, 1e-5, 1e-3, 1e-1, 1e1, 1e3, 1e5, 1e7, 1e9]),
    ],
)
def test_ticks_of_a_log_axis(low: float, high: float, ticks: list[float]) -> None:
    assert axes.log_ticks(low, high) == ticks


def test_limits_leave_room_and_a_single_value_stands_in_the_middle() -> None:
    assert axes.log_limits([0.1, 10.0]) == pytest.approx((0.1 / 1.15, 11.5))
    assert axes.log_limits([3.0]) == pytest.approx((1.5, 6.0))
    assert axes.log_limits([1.0, 2.0]) == pytest.approx((1 / math.sqrt(2), 2 * math.sqrt(2)))


@pytest.mark.parametrize(
    ("quantity", "values", "is_one"),
    [
        ("accuracy", [0.0, 1.0], True),
        ("balanced_accuracy", [0.5], True),
        ("top5", [0.5, math.nan], True),
        ("accuracy", [99.4], False),
        ("psnr", [0.5], False),
        ("stop5", [0.5], False),
    ],
)
def test_what_is_an_accuracy(quantity: str, values: list[float], is_one: bool) -> None:
    assert axes.is_accuracy(quantity, values) is is_one


def ticks_of(quantity: str, values: list[float], held_out: list[float]) -> tuple[str, list[str], tuple[float, float]]:
    panel = new_figure(4, 4).subplots()
    axes.set_quantity_axis(panel, quantity, values, held_out)
    return panel.get_yscale(), [text.get_text() for text in panel.get_yticklabels()], panel.get_ylim()


def test_an_accuracy_is_drawn_as_its_error_on_a_log_scale() -> None:
    scale, labels, limits = ticks_of("accuracy", [0.1, 0.98, 0.99, 0.995], [0.98])
    assert scale == "log" and labels == ["0.5 %", "1 %", "2 %", "5 %", "10 %", "20 %", "50 %", "100 %"]
    assert limits == pytest.approx((0.005 / 1.15, 1.0))


def test_training_without_error_does_not_flatten_the_test_curve() -> None:
    """Below a twentieth of the least error on the test set the axis is linear, down to zero."""
    scale, labels, limits = ticks_of("accuracy", [0.5, 1 - 1e-6, 1.0, 0.98], [0.98])
    assert scale == "symlog"
    assert labels == ["0", "0.1 %", "0.2 %", "0.5 %", "1 %", "2 %", "5 %", "10 %", "20 %", "50 %"]
    assert limits == pytest.approx((-0.15e-3, 0.575))


def test_a_run_of_one_epoch_has_an_axis_around_its_point() -> None:
    _, labels, limits = ticks_of("loss", [0.7], [0.7])
    assert limits == pytest.approx((0.35, 1.4)) and len(labels) >= 4
    panel = new_figure(4, 4).subplots()
    axes.set_epoch_axis(panel, [1, 1])
    assert panel.get_xlim() == (0, 2) and list(panel.get_xticks()) == [1]


def test_other_metrics_and_negative_losses_are_linear() -> None:
    assert ticks_of("psnr", [20.0, 30.0], [30.0])[::2] == ("linear", pytest.approx((19.4, 30.6)))
    assert ticks_of("loss", [-1.0, 3.0], [3.0])[0] == "linear"
    assert ticks_of("loss", [math.nan], [])[0] == "linear"
    assert ticks_of("accuracy", [1.0, 1.0], [1.0])[::2] == ("linear", pytest.approx((0.0, 0.5)))
