"""Eight devices compute what one does, and go on with what one has saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from cnnjax.train import metrics

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import jax
from tests.train import tiny
from tests.train.test_loop import OPTIONS
assert jax.local_device_count() == int(sys.argv[2])
result = tiny.fit(Path(sys.argv[1]), replace(OPTIONS, epochs=int(sys.argv[3])))
assert all(len(leaf.sharding.device_set) == int(sys.argv[2]) for leaf in jax.tree.leaves(result.state.params))
"""


def train_on(devices: int, folder: Path, epochs: int) -> None:
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(devices), str(epochs)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr


def values(folder: Path, name: str) -> np.ndarray:
    return np.array([r[name] for r in metrics.read(folder / "metrics.jsonl") if name in r])


def test_eight_devices_are_one(tmp_path: Path) -> None:
    one, eight, resumed = (tmp_path / name for name in ("one", "eight", "resumed"))
    train_on(1, one, 4)
    train_on(8, eight, 4)
    train_on(1, resumed, 2)
    train_on(8, resumed, 4)
    for other in (eight, resumed):
        for name in ("train_loss", "test_loss"):
            expected = values(one, name)
            assert len(expected) in (4, 24)
            np.testing.assert_allclose(values(other, name), expected, atol=1e-5)


def test_a_batch_that_eight_devices_cannot_share(tmp_path: Path) -> None:
    program = PROGRAM.replace("epochs=int(sys.argv[3])", "batch_size=12")
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "8"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"},
    )
    assert "--batch_size=12 cannot be shared out over 8 devices: give a multiple of 8." in done.stderr
    assert json.dumps([p.name for p in tmp_path.iterdir()]) == "[]", "nothing may be written"
