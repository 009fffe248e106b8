"""Describes functions, nets and data as JSON values, so that a resume can tell whether they are the same.

A function is its name, its code and the values that it closes over; code of installed packages counts by its name, as
their versions are compared apart. What cannot be described (an object of a class in C) counts by its type.
"""

from __future__ import annotations

import functools
import hashlib
import json
import sysconfig
import types
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cnnjax.train.examples import Examples, Split, gather, specs

PACKAGES = tuple(str(Path(sysconfig.get_path(name))) for name in ("purelib", "platlib", "stdlib"))
OWN = str(Path(__file__).parents[1])  # this package, which may not be among the installed ones
SAMPLES = 64
"""Examples of a source whose checksum stands for all of it."""
DEEPEST = 12
"""Levels of nesting that are looked at."""


def of_function(function: Any) -> str:
    """Returns `name digest` for a function, an optax transformation, or any object that is called."""
    described = _describe(function, 0, set())
    return f"{_name(function)} {hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]}"


def of_data(split: Split) -> dict[str, Any]:
    """Returns the number of examples, the shapes and dtypes of one, and a CRC-32 of the bytes.

    Of a source that is read one by one it is the checksum of `SAMPLES` examples, evenly spread.
    """
    shapes = {name: f"{leaf.dtype}{list(leaf.shape[1:])}" for name, leaf in _leaves(specs(split))}
    if isinstance(split, Examples):
        parts = [leaf[i : i + 4096] for _, leaf in _leaves(split) for i in range(0, len(leaf), 4096)]
    else:
        count = min(SAMPLES, len(split))
        chosen = np.linspace(0, len(split) - 1, count).astype(int)
        parts = [leaf for _, leaf in _leaves(gather(split, chosen))]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data, checksum)
    return {"examples": len(split), **shapes, "crc32": checksum}


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in found]


def _describe(value: Any, depth: int, seen: set[int]) -> Any:
    """Returns JSON values that are equal where the values are; cycles and deep nesting are cut off."""
    if value is None or isinstance(value, bool | int | float | str | np.dtype):
        return repr(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic) and not jax.dtypes.issubdtype(
        value.dtype, jax.dtypes.extended
    ):
        array = np.ascontiguousarray(value)
        return [str(array.dtype), list(array.shape), zlib.crc32(array.tobytes())]
    if depth > DEEPEST or id(value) in seen:
        return _name(type(value))
    seen = seen | {id(value)}
    inside = functools.partial(_describe, depth=depth + 1, seen=seen)
    if isinstance(value, functools.partial):
        return ["partial", inside(value.func), inside(value.args), inside(value.keywords)]
    if isinstance(value, types.MethodType):
        return ["method", inside(value.__func__), inside(value.__self__)]
    if isinstance(value, types.FunctionType):
        return _describe_function(value, inside)
    if isinstance(value, types.CodeType):
        names = [*value.co_names, *value.co_varnames]
        return [hashlib.sha256(value.co_code).hexdigest(), names, [inside(const) for const in value.co_consts]]
    if isinstance(value, Mapping):
        return {str(key): inside(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [_name(type(value)), *(inside(item) for item in value)]
    if isinstance(value, nnx.Variable):
        return _name(type(value))  # the parameters are compared with the checkpoint's
    if isinstance(value, type):
        return _name(value) if _installed(value) else [_name(value), *_methods(value, inside)]
    if hasattr(value, "__wrapped__"):  # a jitted function, a custom derivative
        return ["wrapped", inside(value.__wrapped__)]
    attributes = {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return [inside(type(value)), {name: inside(item) for name, item in sorted(attributes.items())}]


def _describe_function(function: types.FunctionType, inside: Callable[[Any], Any]) -> list[Any]:
    cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    values = [inside(cells), inside(function.__defaults__), inside(function.__kwdefaults__)]
    return [_name(function), *values, *([] if _installed(function) else [inside(function.__code__)])]


def _methods(owner: type, inside: Callable[[Any], Any]) -> list[Any]:
    functions = {name: item for name, item in vars(owner).items() if isinstance(item, types.FunctionType)}
    return [[name, inside(function.__code__)] for name, function in sorted(functions.items())]


def _installed(value: Any) -> bool:
    """True for what comes from an installed package, from Python, or from cnnjax."""
    import sys

    module = sys.modules.get(getattr(value, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    return module is not None and (file is None or file.startswith((*PACKAGES, OWN))) and module.__name__ != "__main__"


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # a name that is not bound yet
        return False
    return True


def _name(value: Any) -> str:
    value = value.func if isinstance(value, functools.partial) else value
    owner = value if hasattr(value, "__qualname__") else type(value)
    return f"{owner.__module__}.{owner.__qualname__}"
