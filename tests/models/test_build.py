"""Nets by their names: ours, registered ones, and classes of one's own by the path of a module or a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError
from tests.experiments import tiny_sets


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds my_nets.py, and is where modules are looked for."""
    tiny_sets.write_net(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def build(name: str, **options: object) -> nnx.Module:
    return nnx.eval_shape(lambda: models.build({"model": {"name": name, "num_classes": 3, "channels": 1, **options}}))


def test_a_class_by_its_module_and_by_its_file(folder: Path) -> None:
    for name in ("my_nets:Small", f"{folder / 'my_nets.py'}:Small"):
        net = build(name, width=5, size=8)
        assert type(net).__name__ == "Small" and net.conv.kernel.shape == (3, 3, 1, 5), (
            "it takes no size, and gets none"
        )
        assert net.head.kernel.shape == (5, 3)


def test_a_registered_net() -> None:
    class Mine(nnx.Module):
        def __init__(self, num_classes: int, *, dtype: str, rngs: nnx.Rngs):
            self.head = nnx.Linear(4, num_classes, rngs=rngs)
            self.dtype = dtype

    try:
        assert models.register("mine-1", Mine) is Mine
        net = build("mine-1")
        assert type(net) is Mine and net.head.kernel.shape == (4, 3) and net.dtype == "float32"
        assert models.register("mine-1", Mine) is Mine, "the same once more"
        with pytest.raises(ValueError, match="name 'mine-1' is taken by "):
            models.register("mine-1", models.LeNet5)
    finally:
        models.MODELS.pop("mine-1", None)
    with pytest.raises(ValueError, match="name must be of letters, digits, _ and -, was 'a:b'"):
        models.register("a:b", Mine)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "lenet6",
            {},
            r"no model 'lenet6': it must be one of airbench94, .*vgg, or one of your own as package\.module:",
        ),
        ("my_nets:Large", {}, "my_nets has no 'Large': the model must be one of its classes or functions"),
        ("my_net:Small", {}, r"the module my_net of the model cannot be imported \(No module named 'my_net'\)"),
        ("my_net.py:Small", {}, r"the file my_net\.py of the model is not there, seen from /"),
        ("my_nets:none", {}, r"made a int; it must be a flax\.nnx\.Module"),
        (
            "my_nets:Small",
            {"depth": 2},
            r"cannot be built from \{.*'depth': 2\}: .*unexpected keyword argument 'depth'",
        ),
        ("lenet5", {"variant": "post"}, r"the model lenet5 cannot be built from \{.*'variant': 'post'\}: "),
    ],
)
def test_what_is_refused(name: str, options: dict, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **options)


def test_a_file_that_is_no_python_is_named(folder: Path) -> None:
    (folder / "broken.py").write_text("class Net(:\n")
    with pytest.raises(UserError, match=r"the file .*broken\.py of the model cannot be read: invalid syntax"):
        build(f"{folder / 'broken.py'}:Net")


def test_a_net_without_a_dtype_computes_in_float32_alone(folder: Path) -> None:
    with pytest.raises(UserError, match="`dtype=bfloat16`: this model takes no dtype"):
        models.build({"model": {"name": "my_nets:Small", "num_classes": 3, "channels": 1}, "dtype": "bfloat16"})
