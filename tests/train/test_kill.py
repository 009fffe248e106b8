"""A run that is killed, again and again, ends with the bits of the run that was left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from cnnjax.train import checkpoint
from tests import processes

pytestmark = pytest.mark.thorough

FLAGS = ("--epochs=2", "--batch_size=96", "--log_every=1", "--eval_every=2")
UPDATES = 2 * 14


def final(workdir: Path) -> dict[str, np.ndarray]:
    """The arrays of the last checkpoint of a finished run."""
    found = checkpoint.read_newest(workdir)
    assert found is not None and int(found.arrays["step"]) == UPDATES
    return found.arrays


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("undisturbed")
    done = processes.run("lenet5.py", *FLAGS, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


def same_run(workdir: Path, undisturbed: Path) -> None:
    """Assert that parameters, optimiser state, records and test scores are those of the other run, to the bit."""
    arrays, expected = final(workdir), final(undisturbed)
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert arrays[name].tobytes() == array.tobytes(), f"{name} differs"
    assert (workdir / "metrics.jsonl").read_text() == (undisturbed / "metrics.jsonl").read_text()


def test_killed_at_random_moments(tmp_path: Path, undisturbed: Path) -> None:
    chance = random.Random(7)
    kills = 0
    unfinished = 0
    while True:
        # a checkpoint after every update: nearly every moment has a save in flight
        process = processes.start("lenet5.py", *FLAGS, "--checkpoint_every=1", f"--workdir={tmp_path}")
        before = checkpoint.steps(tmp_path)
        while process.running() and checkpoint.steps(tmp_path) == before:
            time.sleep(0.01)
        if kills < 3:
            time.sleep(chance.uniform(0, 0.5))
            os.kill(process.pid, signal.SIGKILL)
        done = process.end()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        unfinished += any(not path.name.isdigit() for path in (tmp_path / "checkpoints").iterdir())
    assert kills == 3
    assert unfinished, "no kill met a save in flight"
    same_run(tmp_path, undisturbed)
    steps = [
        r["step"] for r in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()) if "train_loss" in r
    ]
    assert steps == list(range(1, UPDATES + 1))
