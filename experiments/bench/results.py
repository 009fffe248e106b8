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


def line(result: Result) -> str:
    """Returns a row of the table.

    It has our median time, and for each peer its median and the ratio with its spread.
    """
    own, *_ = result["seconds"]
    parts = [f"{result['case']:46} {result['measure']:17} {median(result['seconds'][own]) * 1e3:8.2f} ms"]
    for peer, ratio in result["ratios"].items():
        low, high = result["spread"][peer]
        parts.append(f"{peer} {median(result['seconds'][peer]) * 1e3:.2f} ms: {ratio:.2f} ({low:.2f}-{high:.2f})")
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
    """Draws the ratios as points on a logarithmic axis, a row per case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    measures = list(dict.fromkeys(result["measure"] for result in results))
    rows = max(sum(result["measure"] == m for result in results) for m in measures)
    figure, axes = plt.subplots(1, len(measures), figsize=(9 * len(measures), 2 + 0.22 * rows), squeeze=False)
    for axis, measure in zip(axes[0], measures, strict=True):
        of_it = [result for result in results if result["measure"] == measure]
        for peer in dict.fromkeys(p for result in of_it for p in result["ratios"]):
            at = [(result["ratios"][peer], row) for row, result in enumerate(of_it) if peer in result["ratios"]]
            axis.plot(*zip(*at, strict=True), "o", label=f"over {peer}", markersize=4)
        axis.axvline(1, color="gray", linewidth=0.8)
        axis.set(xscale="log", title=measure, xlabel="our time over theirs", yticks=range(len(of_it)))
        axis.set_yticklabels([result["case"] for result in of_it], fontsize=7)
        axis.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5], labels=["0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
        axis.minorticks_off()
        axis.invert_yaxis()
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
