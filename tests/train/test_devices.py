"""Eight devices compute what one does, and go on with what one has saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnjax.train import metrics
from tests import processes

# FOLDER=EPOCHS ...
RUNS = """
import sys
from dataclasses import replace
from pathlib import Path
import jax
from tests.train import tiny
for argument in sys.argv[1:]:
    folder, epochs = argument.split("=")
    result = tiny.fit(Path(folder), replace(tiny.OPTIONS, epochs=int(epochs)))
    leaves = jax.tree.leaves(result.state.params)
    assert all(len(leaf.sharding.device_set) == jax.local_device_count() for leaf in leaves)
print(jax.local_device_count())
"""
REFUSED = """
import sys
from dataclasses import replace
from pathlib import Path
from cnnjax.errors import UserError
from tests.train import tiny
try:
    tiny.fit(Path(sys.argv[1]), replace(tiny.OPTIONS, batch_size=12))
except UserError as error:
    print(error)
"""


def values(folder: Path, name: str) -> np.ndarray:
    return np.array([r[name] for r in metrics.read(folder / "metrics.jsonl") if name in r])


@pytest.mark.thorough
def test_eight_devices_are_one(tmp_path: Path) -> None:
    one, eight, resumed = (tmp_path / name for name in ("one", "eight", "resumed"))
    assert processes.program(RUNS, f"{one}=4", f"{resumed}=2") == "1\n"
    assert processes.program(RUNS, f"{eight}=4", f"{resumed}=4", devices=8) == "8\n"
    for other in (eight, resumed):
        for name in ("train_loss", "test_loss"):
            expected = values(one, name)
            assert len(expected) in (4, 24)
            np.testing.assert_allclose(values(other, name), expected, atol=1e-5)


def test_a_batch_that_eight_devices_cannot_share(tmp_path: Path) -> None:
    printed = processes.program(REFUSED, tmp_path, devices=8)
    assert "`batch_size=12` cannot be shared out over 8 devices: give a multiple of 8." in printed
    assert not list(tmp_path.iterdir()), "nothing may be written"
