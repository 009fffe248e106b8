"""Weights in PyTorch's naming: the logits against PyTorch's, and how a file that does not fit ends."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from cnnjax import interop
from cnnjax.errors import UserError
from tests.interop import twins
from tests.interop.twins import blank, randomized, state_dict

SMALL: dict[str, Any] = {"width": 8, "dense": 20}
NARROW_VGG: dict[str, Any] = {"name": "vgg", "depth": 11, "batch_norm": True, "size": 64, **SMALL, "width": 4}


@pytest.mark.parametrize(
    ("options", "make", "shape"),
    [
        ({"name": "lenet5"}, twins.lenet5, (32, 32, 1)),
        ({"name": "resnet18"}, partial(twins.resnet, depth=18, stem="cifar"), (32, 32, 3)),
        pytest.param(
            {"name": "resnet18", "stem": "imagenet"},
            partial(twins.resnet, depth=18, stem="imagenet"),
            (64, 64, 3),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {"name": "resnet34", "width": 8},
            partial(twins.resnet, depth=34, stem="imagenet", width=8),
            (64, 64, 3),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {"name": "resnet50", "width": 4},
            partial(twins.resnet, depth=50, stem="imagenet", width=4),
            (64, 64, 3),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            {"name": "resnet101", "width": 4},
            partial(twins.resnet, depth=101, stem="imagenet", width=4),
            (64, 64, 3),
            marks=pytest.mark.slow,
        ),
        ({"name": "alexnet", "form": "one-tower", "size": 95, **SMALL}, twins.alexnet, (95, 95, 3)),
        (
            {"name": "vgg", "depth": 11, "batch_norm": True, "size": 64, **SMALL, "width": 4},
            twins.vgg11_bn,
            (64, 64, 3),
        ),
    ],
    ids=["lenet5", "resnet18", "torchvision_resnet18", "resnet34", "resnet50", "resnet101", "alexnet", "vgg11_bn"],
)
def test_logits_are_pytorchs(
    options: dict[str, Any], make: Callable[[Any], Any], shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    twin = randomized(torch, make)
    torch.save(twin.state_dict(), tmp_path / "weights.pth")
    save_file({key: tensor.numpy() for key, tensor in twin.state_dict().items()}, tmp_path / "weights.safetensors")
    model = blank(**options)
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    with torch.no_grad():
        expected = twin(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    loaded = interop.load_weights(model, tmp_path / "weights.safetensors")
    logits = jax.jit(lambda model, x: model(x))(loaded, jnp.asarray(x))
    assert expected.std() > 0.1, "the logits must not be near 0, where any would do"
    np.testing.assert_allclose(logits, expected, atol=1e-4 * max(1, expected.std()))
    exported = interop.to_torch_names(loaded)
    assert exported.keys() == twin.state_dict().keys()
    for name, tensor in twin.state_dict().items():
        np.testing.assert_array_equal(exported[name], tensor.numpy())
    arrays, others = (interop.load_torch_weights(tmp_path / file) for file in ("weights.pth", "weights.safetensors"))
    assert arrays.keys() == others.keys() and all(np.array_equal(arrays[name], others[name]) for name in arrays)


@pytest.fixture(scope="module")
def lenet() -> nnx.Module:
    return blank(name="lenet5")


def test_layouts_by_hand(lenet: nnx.Module) -> None:
    arrays = state_dict()
    params, _ = interop.from_torch_names(lenet, arrays)
    assert params["conv2"]["kernel"][1, 2, 3, 4] == arrays["conv2.weight"][4, 3, 1, 2]
    assert params["dense2"]["kernel"][5, 6] == arrays["fc2.weight"][6, 5]
    # the input of the first dense layer at row 2, column 3 of map 7
    assert params["dense1"]["kernel"][2 * 80 + 3 * 16 + 7, 9] == arrays["fc1.weight"][9, 7 * 25 + 2 * 5 + 3]


def test_half_precision_is_cast(lenet: nnx.Module) -> None:
    arrays = {name: array.astype(jnp.bfloat16) for name, array in state_dict().items()}
    params, _ = interop.from_torch_names(lenet, arrays)
    assert params["dense3"]["kernel"].dtype == np.float32
    np.testing.assert_array_equal(params["dense3"]["kernel"], arrays["fc3.weight"].T.astype(np.float32))


def without(name: str) -> dict[str, np.ndarray]:
    return {key: array for key, array in state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (without("fc2.bias"), r"fc2.bias is absent, must be \(84,\)\."),
        (without("") | {"fc4.weight": np.zeros((2, 3))}, r"fc4.weight is \(2, 3\), must be absent\."),
        (
            without("") | {"conv1.weight": np.zeros((6, 3, 5, 5)), "fc3.bias": np.zeros(100)},
            r"conv1.weight is \(6, 3, 5, 5\), must be \(6, 1, 5, 5\) \(and 1 more\)\. Build the model with",
        ),
        (
            without("") | {"fc3.bias": np.zeros(10, int)},
            r"fc3.bias is int64 \(10,\), must be \(10,\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    arrays: dict[str, np.ndarray], message: str, lenet: nnx.Module, tmp_path: Path
) -> None:
    save_file(arrays, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=rf"weights.safetensors does not fit LeNet5: {message}"):
        interop.load_weights(lenet, tmp_path / "weights.safetensors")


def test_a_model_without_names_is_refused() -> None:
    with pytest.raises(UserError, match=r"model must be one of AlexNet, .*was MnistCNN"):
        interop.from_torch_names(blank(name="mnist_cnn"), {})


class Harm:
    """What would write a file if it were unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_files_that_cannot_be_read(lenet: nnx.Module, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.pth cannot be read"):
        interop.load_weights(lenet, tmp_path / "absent.pth")
    save_file(state_dict(), tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut\.safetensors is a damaged safetensors file"):
        interop.load_weights(lenet, tmp_path / "cut.safetensors")


def test_nothing_in_a_pickle_is_executed(lenet: nnx.Module, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "harm.pth").write_bytes(pickle.dumps({"conv1.weight": Harm(tmp_path / "executed")}))
    torch.save({"conv1.weight": Harm(tmp_path / "executed")}, tmp_path / "zipped.pth")
    torch.save({"epoch": 3, "state_dict": {}}, tmp_path / "checkpoint.pth")
    for name, message in (
        ("harm", "neither a safetensors file nor a state dict"),
        ("zipped", "neither a safetensors file nor a state dict"),
        ("checkpoint", "must hold a state dict"),
    ):
        with pytest.raises(UserError, match=message):
            interop.load_weights(lenet, tmp_path / f"{name}.pth")
    assert not (tmp_path / "executed").exists()


def test_without_torch_the_way_is_named(lenet: nnx.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").write_bytes(b"PK\3\4 and so on")
    with pytest.raises(UserError, match="to read PyTorch's files torch must be installed"):
        interop.load_weights(lenet, tmp_path / "weights.pth")
