"""Imports run one way, heavy libraries have one door each, and importing sets nothing behind the user's back."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cnnjax

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "cnnjax").rglob("*.py"))

#: What each part of the house may import of the others.
ARROWS = {
    "ops": set(),
    "errors": set(),
    "layers": {"ops"},
    "inspect": {"ops", "layers"},
    "models": {"ops", "layers", "errors"},
    "data": {"errors"},
    "train": {"data", "errors"},
    "report": {"errors"},
    "interop": {"ops", "layers", "models", "train", "errors"},
    "app": {"ops", "describe", "models", "data", "train", "report", "errors"},
    "__init__": {"ops", "layers", "inspect", "models", "data", "train", "report", "interop", "errors"},
}
#: The only files that may import a library.
DOORS = {
    "tensorflow_datasets": {"data/tfds_source.py"},
    "orbax": {"train/checkpoint.py"},
    "tensorboardX": {"train/metrics.py"},
    "matplotlib": {"report"},
    "flax": {"layers", "inspect", "models", "train/state.py", "train/loop.py", "app/classify.py", "interop.py"},
    "absl": {"app", "data/tfds_source.py"},
    "torch": {"interop.py"},
    "safetensors": {"interop.py"},
    "tensorflow": set(),
}


def imported(path: Path) -> set[str]:
    """The dotted names of every module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    part = path.relative_to(ROOT / "cnnjax").parts[0].removesuffix(".py")
    others = {name.split(".")[1] for name in imported(path) if name.startswith("cnnjax.")} - {part}
    assert others <= ARROWS[part], f"{part} must not import {others - ARROWS[part]}"


@pytest.mark.parametrize("library", DOORS)
def test_doors(library: str) -> None:
    for path in PACKAGE:
        name = str(path.relative_to(ROOT / "cnnjax"))
        if any(module.split(".")[0] == library for module in imported(path)):
            assert any(name.startswith(door) for door in DOORS[library]), f"{name} imports {library}"


def test_nnx_is_split_and_merged_in_one_place() -> None:
    for path in PACKAGE:
        calls = {f"{n.value.id}.{n.attr}" for n in ast.walk(ast.parse(path.read_text()))
                 if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}  # fmt: skip
        if calls & {"nnx.split", "nnx.merge", "nnx.graphdef"}:
            assert path.name == "state.py", path


def test_parts_are_found_by_attribute() -> None:
    program = "import cnnjax as c; c.train.restore, c.ops.conv, c.models.build, c.layers.Conv, c.describe.__call__"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cnnjax.nothing  # noqa: B018


def test_import_sets_nothing_and_stays_light() -> None:
    program = """
import json, os, sys
import jax  # sets two variables of its own
before = dict(os.environ)
import cnnjax, cnnjax.ops, cnnjax.data, cnnjax.train, cnnjax.report, cnnjax.models, cnnjax.interop
heavy = {"tensorflow_datasets", "tensorflow", "orbax", "matplotlib", "PIL", "tensorboardX", "safetensors", "torch"}
heavy &= set(sys.modules)
print(json.dumps([sorted(heavy), sorted(set(os.environ.items()) ^ set(before.items()))]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    heavy, changed = json.loads(done.stdout)
    assert not heavy and not changed
