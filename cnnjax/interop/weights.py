"""Whole nets from and to PyTorch's naming."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.interop.files import as_numpy, load_torch_weights, save_torch_weights
from cnnjax.interop.names import (
    UNUSED,
    Naming,
    from_torch_layout,
    naming_of,
    to_torch_layout,
    torch_name,
    torch_shape,
    without_wrappers,
)
from cnnjax.train.state import TrainState, load_state, nested, split, to_arrays

if TYPE_CHECKING:
    import torch

StateDict = Mapping[str, "torch.Tensor | np.ndarray"]


def load_weights(model: nnx.Module, path: str | Path | StateDict) -> nnx.Module:
    """Returns a copy of `model`, in evaluation mode, with weights in PyTorch's naming.

    Args:
      model: an `AlexNet`, a `LeNet5`, a `ResNet` or a `VGG`, or of a subclass of theirs. Names are torchvision's:
        `features.0.weight`, `layer2.0.downsample.0.weight`, `fc.bias`; LeNet-5, which torchvision lacks, has those of
        PyTorch's tutorial: `conv1`, `conv2`, `fc1`, `fc2`, `fc3`. torchvision's `alexnet` is the form "one-tower", its
        `resnet18` to `resnet101` are those with the stem "imagenet".
      path: a safetensors file, or what `torch.save(net.state_dict(), path)` wrote, or the state dict itself. A file of
        the second kind needs torch; it is read with `weights_only=True`, so that nothing in it is executed.

    Raises:
      UserError: the file cannot be read, or does not fit: which array, its shape and the expected one.
    """
    if isinstance(path, Mapping):
        return load_state(model, *from_torch_names(model, path))
    return load_state(model, *from_torch_names(model, load_torch_weights(Path(path)), source=str(path)))


def save_weights(model: nnx.Module, path: str | Path) -> None:
    """Writes a model's weights in PyTorch's naming, for `net.load_state_dict`.

    Args:
      model: as for `load_weights`.
      path: ends in `.safetensors`, or in `.pt` or `.pth` for a file that `torch.load` reads, which needs torch.

    Raises:
      UserError: no naming is known for the model, or the file cannot be written.
    """
    save_torch_weights(to_torch_names(model), Path(path))


def from_torch_names(
    model: nnx.Module, arrays: StateDict, *, source: str = "the state dict"
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the params and the rest of a model's state, as `train.load` takes them, from a PyTorch state dict.

    A convolution's (F, C, H, W) becomes (H, W, C, F), a dense layer's (F, C) becomes (C, F); a norm's weight, bias,
    running_mean and running_var become scale, bias, mean and var. What else the model holds stays as it is.

    Args:
      model: as for `load_weights`. It is not changed.
      arrays: by name, of any floating dtype; they are cast to the model's. The prefixes of `DataParallel` and
        `torch.compile`, `module.` and `_orig_mod.`, are taken off.
      source: what an error calls them.

    Raises:
      UserError: no naming is known for the model; an array is missing, left over, of another shape, not floating.
    """
    naming = naming_of(model)
    own = own_arrays(model)
    names = {name: theirs for name in own if (theirs := torch_name(naming, name))}
    wanted = {theirs: torch_shape(own[name].shape) for name, theirs in names.items()}
    there = given_arrays(arrays)
    differing = [
        f"{name} is {_describe(there.get(name))}, must be {wanted.get(name, 'absent')}"
        for name in [*wanted, *(name for name in there if name not in wanted)]
        if name not in there or there[name].shape != wanted.get(name) or not is_floating(there[name])
    ]
    if differing:
        raise UserError(
            f"{source} does not fit {type(model).__name__}: {differing[0]}"
            + (f" (and {len(differing) - 1} more)" if len(differing) > 1 else "")
            + ". Build the model with the classes and channels of these weights, or give others."
        )
    for name, theirs in names.items():
        own[name] = from_torch_layout(there[theirs], flattened_at(naming, name)).astype(own[name].dtype)
    return as_state(own)


def to_torch_names(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns a model's weights as a PyTorch state dict of NumPy arrays; inverts `from_torch_names`.

    A norm's `num_batches_tracked` is 0: it is not counted here.

    Args:
      model: as for `load_weights`. It is not changed.

    Raises:
      UserError: no naming is known for the model, or for one of its parameters.
    """
    naming = naming_of(model)
    arrays: dict[str, np.ndarray] = {}
    for name, array in own_arrays(model).items():
        theirs = torch_name(naming, name)
        if theirs is not None:
            arrays[theirs] = to_torch_layout(array, flattened_at(naming, name))
            layer, _, kind = theirs.rpartition(".")
            if kind == "running_var":
                arrays[f"{layer}.{UNUSED}"] = np.array(0)
        elif name.startswith("params/"):
            raise UserError(f"{type(model).__name__} has the parameter {name.partition('/')[2]}, which PyTorch lacks.")
    return arrays


def own_arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """Returns the arrays of a model as `{"params/conv1/kernel": array, "rest/norm1/mean": array, ...}`."""
    _, params, rest = split(model)
    return to_arrays(TrainState(params, rest, (), jnp.zeros((), jnp.int32)))


def as_state(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the params and the rest of `own_arrays` as nested dicts."""
    tree = nested(arrays)
    return tree.get("params", {}), tree.get("rest", {})


def given_arrays(arrays: StateDict) -> dict[str, np.ndarray]:
    """Returns a state dict as NumPy arrays, without the names of wrappers and what is of no use here."""
    given = without_wrappers({name: as_numpy(array) for name, array in arrays.items()})
    return {name: array for name, array in given.items() if name.rpartition(".")[2] != UNUSED}


def flattened_at(naming: Naming, name: str) -> tuple[int, int] | None:
    """Returns the (H, W) that the layer of an array reads flattened; None where it reads no flattened images."""
    return naming.flattened.get(name.partition("/")[2].rpartition("/")[0])


def is_floating(array: np.ndarray) -> bool:
    """True for floats, those too that NumPy itself lacks, as bfloat16."""
    return jnp.issubdtype(array.dtype, jnp.floating)


def _describe(array: np.ndarray | None) -> str:
    if array is None:
        return "absent"
    return f"{array.shape}" if is_floating(array) else f"{array.dtype} {array.shape}"
