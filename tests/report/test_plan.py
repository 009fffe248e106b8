from __future__ import annotations

from pathlib import Path

from cnnjax.report import PlannedLayer, PlannedStep, plan
from cnnjax.report.plan import memory_in_words
from tests.report.pictures import size

LAYERS = [
    PlannedLayer("conv (Conv)", 2e12, 4e9, 2e-2, "arithmetic"),
    PlannedLayer("pool (MaxPool)", 0.0, 1e9, 1e-3, "memory"),
    PlannedLayer("dense (Linear)", 1e9, 1e9, 1e-3, "memory"),
]
SECONDS = {"arithmetic": 2e-2, "memory": 6e-3, "link": 1e-4}


def step(label: str, **changes: object) -> PlannedStep:
    memory = {"state": 1e9, "batch": 1e8, "temporaries": 5e9}
    return PlannedStep(label, memory, 16e9, SECONDS, 1e14, 1e12, LAYERS)._replace(**changes)  # type: ignore[arg-type]


def test_three_targets(tmp_path: Path) -> None:
    """One estimated by XLA, one of which nothing is known but that it does not fit, one of a net without a product."""
    several = [
        step("tpu:v5e", seconds={**SECONDS, "XLA's estimate": 3e-2}),
        step("gpu:h100", memory={"more than there is": 4e10}, seconds={}, layers=()),
        step("gpu:a100", layers=LAYERS[1:2]),
    ]
    plan(several, tmp_path / "plan.png", "a net")
    assert memory_in_words(250.4, 16e9) == "250 % of 16 GB" and memory_in_words(0.1234, 16e9) == "0.12 % of 16 GB"
    width, height = size(tmp_path / "plan.png")
    assert width > height > 900
