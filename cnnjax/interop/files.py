"""Files of weights: safetensors, and PyTorch's state dicts where torch is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from cnnjax.errors import UserError

if TYPE_CHECKING:
    import torch

#: How safetensors calls the dtypes that NumPy has, and those of `ml_dtypes` for the rest.
SAFETENSORS_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


def load_torch_weights(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a safetensors file, or of a state dict that `torch.save` wrote, by name.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    # A safetensors file begins with the length of its header, eight bytes, and the header, JSON.
    return _load_safetensors(path) if start[8:] == b"{" else _load_torch(path)


def save_torch_weights(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a safetensors file, or for the suffixes `.pt` and `.pth` what `torch.load` reads as a state dict.

    Raises:
      UserError: the suffix is another, torch is needed and not installed, or the file cannot be written.
    """
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise UserError(f"{path} must end in .safetensors, .pt or .pth, which says in which format it is written.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            path.touch()  # safetensors' own error names neither the file nor the reason
            save_file(dict(arrays), path)
        else:
            torch = _torch(f"to write {path}")
            with open(path, "wb") as file:
                torch.save({name: _tensor(torch, array) for name, array in arrays.items()}, file)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}).") from None


def _tensor(torch: Any, array: np.ndarray) -> Any:
    """Returns an array as a tensor of its dtype; PyTorch does not know NumPy's bfloat16."""
    if array.dtype.name == "bfloat16":
        return torch.tensor(array.astype(np.float32)).bfloat16()
    return torch.tensor(array)


def as_numpy(array: torch.Tensor | np.ndarray) -> np.ndarray:
    """Returns a tensor of PyTorch as an array, of float32 where NumPy lacks its dtype; arrays as they are."""
    if not hasattr(array, "detach"):
        return np.asarray(array)
    tensor = array.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _torch(purpose: str) -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{purpose} torch must be installed: pip install torch, or use safetensors, "
            "which safetensors.torch.save_file writes and load_file reads."
        ) from None
    return torch


def _load_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads by safetensors' own parser, but for the dtypes, of which its NumPy door knows no float8."""
    from safetensors import SafetensorError, deserialize

    try:
        found = deserialize(path.read_bytes())
    except SafetensorError as error:
        raise UserError(f"{path} is a damaged safetensors file ({error}): fetch it again.") from None
    arrays = {}
    for name, stored in found:
        if stored["dtype"] not in SAFETENSORS_DTYPES:
            raise UserError(f"{path}: {name} has the dtype {stored['dtype']}, which JAX lacks: save it as float32.")
        dtype = np.dtype(SAFETENSORS_DTYPES[stored["dtype"]])
        arrays[name] = np.frombuffer(stored["data"], dtype).reshape(stored["shape"])
    return arrays


def _load_torch(path: Path) -> dict[str, np.ndarray]:
    torch = _torch(f"{path} is no safetensors file, and to read PyTorch's files")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a file of another kind may cause
        reason = str(error).split("\n")[0]
        raise UserError(
            f"{path} is neither a safetensors file nor a state dict of PyTorch that holds nothing but tensors "
            f"({type(error).__name__}: {reason})."
        ) from None
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    ):
        raise UserError(
            f"{path} must hold a state dict, names and tensors: write it with torch.save(net.state_dict())."
        )
    arrays = {}
    for name, tensor in found.items():
        try:
            arrays[name] = as_numpy(tensor)
        except (TypeError, NotImplementedError, RuntimeError) as error:  # sparse, quantised, without data
            reason = str(error).split("\n")[0]
            raise UserError(f"{path}: {name} cannot be read as an array ({reason}): save a plain tensor.") from None
    return arrays
