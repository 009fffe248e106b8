"""The table, the summary, the machine and the plot."""

from __future__ import annotations

import itertools
import math
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import jax
from timing import Result

from cnnjax.report.axes import log_limits, set_log_axis
from cnnjax.report.figures import new_figure, save

#: Colour, marker and name in the plot of those whom we are compared with.
PEERS = {
    "torch": ("C3", "s", "PyTorch at its best"),
    "flax": ("C0", "o", "flax as shipped"),
    "flax with our options": ("C2", "^", "flax's layers in our step"),
    "lax": ("C0", "D", "jax.lax"),
    "own float32": ("C0", "D", "our own in float32"),
    "cold": ("C0", "o", "with an empty compilation cache"),
}
FEW_CASES = 8  # rows of a plot that get a number beside each mark


def line(result: Result) -> str:
    """Returns a row of the table.

    It has our median time, or what else was measured, and for each peer its median and the ratio with its spread.
    """
    own, *_ = result["seconds"]
    unit, factor = result.get("unit", ("ms", 1e3))
    parts = [f"{result['case']:46} {result['measure']:17} {median(result['seconds'][own]) * factor:8.2f} {unit}"]
    for peer, ratio in result["ratios"].items():
        low, high = result["spread"][peer]
        spread = f" ({low:.2f}-{high:.2f})" if low < high else ""
        parts.append(f"{peer} {median(result['seconds'][peer]) * factor:.2f} {unit}: {ratio:.2f}{spread}")
    if disturbed := result.get("disturbed"):
        parts.append(f"disturbed by other processes: {disturbed} of {len(result['seconds'][own])} rounds")
    return " | ".join(parts)


def means(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Returns the geometric mean and the largest of the ratios, by measure and peer."""
    rows = []
    for measure in dict.fromkeys(result["measure"] for result in results):
        of_it = [result["ratios"] for result in results if result["measure"] == measure]
        for peer in dict.fromkeys(itertools.chain(*of_it)):
            ratios = [r[peer] for r in of_it if peer in r]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            rows.append({"measure": measure, "peer": peer, "cases": len(ratios), "mean": mean, "worst": max(ratios)})
    return rows


def machine() -> dict[str, Any]:
    """Returns what the timings depend on."""
    versions: dict[str, Any] = {
        name: sys.modules[name].__version__ for name in ("jax", "flax", "torch") if name in sys.modules
    }
    return {
        "processor": next((text for text in processor_names() if text), platform.machine()),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "python": platform.python_version(),
        **versions,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "CNNJAX_ONEDNN": os.environ.get("CNNJAX_ONEDNN", ""),
    }


def processor_names() -> Iterator[str]:
    """Yields the processor's name as Linux has it, and as Python does."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        yield from (text.split(":")[1].strip() for text in lines if text.startswith("model name"))
    yield platform.processor()


def plot(results: Sequence[Result], path: Path) -> None:
    """Draws the ratios on a log axis: a row per case, in it a line per peer, with its spread over the rounds.

    Gray crosses beside PyTorch's best are its other layouts, compiled or not; a stroke near the line at 1 is ours,
    timed a second time.
    """
    measures = list(dict.fromkeys(result["measure"] for result in results))
    peers = list(dict.fromkeys(peer for result in results for peer in result["ratios"] if named(peer)))
    pitch = 0.17 if len(results) <= 3 * FEW_CASES else 0.1  # inches between the lines of a row
    rows = max(sum(result["measure"] == measure for result in results) for measure in measures)
    figure = new_figure(5.5 * len(measures) + 2, 1.5 + rows * pitch * (len(peers) + 1))
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    ends = [end for result in results for peer in peers for end in result["spread"].get(peer, ())]
    low, high = log_limits([1.0, *ends, *(ratio for result in results for ratio in result["ratios"].values())])
    for panel, measure in zip(panels, measures, strict=True):
        of_it = [result for result in results if result["measure"] == measure]
        for row, result in enumerate(of_it):
            draw_case(panel, result, peers, row, with_numbers=rows <= FEW_CASES)
        panel.axvline(1, color="k", linewidth=0.8, zorder=0)
        set_log_axis(panel, "x", low, high)
        panel.set(title=measure, xlabel="ours over theirs (left of 1: ours takes less)")
        panel.set_yticks(
            range(len(of_it)), [result["case"] for result in of_it], fontsize=9 if rows <= FEW_CASES else 7
        )
        panel.set_yticks([row + 0.5 for row in range(len(of_it) - 1)], minor=True)
        panel.tick_params(axis="y", which="both", length=0)
        panel.grid(axis="x", alpha=0.3)
        panel.grid(axis="y", which="minor", alpha=0.5)
        panel.set_ylim(len(of_it) - 0.5, -0.5)
    figure.legend(handles=legend(peers, results), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    save(figure, path)


def named(peer: str) -> bool:
    """True for peers that have a line of their own: not for ours again, and for single layouts of PyTorch."""
    return peer != "own again" and not peer.startswith("torch ")


def style(peer: str) -> tuple[str, str, str]:
    """Returns colour, marker and name of a peer."""
    return PEERS.get(peer, ("C4", "v", peer))


def draw_case(panel: Any, result: Result, peers: Sequence[str], row: int, *, with_numbers: bool) -> None:
    """Draws the ratios of a case into its row, each peer on a line of its own."""
    for number, peer in enumerate(peers):
        if peer not in result["ratios"]:
            continue
        y, ratio = row + (number + 1) / (len(peers) + 1) - 0.5, result["ratios"][peer]
        colour, marker, _ = style(peer)
        panel.plot(result["spread"][peer], [y, y], color=colour, linewidth=1.5, alpha=0.4, solid_capstyle="butt")
        panel.plot([ratio], [y], marker=marker, color=colour, markersize=6 if with_numbers else 4)
        if with_numbers:
            panel.annotate(f"{ratio:.2f}", (result["spread"][peer][1], y), xytext=(6, 0), textcoords="offset points",
                           va="center", fontsize=8, color=colour,
                           bbox={"facecolor": "w", "edgecolor": "none", "pad": 0.5})  # fmt: skip
        if peer == "torch":
            others = [value for name, value in result["ratios"].items() if name.startswith("torch ")]
            panel.plot(others, [y] * len(others), "x", color="0.55", markersize=4, zorder=1)
    if "own again" in result["ratios"]:
        panel.plot([result["ratios"]["own again"]], [row], "|", color="k", markersize=9, zorder=1)


def legend(peers: Sequence[str], results: Sequence[Result]) -> list[Any]:
    """Returns an entry for each peer, and for crosses and strokes where there are any."""
    from matplotlib.lines import Line2D

    names = {name for result in results for name in result["ratios"]}
    marks = [style(peer) for peer in peers]
    if any(name.startswith("torch ") for name in names):
        marks.append(("0.55", "x", "PyTorch: other layouts, compiled or not"))
    if "own again" in names:
        marks.append(("k", "|", "ours again: the noise"))
    return [Line2D([], [], color=colour, marker=marker, linestyle="", label=label) for colour, marker, label in marks]
