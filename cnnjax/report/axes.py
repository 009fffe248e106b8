"""Axes on which the interesting end of a loss or an accuracy can be read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_RATIO = 4.0  # of the ends of a log axis: a single point gets an axis from its half to its double
ROOM = 1.15  # factor between the outermost values and the ends of a log axis
SQUEEZED = 1 / 20  # of the lowest held-out value: what a training curve does below it gets little room


def is_accuracy(quantity: str, values: Sequence[float]) -> bool:
    """True for shares of right examples: `accuracy`, `balanced_accuracy`, `top5`, from 0 to 1."""
    named = quantity.endswith("accuracy") or re.fullmatch(r"top[-_]?\d+", quantity) is not None
    return named and all(0 <= value <= 1 for value in values if math.isfinite(value))


def log_ticks(low: float, high: float) -> list[float]:
    """Returns round numbers from `low` to `high`: decades, or as many digits of each as make at least four ticks.

    Example:
      >>> log_ticks(0.03, 1.2)
      [0.05, 0.1, 0.2, 0.5, 1.0]
    """
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    low, high = low * (1 - 1e-9), high * (1 + 1e-9)  # an end that is round but for its last bits is a tick
    ticks: list[float] = []
    for digits in ((1,), (1, 2, 5), (1, 2, 3, 5, 7), range(1, 10)):
        numbers = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [number for number in numbers if low <= number <= high]
        if len(ticks) >= 4:
            break
    return ticks[:: -(-len(ticks) // 10)] if ticks else ticks


def log_limits(values: Sequence[float], least_ratio: float = LEAST_RATIO) -> tuple[float, float]:
    """Returns the ends of a log axis for positive values, with room around them."""
    low, high = min(values), max(values)
    room = max(ROOM, math.sqrt(least_ratio * low / high))
    return low / room, high * room


def set_quantity_axis(panel: Axes, quantity: str, values: Sequence[float], held_out: Sequence[float] = ()) -> None:
    """Gives a panel the title, the scale and the limits of what is drawn on its y axis.

    Accuracies are drawn as errors, `1 - accuracy`: on a log scale 98, 99 and 99.9 % lie far apart. So are losses,
    unless one is negative. Other metrics have a linear axis.

    Args:
      panel: the axes.
      quantity: `loss`, `accuracy`, or the name of another metric.
      values: all that is drawn, accuracies as accuracies; those that are not finite do not count.
      held_out: those of them from the test and validation sets, which decide how deep a log scale goes: below a
        twentieth of the least of them the axis is linear, down to zero.
    """
    error = is_accuracy(quantity, values)
    panel.set_title(f"error: 1 - {quantity}" if error else quantity)
    values, held_out = (
        [1 - value if error else value for value in some if math.isfinite(value)] for some in (values, held_out)
    )
    positive = [value for value in values if value > 0]
    if not (error or quantity == "loss") or not positive or min(values) < 0:
        _set_linear(panel, values, least=0.0 if error else -math.inf)
        return
    floor = max(min(positive), SQUEEZED * min((value for value in held_out if value > 0), default=0.0))
    low, high = log_limits([floor, max(positive)])
    high = min(high, 1.0) if error and max(positive) < 1 else high
    label = (lambda value: f"{100 * value:g} %") if error else (lambda value: f"{value:g}")
    if min(values) < floor:
        panel.set_yscale("symlog", linthresh=floor, linscale=0.4)
        panel.set_yticks([0, *log_ticks(floor, high)], ["0", *map(label, log_ticks(floor, high))])
        panel.yaxis.set_ticks([], minor=True)
        panel.set_ylim(-0.15 * floor, high)
    else:
        set_log_axis(panel, "y", low, high, label)


def set_log_axis(
    panel: Axes, which: str, low: float, high: float, label: Callable[[float], str] = "{:g}".format
) -> None:
    """Makes the axis `which` (`"x"` or `"y"`) logarithmic from `low` to `high`, with plain numbers at its ticks."""
    ticks = log_ticks(low, high)
    getattr(panel, f"set_{which}scale")("log")
    axis = getattr(panel, f"{which}axis")
    axis.set_ticks(ticks, list(map(label, ticks)))
    axis.set_ticks([], minor=True)
    getattr(panel, f"set_{which}lim")(low, high)


def set_epoch_axis(panel: Axes, epochs: Sequence[int]) -> None:
    """Gives a panel an x axis of whole epochs; a single one stands in its middle."""
    panel.set_xlabel("epoch")
    panel.locator_params(axis="x", integer=True)
    if len(set(epochs)) == 1:
        panel.set_xticks([epochs[0]])
        panel.set_xlim(epochs[0] - 1, epochs[0] + 1)


def _set_linear(panel: Axes, values: Sequence[float], least: float) -> None:
    low, high = min(values, default=0.0), max(values, default=0.0)
    margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    panel.set_ylim(max(low - margin, least), high + margin)
