"""The script of airbench's recipes: what it trains, by which views it scores, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax.train import restore
from tests import processes

pytestmark = pytest.mark.thorough

TINY = ("--widths=2,2,2", "--batch_size=8", "--epochs=1.5", "--updates_per_call=1")


def colour_set(folder: Path) -> str:
    """Writes 8x8 colour images, the brighter the higher their class; returns the flag."""
    draw = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 3)):
        for level, name in enumerate(("dark", "dim", "bright")):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = (draw.integers(0, 40, (8, 8, 3)) + 80 * level).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return f"--dataset=folder:{folder}"


@pytest.mark.parametrize("recipe", ["airbench94", "airbench94_muon"])
def test_a_recipe_trains_for_a_fraction_of_an_epoch(recipe: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    data = colour_set(tmp_path / "tiny")
    done = processes.run("cifar10_speedrun.py", f"--recipe={recipe}", data, *TINY, f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    assert "(5 updates)" in done.stdout and "blocks.2.convs.1 (Conv)" in done.stdout
    config = json.loads((run / "config.json").read_text())
    assert config["epochs"] == 1.5 and config["input"]["views"] == "airbench" and config["flip"] == "alternating"
    assert config["lookahead"] == (5 if recipe == "airbench94" else None)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in records if "test_loss" in one] == [5], "scored once, at the end"
    state, _ = restore(run)
    kernel = state["params"]["whiten"]["kernel"]
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])
    assert ("slow" in state) == (recipe == "airbench94")


LEFT_OUT = ("whitening", "identity", "scaled_biases", "lookahead", "alternating_flip", "shifted_views")


def test_a_run_without_the_techniques(tmp_path: Path) -> None:
    run, without = tmp_path / "run", [f"--without={name}" for name in LEFT_OUT]
    done = processes.run("cifar10_speedrun.py", colour_set(tmp_path / "tiny"), *TINY, *without, f"--workdir={run}")
    assert done.returncode == 0, done.stderr
    config = json.loads((run / "config.json").read_text())
    assert config["optimizer_options"] == {"train_whitening": True, "bias_scaler": 1}
    assert (config["lookahead"], config["flip"], config["input"]["views"]) == (None, "random", "mirror")
    assert config["model"]["identity"] is False
    state, _ = restore(run)
    kernel = state["params"]["whiten"]["kernel"]
    assert not np.array_equal(kernel[..., 12:], -kernel[..., :12])
    assert "slow" not in state


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--without=lookahead", "--lookahead=3"], "--lookahead and --without=lookahead set the same: give one"),
        (["--without=lookahead", "--recipe=airbench94_muon"], "--without=lookahead is for the other recipes"),
        (["--widths=2,2"], "--widths=2,2 must be 3 numbers, such as 64,256,256"),
        (["--dataset=digits", "--tta=none"], "--flip=alternating is for colour images in memory"),
    ],
)
def test_bad_flags(flags: list[str], message: str, tmp_path: Path) -> None:
    assert message in processes.refusal("cifar10_speedrun.py", *flags, f"--workdir={tmp_path / 'new'}")
