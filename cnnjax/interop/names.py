"""What PyTorch calls the layers and arrays of our nets, and how it lays the arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models import VGG, AlexNet, LeNet5, ResNet
from cnnjax.models import resnet as resnets
from cnnjax.models import vgg as vggs
from cnnjax.models.alexnet import last_side


class Naming(NamedTuple):
    """What PyTorch calls the layers of a model.

    Attributes:
      layers: their paths here and their names there.
      flattened: the dense layer here that reads flattened images, and their (H, W): PyTorch flattens (C, H, W) and we
        (H, W, C), so that its columns have another order.
    """

    layers: dict[str, str]
    flattened: dict[str, tuple[int, int]] = {}  # noqa: RUF012


#: What PyTorch calls the arrays of a layer: weight of convolutions, dense layers and norms, bias, and a norm's state.
ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
#: Of a norm, beside these, and without use here: how many batches its running statistics were made of.
UNUSED = "num_batches_tracked"
#: What `torch.nn.DataParallel` and `torch.compile` put before the names of the net that they wrap.
WRAPPERS = ("module", "_orig_mod")

#: Of the blocks of a ResNet; each has some of them.
RESIDUAL = {
    "first/conv": "conv1",
    "first/norm": "bn1",
    "second/conv": "conv2",
    "second/norm": "bn2",
    "third/conv": "conv3",
    "third/norm": "bn3",
    "shortcut/conv": "downsample.0",
    "shortcut/norm": "downsample.1",
}


def lenet5(model: LeNet5) -> Naming:
    """Returns PyTorch's tutorial names; torchvision has no LeNet-5."""
    layers = {"conv1": "conv1", "conv2": "conv2", "dense1": "fc1", "dense2": "fc2", "dense3": "fc3"}
    return Naming(layers, {"dense1": (5, 5)})


def resnet(model: ResNet) -> Naming:
    """Returns torchvision's names of `resnet18` to `resnet101`: those of the stem "imagenet"; of the other the same."""
    layers, number = {"stem/conv": "conv1", "stem/norm": "bn1", "dense": "fc"}, 0
    for stage, count in enumerate(resnets.STAGES[model.depth], 1):
        for block in range(count):
            layers |= {f"blocks/{number}/{ours}": f"layer{stage}.{block}.{theirs}" for ours, theirs in RESIDUAL.items()}
            number += 1
    return Naming(layers)


def alexnet(model: AlexNet) -> Naming:
    """Returns torchvision's names of `alexnet`, which is the form "one-tower"; of the others the same layers."""
    convs = {f"conv{n}": f"features.{index}" for n, index in enumerate((0, 3, 6, 8, 10), 1)}
    dense = {"dense1": "classifier.1", "dense2": "classifier.4", "dense3": "classifier.6"}
    side = last_side(model.size)
    return Naming(convs | dense, {"dense1": (side, side)})


def vgg(model: VGG) -> Naming:
    """Returns torchvision's names of `vgg11` to `vgg19_bn`: each convolution, norm, ReLU and pool has an index."""
    layers, index, number = {}, 0, 0
    for count in vggs.STAGES[model.depth]:
        for _ in range(count):
            layers[f"convs/{number}"] = f"features.{index}"
            if model.norms:
                layers[f"norms/{number}"] = f"features.{index + 1}"
            index += 3 if model.norms else 2
            number += 1
        index += 1
    dense = {"dense1": "classifier.0", "dense2": "classifier.3", "dense3": "classifier.6"}
    return Naming(layers | dense, {"dense1": (model.size // 32, model.size // 32)})


#: A net of one's own is loaded and saved too once its naming stands here: `NAMINGS[MyNet] = lambda model: Naming(...)`.
NAMINGS: dict[type[nnx.Module], Callable[[Any], Naming]] = {
    AlexNet: alexnet,
    LeNet5: lenet5,
    ResNet: resnet,
    VGG: vgg,
}


def naming_of(model: nnx.Module) -> Naming:
    """Returns the naming of a model's class, or of the nearest class above it.

    Raises:
      UserError: there is none.
    """
    for kind in type(model).__mro__:
        if kind in NAMINGS:
            return NAMINGS[kind](model)
    known = ", ".join(kind.__name__ for kind in NAMINGS)
    raise UserError(f"model must be one of {known}, was {type(model).__name__}: of others no names are known.")


def torch_name(naming: Naming, name: str) -> str | None:
    """Returns `params/stem/conv/kernel` as `conv1.weight`; None for what PyTorch has no array of."""
    layer, _, array = name.partition("/")[2].rpartition("/")
    if layer not in naming.layers or array not in ARRAYS:
        return None
    return f"{naming.layers[layer]}.{ARRAYS[array]}"


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns (*window, C, F) as (F, C, *window)."""
    return (*shape[:-3:-1], *shape[:-2])


def from_torch_layout(array: np.ndarray, flattened: tuple[int, int] | None = None) -> np.ndarray:
    """Returns (F, C, *window) as (*window, C, F).

    Args:
      array: of a convolution or a dense layer.
      flattened: the (H, W) of the images that a dense layer reads flattened: its inputs are put into our order.

    Example:
      >>> from_torch_layout(np.array([[1, 2, 3, 4]]), flattened=(1, 2)).ravel()
      array([1, 3, 2, 4])
    """
    if array.ndim < 2:
        return array
    if flattened and array.ndim == 2:
        array = array.reshape(len(array), -1, *flattened).transpose(0, 2, 3, 1).reshape(array.shape)
    return array.transpose(*range(2, array.ndim), 1, 0)


def to_torch_layout(array: np.ndarray, flattened: tuple[int, int] | None = None) -> np.ndarray:
    """Inverts `from_torch_layout`.

    Example:
      >>> to_torch_layout(np.array([[1], [3], [2], [4]]), flattened=(1, 2))
      array([[1, 2, 3, 4]])
    """
    if array.ndim < 2:
        return array
    array = array.transpose(array.ndim - 1, array.ndim - 2, *range(array.ndim - 2))
    if flattened and array.ndim == 2:
        array = array.reshape(len(array), *flattened, -1).transpose(0, 3, 1, 2).reshape(array.shape)
    return np.ascontiguousarray(array)


def without_wrappers(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays under the names that they have in the net itself, whatever wrapped it when it was saved.

    A prefix is taken off where all names have it; `_orig_mod`, of parts that were compiled alone, anywhere.

    Example:
      >>> list(without_wrappers({"module._orig_mod.fc.bias": np.zeros(1)}))
      ['fc.bias']
    """
    paths = {name: name.split(".") for name in arrays}
    while paths and all(path[0] in WRAPPERS and len(path) > 1 for path in paths.values()):
        paths = {name: path[1:] for name, path in paths.items()}
    names = {name: ".".join(part for part in path if part != "_orig_mod") for name, path in paths.items()}
    if len(set(names.values())) < len(names):
        return dict(arrays)
    return {names[name]: array for name, array in arrays.items()}
