"""Starting from another net: what fits is taken, the rest is listed; and weights written for PyTorch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from cnnjax import interop, layers, models
from cnnjax.errors import UserError
from cnnjax.train import split
from tests.interop.twins import blank, state_dict


def lenet(num_classes: int = 10) -> nnx.Module:
    return models.build({"model": {"name": "lenet5", "num_classes": num_classes}})


def params_of(model: nnx.Module) -> dict[str, Any]:
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def test_a_new_head_is_drawn_and_the_rest_is_taken_from_another_net() -> None:
    """The parameters of ten classes, as `train.restore` gives them, for a net of 26."""
    theirs = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, params_of(lenet()))
    model = lenet(26)
    before = params_of(model)
    matched, taken, drawn = interop.load_matching(model, theirs)
    assert drawn == ("dense3/bias", "dense3/kernel")
    assert taken == tuple(f"{layer}/{array}" for layer in ("conv1", "conv2", "dense1", "dense2")
                          for array in ("bias", "kernel"))  # fmt: skip
    after = params_of(matched)
    for layer in ("conv1", "conv2", "dense1", "dense2"):
        jax.tree.map(np.testing.assert_array_equal, after[layer], theirs[layer])
    np.testing.assert_array_equal(after["dense3"]["kernel"], before["dense3"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, params_of(model), before)


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "in memory"])
def test_a_new_head_for_weights_of_pytorch(suffix: str, tmp_path: Path) -> None:
    arrays = state_dict()
    source: Any = arrays
    if suffix == "safetensors":
        save_file(arrays, source := tmp_path / "weights.safetensors")
    if suffix == "pth":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.tensor(array) for name, array in arrays.items()}, source := tmp_path / "weights.pth")
    matched, taken, drawn = interop.load_matching(blank(name="lenet5", num_classes=26), source)
    assert drawn == ("dense3/bias", "dense3/kernel") and len(taken) == 8
    after = params_of(matched)
    assert after["dense1"]["kernel"][2 * 80 + 3 * 16 + 7, 9] == arrays["fc1.weight"][9, 7 * 25 + 2 * 5 + 3]
    assert after["dense3"]["kernel"].shape == (84, 26)


def test_running_statistics_come_along() -> None:
    source, model = (blank(name="resnet18", num_classes=classes) for classes in (10, 100))
    _, params, rest = split(source)
    params, rest = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, (params, rest))
    _, taken, drawn = interop.load_matching(model, params)
    assert "stem/norm/mean" in drawn and "stem/norm/scale" in taken
    matched, taken, drawn = interop.load_matching(model, params, rest)
    assert drawn == ("dense/bias", "dense/kernel")
    assert {"stem/norm/mean", "blocks/7/second/norm/var"} <= set(taken)
    assert (np.asarray(matched.stem.norm.mean[...]) == 1).all()


def test_buffers_are_neither_taken_nor_drawn() -> None:
    rngs = nnx.Rngs(0)
    model = nnx.Sequential(nnx.Linear(3, 2, rngs=rngs), layers.RBF([[1.0, 1.0]]))
    _, taken, drawn = interop.load_matching(model, params_of(model))
    assert (taken, drawn) == (("layers/0/bias", "layers/0/kernel"), ())


def test_floats_are_cast_and_other_kinds_do_not_fit() -> None:
    params = params_of(blank(name="lenet5"))
    params["conv1"]["kernel"] = jnp.ones((5, 5, 1, 6), "bfloat16")
    params["conv1"]["bias"] = np.ones(6, np.int32)
    matched, taken, drawn = interop.load_matching(blank(name="lenet5"), params)
    assert drawn == ("conv1/bias",) and "conv1/kernel" in taken
    kernel = params_of(matched)["conv1"]["kernel"]
    assert kernel.dtype == "float32" and (kernel == 1).all()


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    save_file({"body.weight": np.ones((2, 3), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"other.safetensors holds nothing that fits LeNet5 .* body\.weight \(2, 3\), "):
        interop.load_matching(blank(name="lenet5"), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"source holds nothing .* it has body/kernel \(2, 3\), the model conv1/bias"):
        interop.load_matching(blank(name="lenet5"), {"body": {"kernel": np.ones((2, 3), np.float32)}})
    with pytest.raises(UserError, match=r"model must be one of AlexNet, .* was MnistCNN"):
        interop.load_matching(blank(name="mnist_cnn"), state_dict())


def test_a_net_of_ones_own_by_its_naming(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(nnx.Module):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            self.out = nnx.Linear(3, 2, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.out(x)

    monkeypatch.setitem(interop.NAMINGS, Small, lambda model: interop.Naming({"out": "head"}))
    arrays = {"head.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "head.bias": np.ones(2, np.float32)}
    loaded = interop.load_weights(Small(rngs=nnx.Rngs(0)), arrays)
    exported = interop.to_torch_names(loaded)
    assert exported.keys() == arrays.keys()
    jax.tree.map(np.testing.assert_array_equal, exported, arrays)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_saved_weights_load_again_here_and_in_pytorch(suffix: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file as load_tensors

    path = tmp_path / f"weights.{suffix}"
    model = interop.load_weights(blank(name="lenet5"), state_dict())
    interop.save_weights(model, str(path))
    again = interop.load_weights(blank(name="lenet5"), path)
    jax.tree.map(np.testing.assert_array_equal, params_of(again), params_of(model))
    tensors = load_tensors(path) if suffix == "safetensors" else torch.load(path, weights_only=True)
    for name, array in state_dict().items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)


def test_safetensors_are_written_without_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    model = blank(name="lenet5")
    interop.save_weights(model, tmp_path / "weights.safetensors")
    assert set(load_file(tmp_path / "weights.safetensors")) == set(state_dict())
    with pytest.raises(UserError, match=r"to write .*weights\.pth torch must be installed"):
        interop.save_weights(model, tmp_path / "weights.pth")


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    model = blank(name="lenet5")
    has_torch = importlib.util.find_spec("torch") is not None
    for name in ("absent/weights.safetensors", *(["absent/weights.pth"] if has_torch else [])):
        with pytest.raises(UserError, match=rf"{name} cannot be written \(No such file"):
            interop.save_weights(model, tmp_path / name)
    with pytest.raises(UserError, match=r"weights.bin must end in .safetensors, .pt or .pth"):
        interop.save_weights(model, tmp_path / "weights.bin")


def test_parameters_that_pytorch_lacks_are_named() -> None:
    class WithTemperature(models.LeNet5):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            super().__init__(rngs=rngs)
            self.temperature = nnx.Param(jnp.ones(()))

    with pytest.raises(UserError, match="WithTemperature has the parameter temperature, which PyTorch lacks"):
        interop.to_torch_names(WithTemperature(rngs=nnx.Rngs(0)))
