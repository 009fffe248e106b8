"""Weights from and to elsewhere: safetensors files, PyTorch's state dicts, other nets."""

from cnnjax.interop.files import as_numpy, load_torch_weights
from cnnjax.interop.matching import Matched, load_matching
from cnnjax.interop.names import (
    NAMINGS,
    Naming,
    from_torch_layout,
    to_torch_layout,
    torch_name,
    torch_shape,
    without_wrappers,
)
from cnnjax.interop.weights import from_torch_names, load_weights, save_weights, to_torch_names

__all__ = [
    "NAMINGS",
    "Matched",
    "Naming",
    "as_numpy",
    "from_torch_layout",
    "from_torch_names",
    "load_matching",
    "load_torch_weights",
    "load_weights",
    "save_weights",
    "to_torch_layout",
    "to_torch_names",
    "torch_name",
    "torch_shape",
    "without_wrappers",
]
