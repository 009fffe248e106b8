"""The pools on meshes of eight devices, in processes of their own: this one has a single device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
}


def differences(*arguments):
    command = [sys.executable, "-m", "tests.ops.pool.meshes", *arguments]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    return done.stdout.removesuffix("done\n")


@pytest.mark.parametrize("kind", ["explicit", "auto", "shard_map"])
def test_meshes_give_the_numbers_of_one_device(kind):
    assert differences(kind, "core") == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["explicit", "auto", "shard_map"])
def test_every_pool_on_meshes_gives_the_numbers_of_one_device(kind):
    assert differences(kind, "all") == ""
