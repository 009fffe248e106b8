"""Weights in PyTorch's naming: the logits against PyTorch's, and how a file that does not fit ends."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from cnnjax import interop, models
from cnnjax.errors import UserError


def lenet5(torch: Any) -> Any:
    """The net of PyTorch's tutorial, at the sizes of LeNet-5."""

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = torch.nn.Conv2d(1, 6, 5), torch.nn.Conv2d(6, 16, 5)
            self.fc1, self.fc2, self.fc3 = (torch.nn.Linear(*s) for s in ((400, 120), (120, 84), (84, 10)))

        def forward(self, x: Any) -> Any:
            for conv in (self.conv1, self.conv2):
                x = torch.nn.functional.max_pool2d(torch.relu(conv(x)), 2)
            return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))

    return Twin()


def resnet18(torch: Any) -> Any:
    """torchvision's names, in the form for 32x32 images."""

    def norm_conv(below: int, width: int, window: int, stride: int) -> tuple[Any, Any]:
        conv = torch.nn.Conv2d(below, width, window, stride, window // 2, bias=False)
        return conv, torch.nn.BatchNorm2d(width)

    class Block(torch.nn.Module):
        def __init__(self, below: int, width: int, stride: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = norm_conv(below, width, 3, stride)
            self.conv2, self.bn2 = norm_conv(width, width, 3, 1)
            self.downsample = torch.nn.Sequential(*(norm_conv(below, width, 1, stride) if stride > 1 else ()))

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(y)) + self.downsample(x))

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = norm_conv(3, 64, 3, 1)
            below = 64
            for stage, width in enumerate((64, 128, 256, 512), 1):
                blocks = Block(below, width, 1 if stage == 1 else 2), Block(width, width, 1)
                setattr(self, f"layer{stage}", torch.nn.Sequential(*blocks))
                below = width
            self.fc = torch.nn.Linear(512, 10)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.bn1(self.conv1(x)))
            for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
                x = stage(x)
            return self.fc(x.mean((2, 3)))

    return Twin()


def alexnet(torch: Any) -> Any:
    """torchvision's places of the layers, at small widths."""
    nn = torch.nn
    maps = (3, 8, 24, 48, 32, 32)
    shapes = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # window, stride, padding
    features: list[Any] = []
    for n, shape in enumerate(shapes):
        features += [nn.Conv2d(maps[n], maps[n + 1], *shape), nn.ReLU()]
        features += [nn.MaxPool2d(3, 2)] if n in (0, 1, 4) else []
    hidden = [nn.Dropout(), nn.Linear(32 * 2 * 2, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 20), nn.ReLU()]
    parts = {"features": nn.Sequential(*features), "classifier": nn.Sequential(*hidden, nn.Linear(20, 10))}
    return in_turn(torch, parts)


def vgg11_bn(torch: Any) -> Any:
    """torchvision's places of the layers, at small widths."""
    nn = torch.nn
    features: list[Any] = []
    below = 3
    for width in (4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"):
        if isinstance(width, str):
            features.append(nn.MaxPool2d(2))
        else:
            features += [nn.Conv2d(below, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            below = width
    hidden = [nn.Linear(32 * 2 * 2, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 20), nn.ReLU(), nn.Dropout()]
    parts = {"features": nn.Sequential(*features), "classifier": nn.Sequential(*hidden, nn.Linear(20, 10))}
    return in_turn(torch, parts)


def in_turn(torch: Any, parts: dict[str, Any]) -> Any:
    """Features, flattened, into a classifier."""

    class Twin(torch.nn.ModuleDict):
        def forward(self, x: Any) -> Any:
            return self["classifier"](self["features"](x).flatten(1))

    return Twin(parts)


def randomized(torch: Any, make: Callable[[Any], Any]) -> Any:
    """A twin whose running statistics, scales and biases are not those of the start, and its logits not near 0."""
    torch.manual_seed(0)
    twin = make(torch)
    for module in twin.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1)
    return twin.eval()


def blank(**options: Any) -> nnx.Module:
    """A model whose arrays are zeros: to draw its weights would take longer than all that is tested of it."""

    def zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key(0) if key else jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(zeros, nnx.eval_shape(lambda: models.build({"model": options})))


SMALL: dict[str, Any] = {"width": 8, "dense": 20}


@pytest.mark.parametrize(
    ("options", "make", "shape"),
    [
        ({"name": "lenet5"}, lenet5, (32, 32, 1)),
        ({"name": "resnet18"}, resnet18, (32, 32, 3)),
        ({"name": "alexnet", "form": "one-tower", "size": 95, **SMALL}, alexnet, (95, 95, 3)),
        ({"name": "vgg", "depth": 11, "batch_norm": True, "size": 64, **SMALL, "width": 4}, vgg11_bn, (64, 64, 3)),
    ],
    ids=["lenet5", "resnet18", "alexnet", "vgg11_bn"],
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
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    arrays, others = (interop.load_torch_weights(tmp_path / file) for file in ("weights.pth", "weights.safetensors"))
    assert arrays.keys() == others.keys() and all(np.array_equal(arrays[name], others[name]) for name in arrays)


def state_dict() -> dict[str, np.ndarray]:
    """Arrays of LeNet-5 in PyTorch's naming and layout, by hand."""
    shapes = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 400), "fc2": (84, 120), "fc3": (10, 84)}
    draw = np.random.default_rng(0)
    weights = {f"{name}.weight": draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}


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
