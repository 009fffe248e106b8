"""PyTorch nets with torchvision's names, random weights for them, and models of ours without the draw of theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import models


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


def resnet(torch: Any, depth: int, stem: str, width: int = 64) -> Any:
    """torchvision's names and places: blocks of two convolutions, or of three with the stride on the second."""

    def norm_conv(below: int, width: int, window: int, stride: int) -> tuple[Any, Any]:
        conv = torch.nn.Conv2d(below, width, window, stride, window // 2, bias=False)
        return conv, torch.nn.BatchNorm2d(width)

    class Block(torch.nn.Module):
        def __init__(self, below: int, width: int, stride: int) -> None:
            super().__init__()
            shapes = [(below, width, 3, stride), (width, width, 3, 1)]
            if depth >= 50:
                shapes = [(below, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
            for number, shape in enumerate(shapes, 1):
                conv, norm = norm_conv(*shape)
                setattr(self, f"conv{number}", conv)
                setattr(self, f"bn{number}", norm)
            self.layers, self.out = len(shapes), shapes[-1][1]
            reshaped = stride > 1 or below != self.out
            self.downsample = torch.nn.Sequential(*(norm_conv(below, self.out, 1, stride) if reshaped else ()))

        def forward(self, x: Any) -> Any:
            y = x
            for number in range(1, self.layers + 1):
                y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
                y = torch.relu(y) if number < self.layers else y
            return torch.relu(y + self.downsample(x))

    class Twin(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = norm_conv(3, width, *((7, 2) if stem == "imagenet" else (3, 1)))
            below = width
            counts = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
            for stage, count in enumerate(counts):
                blocks: list[Any] = []
                for number in range(count):
                    blocks.append(Block(below, width * 2**stage, 2 if stage and not number else 1))
                    below = blocks[-1].out
                setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*blocks))
            self.fc = torch.nn.Linear(below, 10)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.bn1(self.conv1(x)))
            if stem == "imagenet":
                x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
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
        return jax.random.key(0) if key else jax.device_put(np.zeros(leaf.shape, leaf.dtype))

    return jax.tree.map(zeros, nnx.eval_shape(lambda: models.build({"model": options})))


def state_dict() -> dict[str, np.ndarray]:
    """Arrays of LeNet-5 in PyTorch's naming and layout, by hand."""
    shapes = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 400), "fc2": (84, 120), "fc3": (10, 84)}
    draw = np.random.default_rng(0)
    weights = {f"{name}.weight": draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in shapes.items()}
