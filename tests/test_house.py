"""Imports run one way, heavy libraries have one door each, files stay short, and importing sets nothing."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cnnjax

ROOT = Path(__file__).parent.parent
PACKAGE = sorted((ROOT / "cnnjax").rglob("*.py"))
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

#: What each part of the house imports of the others: no more, and no less.
ARROWS: dict[str, set[str]] = {
    "ops": set(),
    "errors": set(),
    "layers": {"ops"},
    "inspect": {"ops", "layers"},
    "models": {"ops", "layers", "errors"},
    "data": {"errors"},
    "train": {"data", "errors"},
    "plan": {"inspect", "train", "errors"},
    "report": set(),
    "interop": {"models", "train", "errors"},
    "app": {"ops", "layers", "inspect", "interop", "models", "data", "train", "report", "errors"},
    "__init__": {"ops", "layers", "inspect", "models", "data", "train", "plan", "report", "interop", "errors"},
}
#: The only files that may import a library.
DOORS = {
    "tensorflow_datasets": {"data/tfds_source.py"},
    "orbax": {"train/checkpoint.py"},
    "tensorboardX": {"train/metrics.py"},
    "matplotlib": {"report"},
    "flax": {
        "layers",
        "inspect",
        "models",
        "train/at_once.py",
        "train/result.py",
        "train/state.py",
        "train/fit.py",
        "train/loop.py",
        "train/task.py",
        "train/fingerprint.py",
        "app/experiment.py",
        "app/look/graph.py",
        "app/look/kinds.py",
        "app/start.py",
        "app/restored.py",
        "interop",
    },
    "absl": {"app", "data/tfds_source.py"},
    "torch": {"interop"},
    "safetensors": {"interop"},
    "tensorflow": set(),
}

MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60  # its docstring aside


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports, at its top or inside a function, and those it hands to import_module."""
    names: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return {"cnnjax.inspect.describe" if one == "cnnjax.describe" else one for one in names}  # as cnnjax offers it


def modules(paths: list[Path]) -> dict[str, Path]:
    """Files by the dotted names of their modules; a package's is its `__init__.py`."""
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def files(path: Path, known: dict[str, Path]) -> set[Path]:
    """The files among those known that a file imports."""
    found = set()
    for name in imported(path):
        name = name if name in known else name.rpartition(".")[0]  # a module, or something of a module
        if name in known:
            found.add(known[name])
    return found - {path}


def part(path: Path) -> str:
    return path.relative_to(ROOT / "cnnjax").parts[0].removesuffix(".py")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_arrows() -> None:
    """To the letter: a part may import what stands here, and does."""
    found: dict[str, set[str]] = {part(path): set() for path in PACKAGE}
    known = modules(PACKAGE)
    for path in PACKAGE:
        found[part(path)] |= {part(other) for other in files(path, known)}
        if path == ROOT / "cnnjax" / "__init__.py":
            found["__init__"] |= {*cnnjax._PARTS}
    found = {one: others - {one, "__init__"} for one, others in found.items()}
    assert found == ARROWS


def test_no_circle_of_files() -> None:
    """Not even one that is broken by an import inside a function."""
    known = modules(PACKAGE)
    try:
        graphlib.TopologicalSorter({path: files(path, known) for path in PACKAGE}).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(map(name, error.args[1])))


@pytest.mark.parametrize("library", DOORS)
def test_doors(library: str) -> None:
    for path in PACKAGE:
        if any(module.split(".")[0] == library for module in imported(path)):
            own = str(path.relative_to(ROOT / "cnnjax"))
            assert any(own.startswith(door) for door in DOORS[library]), f"{own} imports {library}"


def test_nnx_is_split_and_merged_in_one_place() -> None:
    for path in PACKAGE:
        calls = {f"{n.value.id}.{n.attr}" for n in ast.walk(tree(path))
                 if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}  # fmt: skip
        if calls & {"nnx.split", "nnx.merge", "nnx.graphdef"}:
            assert path.name == "state.py", path


def test_no_op_asks_for_the_platform() -> None:
    """It is known at lowering: a program may be compiled here for another machine."""
    for path in (ROOT / "cnnjax" / "ops").rglob("*.py"):
        assert "default_backend(" not in path.read_text(), name(path)


def test_the_package_mocks_nothing() -> None:
    assert [name(path) for path in PACKAGE if any(one.startswith("unittest") for one in imported(path))] == []


def test_files_and_functions_stay_short() -> None:
    long = []
    for path in (*PACKAGE, *EXPERIMENTS):
        lines = path.read_text().count("\n")
        if lines > MOST_LINES_OF_A_FILE:
            long.append(f"{name(path)}: {lines} lines")
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                start = node.body[0].end_lineno if ast.get_docstring(node, clean=False) is not None else node.lineno
                assert start is not None and node.end_lineno is not None
                if node.end_lineno - start > MOST_LINES_OF_A_FUNCTION:
                    long.append(f"{name(path)}: {node.name}, {node.end_lineno - start} lines")
    assert long == []


def test_no_test_imports_a_test() -> None:
    """What tests share stands in modules that hold no tests."""
    known = modules(TESTS)
    tests = {path for path in TESTS if path.name.startswith("test_")}
    found = {name(path): sorted(map(name, files(path, known) & tests)) for path in TESTS}
    assert {one: others for one, others in found.items() if others} == {}


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
