"""Weights from elsewhere: safetensors files, and PyTorch's state dicts where torch is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models import VGG, AlexNet, LeNet5, ResNet18
from cnnjax.models.alexnet import last_side
from cnnjax.models.vgg import STAGES
from cnnjax.train.state import TrainState, load_state, nested, split, to_arrays


class Naming(NamedTuple):
    """What PyTorch calls the layers of a model.

    layers: their paths here and their names there. flattened: the dense layer here that reads flattened images, and
    their (H, W): PyTorch flattens (C, H, W) and we (H, W, C), so that its columns have another order.
    """

    layers: dict[str, str]
    flattened: dict[str, tuple[int, int]] = {}  # noqa: RUF012


#: What PyTorch calls the arrays of a layer: weight of convolutions, dense layers and norms, bias, and a norm's state.
ARRAYS = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
#: Of a norm, beside these, and without use here: how many batches its running statistics were made of.
UNUSED = "num_batches_tracked"

RESIDUAL = {
    "first/conv": "conv1",
    "first/norm": "bn1",
    "second/conv": "conv2",
    "second/norm": "bn2",
    "shortcut/conv": "downsample.0",
    "shortcut/norm": "downsample.1",
}


def lenet5(model: LeNet5) -> Naming:
    """PyTorch's tutorial names; torchvision has no LeNet-5."""
    layers = {"conv1": "conv1", "conv2": "conv2", "dense1": "fc1", "dense2": "fc2", "dense3": "fc3"}
    return Naming(layers, {"dense1": (5, 5)})


def resnet18(model: ResNet18) -> Naming:
    """Torchvision's ``resnet18``; its first convolution is 7x7, that of the form for CIFAR 3x3."""
    blocks = {
        f"blocks/{2 * stage + block}/{ours}": f"layer{stage + 1}.{block}.{theirs}"
        for stage in range(4)
        for block in range(2)
        for ours, theirs in RESIDUAL.items()
    }
    return Naming({"stem/conv": "conv1", "stem/norm": "bn1", **blocks, "dense": "fc"})


def alexnet(model: AlexNet) -> Naming:
    """Torchvision's ``alexnet``, which is the form "one-tower"; of the others the same layers."""
    convs = {f"conv{n}": f"features.{place}" for n, place in enumerate((0, 3, 6, 8, 10), 1)}
    dense = {"dense1": "classifier.1", "dense2": "classifier.4", "dense3": "classifier.6"}
    side = last_side(model.size)
    return Naming(convs | dense, {"dense1": (side, side)})


def vgg(model: VGG) -> Naming:
    """Torchvision's ``vgg11`` to ``vgg19_bn``: a place for each convolution, norm, ReLU and pooling."""
    layers, place, number = {}, 0, 0
    for count in STAGES[model.depth]:
        for _ in range(count):
            layers[f"convs/{number}"] = f"features.{place}"
            if model.norms:
                layers[f"norms/{number}"] = f"features.{place + 1}"
            place += 3 if model.norms else 2
            number += 1
        place += 1
    dense = {"dense1": "classifier.0", "dense2": "classifier.3", "dense3": "classifier.6"}
    return Naming(layers | dense, {"dense1": (model.size // 32, model.size // 32)})


NAMINGS: dict[type[nnx.Module], Callable[[Any], Naming]] = {
    AlexNet: alexnet,
    LeNet5: lenet5,
    ResNet18: resnet18,
    VGG: vgg,
}


def load_weights(model: nnx.Module, path: str | Path) -> nnx.Module:
    """A copy of `model`, in evaluation mode, with the weights of a file in PyTorch's naming.

    Args:
      model: an `AlexNet`, a `LeNet5`, a `ResNet18` or a `VGG`. Names are torchvision's: ``features.0.weight``,
        ``layer2.0.downsample.0.weight``, ``fc.bias``; LeNet-5, which torchvision lacks, has those of PyTorch's
        tutorial: ``conv1``, ``conv2``, ``fc1``, ``fc2``, ``fc3``. torchvision's ``alexnet`` is the form "one-tower".
      path: a safetensors file, or what ``torch.save(net.state_dict(), path)`` wrote. The latter needs torch; it is read
        with ``weights_only=True``, so that nothing in it is executed.

    Raises:
      UserError: the file cannot be read, or does not fit: which array, its shape and the expected one.
    """
    return load_state(model, *from_torch_names(model, read(Path(path)), source=str(path)))


def from_torch_names(
    model: nnx.Module, arrays: Mapping[str, np.ndarray], *, source: str = "the state dict"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The params and the rest of a model's state (see `train.load`), from arrays in PyTorch's naming and layout.

    A convolution's (F, C, H, W) becomes (H, W, C, F), a dense layer's (F, C) becomes (C, F); a norm's weight, bias,
    running_mean and running_var become scale, bias, mean and var. What else the model holds stays as it is.

    Args:
      model: as for `load_weights`. It is not changed.
      arrays: by name, of any floating dtype; they are cast to the model's.
      source: what an error calls them.

    Raises:
      UserError: no naming is known for the model; an array is missing, left over, of another shape, not floating.
    """
    if type(model) not in NAMINGS:
        known = ", ".join(kind.__name__ for kind in NAMINGS)
        raise UserError(f"model must be one of {known}, was {type(model).__name__}: of others no names are known.")
    naming = NAMINGS[type(model)](model)
    _, params, rest = split(model)
    own = to_arrays(TrainState(params, rest, (), jnp.zeros((), jnp.int32)))
    names = {name: theirs for name in own if (theirs := torch_name(naming, name))}
    wanted = {theirs: torch_shape(own[name].shape) for name, theirs in names.items()}
    there = {name: array for name, array in arrays.items() if name.rpartition(".")[2] != UNUSED}
    differing = [
        f"{name} is {_describe(there.get(name))}, must be {wanted.get(name, 'absent')}"
        for name in [*wanted, *(name for name in there if name not in wanted)]
        if name not in there
        or there[name].shape != wanted.get(name)
        or not jnp.issubdtype(there[name].dtype, jnp.floating)  # jnp's, which knows bfloat16
    ]
    if differing:
        raise UserError(
            f"{source} does not fit {type(model).__name__}: {differing[0]}"
            + (f" (and {len(differing) - 1} more)" if len(differing) > 1 else "")
            + ". Build the model with the classes and channels of these weights, or give others."
        )
    for name, theirs in names.items():
        layer = name.split("/", 1)[1].rpartition("/")[0]
        own[name] = from_torch_layout(there[theirs], naming.flattened.get(layer)).astype(own[name].dtype)
    tree = nested(own)
    return tree.get("params", {}), tree.get("rest", {})


def torch_name(naming: Naming, name: str) -> str | None:
    """``params/stem/conv/kernel`` as ``conv1.weight``; None for what PyTorch has no array of."""
    layer, _, array = name.partition("/")[2].rpartition("/")
    if layer not in naming.layers or array not in ARRAYS:
        return None
    return f"{naming.layers[layer]}.{ARRAYS[array]}"


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(*window, C, F) as (F, C, *window)."""
    return (*shape[:-3:-1], *shape[:-2])


def from_torch_layout(array: np.ndarray, flattened: tuple[int, int] | None = None) -> np.ndarray:
    """(F, C, *window) as (*window, C, F); of a dense layer behind flattened (C, H, W) the inputs in our order.

    >>> from_torch_layout(np.array([[1, 2, 3, 4]]), flattened=(1, 2)).ravel()
    array([1, 3, 2, 4])
    """
    if array.ndim < 2:
        return array
    if flattened and array.ndim == 2:
        array = array.reshape(len(array), -1, *flattened).transpose(0, 2, 3, 1).reshape(array.shape)
    return array.transpose(*range(2, array.ndim), 1, 0)


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, or of a state dict that ``torch.save`` wrote, by name.

    Raises UserError where the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    # A safetensors file begins with the length of its header, eight bytes, and the header, JSON.
    return _read_safetensors(path) if start[8:] == b"{" else _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is a damaged safetensors file ({error}): fetch it again.") from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path} is no safetensors file, and to read PyTorch's files torch must be installed: pip install torch, "
            "or save the weights with safetensors.torch.save_file."
        ) from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of another kind may cause
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path} is neither a safetensors file nor a state dict of PyTorch that holds nothing but tensors "
            f"({type(error).__name__}: {reason})."
        ) from None
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(
            f"{path} must hold a state dict, names and tensors: write it with torch.save(net.state_dict())."
        )
    return {name: _as_numpy(tensor) for name, tensor in found.items()}


def _as_numpy(tensor: Any) -> np.ndarray:
    """A tensor as an array; bfloat16, which NumPy lacks, as float32."""
    return (tensor.detach().float() if tensor.is_floating_point() else tensor).numpy()


def _describe(array: np.ndarray | None) -> str:
    if array is None:
        return "absent"
    return f"{array.shape}" if jnp.issubdtype(array.dtype, jnp.floating) else f"{array.dtype} {array.shape}"
