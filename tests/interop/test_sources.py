"""Weights as they come: float8 files, nets that were wrapped, state dicts in memory, subclasses of our nets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models
from cnnjax.errors import UserError
from cnnjax.interop.files import load_torch_weights, save_torch_weights

SHAPES = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 400), "fc2": (84, 120), "fc3": (10, 84)}


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """LeNet-5 in PyTorch's naming."""
    draw = np.random.default_rng(0)
    weights = {f"{name}.weight": draw.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    return weights | {f"{name}.bias": np.ones(shape[0], np.float32) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def lenet() -> nnx.Module:
    return models.build({"model": {"name": "lenet5"}})


def leaves(model: nnx.Module) -> dict[str, np.ndarray]:
    state = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in state}


def check(loaded: nnx.Module, arrays: dict[str, np.ndarray]) -> None:
    got = leaves(loaded)
    np.testing.assert_array_equal(got["['dense3']['kernel']"], arrays["fc3.weight"].T.astype(np.float32))
    np.testing.assert_array_equal(got["['conv2']['kernel']"][1, 2, 3, 4], arrays["conv2.weight"][4, 3, 1, 2])
    assert all(leaf.dtype == np.float32 for leaf in got.values())


def write_safetensors(path: Path, arrays: dict[str, np.ndarray], dtype: str) -> None:
    """By the format's page: the length of the header, the header, the bytes."""
    import json

    header, data = {}, b""
    for name, array in arrays.items():
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (ml_dtypes.float8_e4m3fn, "F8_E4M3"),
        (ml_dtypes.float8_e5m2, "F8_E5M2"),
        (ml_dtypes.bfloat16, "BF16"),
        (np.float16, "F16"),
        (np.float64, "F64"),
    ],
)
def test_files_of_every_float(
    dtype: Any, name: str, arrays: dict[str, np.ndarray], lenet: nnx.Module, tmp_path: Path
) -> None:
    cast = {key: array.astype(dtype) for key, array in arrays.items()}
    write_safetensors(tmp_path / "weights.safetensors", cast, name)
    check(interop.load_weights(lenet, tmp_path / "weights.safetensors"), cast)


def test_float8_as_torch_writes_it(arrays: dict[str, np.ndarray], lenet: nnx.Module, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    tensors = {name: torch.tensor(array).to(torch.float8_e4m3fn) for name, array in arrays.items()}
    save_file(tensors, tmp_path / "weights.safetensors")
    torch.save(tensors, tmp_path / "weights.pth")
    expected = {name: tensor.float().numpy() for name, tensor in tensors.items()}
    for file in ("weights.safetensors", "weights.pth"):
        check(interop.load_weights(lenet, tmp_path / file), expected)


def test_a_dtype_that_jax_lacks_is_named(arrays: dict[str, np.ndarray], lenet: nnx.Module, tmp_path: Path) -> None:
    write_safetensors(tmp_path / "weights.safetensors", {"conv1.bias": np.ones(6, np.complex64)}, "C64")
    with pytest.raises(UserError, match=r"conv1.bias has the dtype C64"):
        interop.load_weights(lenet, tmp_path / "weights.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrapped_nets(prefix: str, arrays: dict[str, np.ndarray], lenet: nnx.Module) -> None:
    check(interop.load_weights(lenet, {prefix + name: array for name, array in arrays.items()}), arrays)


def test_parts_that_were_compiled_alone(arrays: dict[str, np.ndarray], lenet: nnx.Module) -> None:
    renamed = {name.replace("conv1.", "conv1._orig_mod."): array for name, array in arrays.items()}
    check(interop.load_weights(lenet, renamed), arrays)


def test_names_that_only_some_have_are_no_prefix(arrays: dict[str, np.ndarray], lenet: nnx.Module) -> None:
    some = {("module." if name == "fc1.bias" else "") + name: array for name, array in arrays.items()}
    with pytest.raises(UserError, match=r"fc1\.bias is absent"):
        interop.load_weights(lenet, some)
    with pytest.raises(UserError, match=r"_orig_mod\.fc1\.bias is \(120,\), must be absent"):
        interop.load_weights(lenet, {**arrays, "_orig_mod.fc1.bias": arrays["fc1.bias"]})


def test_wrapped_by_torch_itself(arrays: dict[str, np.ndarray], lenet: nnx.Module) -> None:
    torch = pytest.importorskip("torch")
    layers: dict[str, Any] = {"conv1": torch.nn.Conv2d(1, 6, 5), "conv2": torch.nn.Conv2d(6, 16, 5)}
    layers |= {name: torch.nn.Linear(*SHAPES[name][::-1]) for name in ("fc1", "fc2", "fc3")}
    net = torch.nn.ModuleDict(layers)
    net.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    check(interop.load_weights(lenet, torch.nn.DataParallel(net).state_dict()), arrays)
    check(interop.load_weights(lenet, torch.compile(net, backend="eager").state_dict()), arrays)
    check(interop.load_weights(lenet, net.bfloat16().state_dict()), {
        name: torch.tensor(array).bfloat16().float().numpy() for name, array in arrays.items()
    })  # fmt: skip


def test_a_subclass_takes_the_names_of_its_base(arrays: dict[str, np.ndarray]) -> None:
    class WithTemperature(models.LeNet5):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            super().__init__(rngs=rngs)
            self.temperature = nnx.Param(jnp.full((), 3.0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return super().__call__(x) / self.temperature[...]

    model = WithTemperature(rngs=nnx.Rngs(0))
    loaded = interop.load_weights(model, arrays)
    check(loaded, arrays)
    assert isinstance(loaded, WithTemperature) and loaded.temperature[...] == 3


def test_files_of_torch_that_hold_something_else(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for number, (held, sentence) in enumerate((
        ({0: torch.zeros(2)}, "must hold a state dict, names and tensors"),
        ({"a": torch.eye(3).to_sparse()}, "a cannot be read as an array"),
        ({"a": torch.zeros(2, device="meta")}, "a cannot be read as an array"),
    )):  # fmt: skip
        path = tmp_path / f"{number}.pt"
        torch.save(held, path)
        with pytest.raises(UserError, match=sentence):
            load_torch_weights(path)


def test_bfloat16_goes_into_a_file_of_torch_and_back(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save_torch_weights({"a": np.array([1, -2.5], jnp.bfloat16)}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt")["a"].dtype == torch.bfloat16
    np.testing.assert_array_equal(load_torch_weights(tmp_path / "a.pt")["a"], np.array([1, -2.5], np.float32))
