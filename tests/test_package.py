"""What a user sees of the package itself: its names, its version, its types."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import cnnjax

ROOT = Path(__file__).parent.parent
PARTS = ["data", "errors", "inspect", "interop", "layers", "models", "ops", "plan", "report", "train"]


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cnnjax.__version__ == project["version"]


def test_completion_shows_the_parts_and_nothing_else() -> None:
    assert [name for name in dir(cnnjax) if not name.startswith("_")] == sorted([*PARTS, "describe"])
    program = "import cnnjax; print(*dir(cnnjax)); [getattr(cnnjax, name) for name in dir(cnnjax)]; print(*dir(cnnjax))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    before, after = done.stdout.splitlines()
    assert before == after, "the same before and after the parts are imported"


def test_star_import_brings_the_parts_and_hides_no_module_of_python() -> None:
    program = "import inspect\nfrom cnnjax import *\nprint(inspect.signature, ops.conv, describe, layers.Conv, train)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    assert set(cnnjax.__all__) == {*PARTS, "describe"} - {"inspect"}


USER = """
import jax.numpy as jnp
from flax import nnx

import cnnjax
from cnnjax import describe, layers

y = cnnjax.ops.conv(jnp.ones((1, 8, 8, 1)), jnp.ones((3, 3, 1, 2)), padding=1)
reveal_type(y)
table = cnnjax.describe(layers.Conv(1, 6, (5, 5), stride=2, rngs=nnx.Rngs(0)), (32, 32, 1))
reveal_type(table)
reveal_type(table.total.params)
reveal_type(describe)
reveal_type(cnnjax.layers.MaxPool(2)(y))
reveal_type(cnnjax.__version__)
reveal_type(cnnjax.train.restore)
reveal_type(cnnjax.inspect.activations)
layers.Conv(1, 6, (5, 5), stride="two", rngs=nnx.Rngs(0))
layers.Conv(1, 6, (5, 5), strides=2, rngs=nnx.Rngs(0))
cnnjax.nothing
"""


#: Libraries whose types this file asks nothing of; to read them takes longer than all the rest.
UNREAD = ("PIL", "absl", "flax", "matplotlib", "ml_dtypes", "numpy", "optax", "orbax", "safetensors", "scipy",
          "tensorboardX", "tensorflow", "tensorflow_datasets", "torch", "tqdm")  # fmt: skip
#: Of JAX itself only the file that says what jax.Array is.
SETTINGS = (
    "[mypy]\nignore_missing_imports = True\nfollow_imports = silent\n"
    + "".join(f"[mypy-{library},{library}.*]\nfollow_imports = skip\n" for library in UNREAD)
    + """
[mypy-jax.*]
follow_imports = skip
[mypy-jax,jax._src,jax._src.basearray]
follow_imports = silent
"""
)


def checked(tmp_path: Path, *command: str) -> str:
    """What a type checker says of a user's file."""
    (tmp_path / "user.py").write_text(USER)
    environment = {**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    return done.stdout + done.stderr


@pytest.mark.thorough
def test_mypy_resolves_the_parts(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    said = checked(tmp_path, sys.executable, "-m", "mypy", "user.py")
    revealed = re.findall(r'Revealed type is "(.*)"', said)
    assert revealed[0].endswith("Array") and revealed[1] == "cnnjax.inspect.table.Table", said
    assert revealed[2] == "int" or revealed[2] == "builtins.int", said
    assert "input_shape" in revealed[3] and revealed[5].endswith("str"), said
    assert "restore" in revealed[6] or "def (" in revealed[6], said
    assert "def (" in revealed[7], said
    assert 'Argument "stride" to "Conv" has incompatible type "str"' in said
    assert 'Unexpected keyword argument "strides" for "Conv"' in said
    assert 'Module has no attribute "nothing"' in said
