"""One epoch of the training scripts, from launch to finish."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from absl import flags
from timing import Result, alone

from cnnjax.errors import UserError

FLAGS = flags.FLAGS

EPOCHS = {
    "LeNet-5 on MNIST": ["lenet5.py", "--dataset=mnist", "--epochs=1"],
    "CIFAR net on CIFAR-10": ["cifar10.py", "--epochs=1"],
    "CIFAR net of flax's convolutions": ["cifar10.py", "--epochs=1", "--conv=flax"],
}


def time_epochs(peers: list[str]) -> Iterator[Result]:
    """Times one epoch of the scripts from launch to finish.

    It is run with an empty compilation cache, and with its own.
    """
    for name, (script, *arguments) in EPOCHS.items():
        if FLAGS.only not in name:
            continue
        command = [sys.executable, str(Path(__file__).parent.parent / script), *arguments]
        timed = [alone(lambda command=command: run_twice(command)) for _ in range(FLAGS.rounds)]  # type: ignore[misc]
        seconds = {state: [one[state] for one, _ in timed] for state in ("warm", "cold")}
        ratios = [warm / cold for warm, cold in zip(*seconds.values(), strict=True)]
        yield {
            "case": name,
            "measure": "launch to finish",
            "seconds": seconds,
            "ratios": {"cold": median(ratios)},
            "spread": {"cold": [min(ratios), max(ratios)]},
            "disturbed": sum(disturbed for _, disturbed in timed),
        }


def run_twice(command: list[str]) -> dict[str, float]:
    """Returns the seconds of a command with an empty compilation cache, then with that one filled."""
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        for state in ("cold", "warm"):
            started = time.perf_counter()
            done = subprocess.run(
                [*command, f"--workdir={folder}/{state}"], env=environment, capture_output=True, text=True
            )
            seconds[state] = time.perf_counter() - started
            if done.returncode:
                raise UserError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
    return seconds
