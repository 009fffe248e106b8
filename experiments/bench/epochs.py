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
from timing import Result

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
        seconds: dict[str, list[float]] = {"warm": [], "cold": []}
        for _ in range(FLAGS.rounds):
            with tempfile.TemporaryDirectory() as folder:
                environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
                for state in ("cold", "warm"):
                    command = [sys.executable, str(Path(__file__).parent.parent / script), *arguments]
                    started = time.perf_counter()
                    done = subprocess.run(
                        [*command, f"--workdir={folder}/{state}"], env=environment, capture_output=True, text=True
                    )
                    seconds[state].append(time.perf_counter() - started)
                    if done.returncode:
                        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
        ratios = [warm / cold for warm, cold in zip(*seconds.values(), strict=True)]
        yield {
            "case": name,
            "measure": "launch to finish",
            "seconds": seconds,
            "ratios": {"cold": median(ratios)},
            "spread": {"cold": [min(ratios), max(ratios)]},
        }
