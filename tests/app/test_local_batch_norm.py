"""`--local_batch_norm`: what is written into the config, what a resume takes from there, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.thorough

FLAGS = ("--dataset=digits", "--blocks=1", "--width=2", "--batch_size=512", "--local_batch_norm")


def test_a_run_goes_on_with_the_parts_that_it_began_with(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = (*FLAGS, "--batch_norm", f"--workdir={run}")
    processes.good("cifar10.py", *flags, "--epochs=1")
    config = json.loads((run / "config.json").read_text())
    assert config["local_batch_norm"] == 1, "this process has one device"
    (run / "config.json").write_text(json.dumps({**config, "local_batch_norm": 4}))
    said = processes.refusal("cifar10.py", *flags, "--epochs=2", "--learning_rate=0.5")
    assert "learning_rate: was 0.001, is now 0.5" in said and "local_batch_norm" not in said
    said = processes.refusal("cifar10.py", *flags, "--epochs=1", "--nolocal_batch_norm")
    assert "local_batch_norm: was 4, is now None" in said


def test_a_net_without_it_is_told(tmp_path: Path) -> None:
    said = processes.refusal("cifar10.py", *FLAGS, f"--workdir={tmp_path / 'run'}")
    assert "--local_batch_norm: this net has no batch norm; leave it out." in said
    (tmp_path / "net.py").write_text(
        "from flax import nnx\n\nclass Net(nnx.Module):\n    def __init__(self, num_classes, channels, *, rngs):\n"
        "        self.norm = nnx.BatchNorm(channels, rngs=rngs)\n"
    )
    said = processes.refusal(
        "train.py", "--model=net.py:Net", "--dataset=digits", "--local_batch_norm", folder=tmp_path
    )
    assert "--local_batch_norm: the layer norm is flax's nnx.BatchNorm" in said
