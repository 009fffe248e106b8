"""Planning, as a user does it: how each bad input ends, and, where a compiler is installed, one small net."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.report.pictures import size

LIBTPU = importlib.util.find_spec("libtpu") is not None
CUDA = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
NET = """
from flax import nnx

class Dense(nnx.Module):
    def __init__(self, num_classes, *, size, channels, rngs):
        self.dense = nnx.Linear(size * size * channels, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.dense(x.reshape(len(x), -1))

class Maps(nnx.Module):
    def __init__(self, num_classes, *, channels, rngs):
        self.dense = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.dense(x)
"""


def plan(tmp_path: Path, target: str, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What is printed, and plan.json."""
    (tmp_path / "net.py").write_text(NET)
    out = tmp_path / "plan"
    printed = processes.good(
        "plan.py", f"--target={target}", "--model=net.py:Dense", "--image_size=8", "--channels=1", f"--out={out}",
        *arguments, folder=tmp_path,
    )  # fmt: skip
    size(out / "plan.png")
    return printed, json.loads((out / "plan.json").read_text())


@pytest.mark.skipif(not LIBTPU, reason="libtpu, the compiler of TPUs, is not installed: pip install -e '.[aot]'")
def test_four_tpus(tmp_path: Path) -> None:
    printed, found = plan(tmp_path, "tpu:v5e:2x2", "--nolargest_batch", "--dtype=float32")
    assert printed.startswith("tpu:v5e:2x2: 4 x TPU v5e, batch 256: net.py:Dense on 8 x 8 x 1, 650 parameters")
    (target,) = found["targets"]
    assert target["fits"] and target["devices"] == 4 and target["largest_batch"] is None
    assert target["operations"] == 2 * 64 * 2 * 64 * 10, "no gradient of the images"
    assert target["program"]["collectives"]["all-reduce"]["size"] >= 650 * 4
    assert target["program"]["seconds"] > target["bound"]["seconds"] > 0


@pytest.mark.skipif(not CUDA, reason="the compiler of GPUs is not installed: pip install -e '.[cuda]'")
def test_two_kinds_of_gpus(tmp_path: Path) -> None:
    printed, found = plan(tmp_path, "gpu:h100:8,gpu:a100", "--batch_size=64")
    assert "gpu:a100: 1 x A100 80GB, batch 64" in printed and "target      batch  memory" in printed
    first, second = found["targets"]
    assert (first["devices"], second["devices"]) == (8, 1)
    assert first["program"]["flops"] is None and first["operations"] == 8 * 2 * 2 * 64 * 10
    assert second["largest_batch"]["batch_size"] == 2**16 and second["largest_batch"]["next_size"] is None
    assert second["program"]["collectives"] == {}


@pytest.mark.skipif(LIBTPU, reason="the compiler of TPUs is installed")
def test_without_a_compiler_it_says_what_to_install(tmp_path: Path) -> None:
    said = processes.refusal("plan.py", "--target=tpu:v5e:2x2", "--model=mnist_cnn", folder=tmp_path)
    assert "the compiler for tpu:v5e:2x2 is not installed: pip install -e '.[aot]' brings it. No TPU is needed." in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--target=tpu:v7", "--model=mnist_cnn"], "--target=tpu:v7: there is no 'v7' among v4, v5e, v5p, v6e."),
        (["--target=gpu:h100", "--model=mnist_cnn", "--image_size=32"],
         "the net does not take images of 32 x 32 x 1: x must be (N, 28, 28, channels), was (1, 32, 32, 1)"),
        (["--target=gpu:h100", "--model=textcnn"], "--model=textcnn reads words, not images"),
        (["--target=gpu:h100", "--model=net.py:Maps"], "must give logits (N, num_classes), gave (2, 32, 32, 10)"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_a_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    assert sentence in processes.refusal("plan.py", *arguments, folder=tmp_path)
