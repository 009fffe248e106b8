"""The picture of a plan: memory, the bounds on a step, and the roofline with its layers, target by target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cnnjax.report.axes import log_limits, set_log_axis
from cnnjax.report.figures import new_figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LAYERS = 12  # bars in the panel of the layers
NAMED = 4  # layers with a name on the roofline
COLOURS = {"arithmetic": "C0", "memory": "C1", "link": "C2", "XLA's estimate": "0.6"}


class PlannedLayer(NamedTuple):
    """A layer in a training step, on each device.

    Attributes:
      name: its path.
      operations: multiplications and additions.
      traffic: bytes.
      seconds: at least.
      bottleneck: `"arithmetic"` or `"memory"`.
    """

    name: str
    operations: float
    traffic: float
    seconds: float
    bottleneck: str


class PlannedStep(NamedTuple):
    """A training step on one target, on each device.

    Attributes:
      label: of the target.
      memory: bytes by use.
      capacity: bytes that a program may take.
      seconds: by resource, and of XLA's estimate where there is one.
      peak: operations a second.
      bandwidth: bytes a second.
      layers: the layers.
    """

    label: str
    memory: Mapping[str, float]
    capacity: float
    seconds: Mapping[str, float]
    peak: float
    bandwidth: float
    layers: Sequence[PlannedLayer]


def plan(steps: Sequence[PlannedStep], path: Path, title: str = "") -> None:
    """Draws what a training step needs and takes on some targets.

    Four panels: the memory of a device, by use, as a share of what a program may take; the seconds of a step by
    resource; the roofline of each target with a dot for every layer; the layers that cost most, of the first target.

    Args:
      steps: at least one.
      path: the PNG file.
      title: above all.
    """
    figure = new_figure(12, 7.6 + 0.3 * len(steps))
    panels = figure.subplots(2, 2, height_ratios=(1 + 0.25 * len(steps), 3))
    _draw_memory(panels[0, 0], steps)
    _draw_seconds(panels[0, 1], steps)
    _draw_roofline(panels[1, 0], steps)
    _draw_layers(panels[1, 1], steps[0])
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _draw_memory(panel: Axes, steps: Sequence[PlannedStep]) -> None:
    uses = list(dict.fromkeys(use for step in steps for use in step.memory))
    left = [0.0] * len(steps)
    for number, use in enumerate(uses):
        widths = [100 * step.memory.get(use, 0.0) / step.capacity for step in steps]
        panel.barh(range(len(steps)), widths, left=left, label=use, color=f"C{number + 3}")
        left = [so_far + width for so_far, width in zip(left, widths, strict=True)]
    for row, (step, percent) in enumerate(zip(steps, left, strict=True)):
        panel.text(percent, row, f" {memory_in_words(percent, step.capacity)}", va="center", fontsize=9)
    end = max(left) * 2
    panel.set_xlim(0, max(end, 105) if end > 60 else end)  # a small net is to be seen too
    panel.axvline(100, color="k", linewidth=1)
    panel.set_yticks(range(len(steps)), [step.label for step in steps])
    panel.invert_yaxis()
    panel.set_title("memory of a device in % of what a program may take", fontsize=10)
    panel.legend(fontsize=8, loc="lower right")


def memory_in_words(percent: float, capacity: float) -> str:
    """Returns how much of so many bytes is taken: two digits, or whole percent."""
    return f"{f'{percent:.0f}' if percent >= 10 else f'{percent:.2g}'} % of {capacity / 1e9:.3g} GB"


def _draw_seconds(panel: Axes, steps: Sequence[PlannedStep]) -> None:
    names = [name for name in COLOURS if any(name in step.seconds for step in steps)]
    height = 0.8 / max(len(names), 1)
    for number, name in enumerate(names):
        places = [row + (number - (len(names) - 1) / 2) * height for row in range(len(steps))]
        widths = [1e3 * step.seconds.get(name, 0.0) for step in steps]
        panel.barh(places, widths, height, label=name, color=COLOURS[name])
    panel.set_yticks(range(len(steps)), [step.label for step in steps])
    panel.invert_yaxis()
    panel.set_title("a step in ms: bounds by published peaks, not measured", fontsize=10)
    if names:
        panel.legend(fontsize=8)


def _draw_roofline(panel: Axes, steps: Sequence[PlannedStep]) -> None:
    """Draws attainable operations a second over operations a byte, `min(peak, bandwidth * intensity)`."""
    ridges = [step.peak / step.bandwidth for step in steps]
    dots = [
        [(layer.operations / layer.traffic, layer.operations / layer.seconds, layer) for layer in step.layers
         if layer.operations > 0 and layer.traffic > 0 and layer.seconds > 0]
        for step in steps
    ]  # fmt: skip
    low, high = log_limits([*ridges, *(x for of_step in dots for x, _, _ in of_step)], 100)
    heights = []
    for number, (step, ridge, of_step) in enumerate(zip(steps, ridges, dots, strict=True)):
        roof = [min(step.peak, step.bandwidth * x) for x in (low, ridge, high)]
        panel.plot([low, ridge, high], [y / 1e12 for y in roof], color=f"C{number}", label=step.label)
        panel.plot([x for x, _, _ in of_step], [y / 1e12 for _, y, _ in of_step], "o", color=f"C{number}", alpha=0.7)
        heights += [y / 1e12 for y in (*roof, *(y for _, y, _ in of_step))]
        if number == 0:
            dear = sorted(of_step, key=lambda dot: dot[2].seconds, reverse=True)[:NAMED]
            for x, y, layer in dear:
                to_right = x < (low * high) ** 0.5  # towards the middle, where there is room
                panel.annotate(
                    layer.name, (x, y / 1e12), (6 if to_right else -6, -12 if to_right else 5),
                    textcoords="offset points", fontsize=8, ha="left" if to_right else "right",
                )  # fmt: skip
    set_log_axis(panel, "x", low, high)
    set_log_axis(panel, "y", *log_limits(heights))
    panel.set_xlabel("operations a byte")
    panel.set_ylabel("TFLOP/s, at most")
    panel.set_title("roofline; a dot is a layer", fontsize=10)
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)


def _draw_layers(panel: Axes, step: PlannedStep) -> None:
    dear = sorted(step.layers, key=lambda layer: layer.seconds, reverse=True)[:MOST_LAYERS]
    for row, layer in enumerate(dear):
        panel.barh(row, 1e6 * layer.seconds, color=COLOURS[layer.bottleneck])
    panel.set_yticks(range(len(dear)), [layer.name for layer in dear], fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("µs a step, at least; colours as above")
    panel.set_title(f"the layers that cost most, {step.label}", fontsize=10)
