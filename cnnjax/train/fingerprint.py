"""Describes functions, nets and data as JSON values, so that a resume can tell whether they are the same.

A function is its name, its code, the values that it closes over, and those of its module that it uses; code of
installed packages counts by its name, as their versions are compared apart. What cannot be described (an object of a
class in C) counts by its type.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import json
import logging
import sysconfig
import types
import zlib
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from cnnjax.data import CorruptExample
from cnnjax.train.examples import Examples, Rows, Split, gather, is_mapped, specs

PACKAGES = tuple(str(Path(sysconfig.get_path(name))) for name in ("purelib", "platlib", "stdlib"))
OWN = str(Path(__file__).parents[1])  # this package, which may not be among the installed ones
SAMPLES = 64
"""Examples of a source whose checksum stands for all of it."""
MOST_CHECKED_BYTES = 2**30
"""Of arrays in files, which are read for it: larger ones count by `SAMPLES`."""
DEEPEST = 64
"""Levels of nesting that are looked at."""
NOT_CODE = ("__module__", "__qualname__", "__doc__", "__firstlineno__")
"""Attributes of a class that say nothing of what it does."""
HIDDEN = ("__", "_pytree__")
"""How the names of attributes begin that Python and nnx keep for themselves."""


def of_function(function: Any, *, parameters: bool = True) -> str:
    """Returns `name digest` for a function, an optax transformation, or any object that is called.

    The parameters of nets count, as a loss may have a net of its own; but without `parameters`: those of the net that
    is trained are the checkpoint's.
    """
    described = _Description(parameters).of(function)
    return f"{_name(function)} {hashlib.sha256(json.dumps(described).encode()).hexdigest()[:12]}"


def of_data(split: Split) -> dict[str, Any]:
    """Returns the number of examples, the shapes and dtypes of one, and CRC-32 checksums.

    `sampled` is that of `SAMPLES` examples, evenly spread; `crc32` that of all bytes, None for a source or for files of
    more than `MOST_CHECKED_BYTES`.
    """
    shapes = {name: f"{leaf.dtype}{list(leaf.shape[1:])}" for name, leaf in _leaves(specs(split))}
    chosen = np.linspace(0, len(split) - 1, min(SAMPLES, len(split))).astype(int)
    sampled = _checksum(part for number in chosen for part in _parts_of(split, int(number)))
    return {"examples": len(split), **shapes, "sampled": sampled, "crc32": _checksum_of_all(split)}


def comparable(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns two `of_data` of each split without the checksums that one of them lacks: a run may go on streamed."""
    known = {
        name: [key for key in ("sampled", "crc32") if old[name].get(key) is None or new[name].get(key) is None]
        for name in old.keys() & new.keys()
    }

    def kept(data: Mapping[str, Any]) -> dict[str, Any]:
        return {name: {k: v for k, v in one.items() if k not in known.get(name, ())} for name, one in data.items()}

    return kept(old), kept(new)


def _checksum_of_all(split: Split) -> int | None:
    """Returns the checksum of all bytes of arrays; None where they are too many, or not arrays."""
    source, rows = (split.of, split.rows) if isinstance(split, Rows) else (split, None)
    if not isinstance(source, Examples):
        return None
    if is_mapped(source) and sum(leaf.nbytes for leaf in jax.tree.leaves(source)) > MOST_CHECKED_BYTES:
        return None
    if rows is None:
        return _checksum(leaf[i : i + 4096] for _, leaf in _leaves(source) for i in range(0, len(leaf), 4096))
    numbers = np.arange(len(split))
    return _checksum(
        leaf for i in range(0, len(split), 4096) for _, leaf in _leaves(gather(split, numbers[i : i + 4096]))
    )


def _parts_of(split: Split, number: int) -> list[np.ndarray]:
    """Returns the arrays of an example; what is said of a corrupt one, which may be skipped."""
    try:
        return [leaf for _, leaf in _leaves(gather(split, [number]))]
    except CorruptExample as error:
        return [np.frombuffer(str(error).encode(), np.uint8)]


def _checksum(parts: Iterable[np.ndarray]) -> int:
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data, checksum)
    return checksum


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    found = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in found]


class _Description:
    """Describes a value by JSON values that are equal where the values are; ends at cycles and in deep nesting."""

    def __init__(self, parameters: bool) -> None:
        self._parameters = parameters
        self._met: dict[int, tuple[int, Any]] = {}  # number by id; the object too, so that no other gets its id
        self._depth = 0

    def of(self, value: Any) -> Any:
        """Returns the description of a value."""
        if value is None or value is ... or isinstance(value, bool | int | float | complex | str | bytes | np.dtype):
            return repr(value)
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):  # random keys
                return str(value.dtype)
            array = np.ascontiguousarray(value)
            return [str(array.dtype), list(array.shape), zlib.crc32(array.tobytes())]
        if self._depth > DEEPEST:
            return _name(type(value))
        self._depth += 1
        try:
            return self._of_container(value)
        finally:
            self._depth -= 1

    def _of_container(self, value: Any) -> Any:
        if isinstance(value, types.CodeType):
            names = [*value.co_names, *value.co_varnames]
            return [hashlib.sha256(value.co_code).hexdigest(), names, [self.of(const) for const in value.co_consts]]
        if isinstance(value, tuple):
            return [_name(type(value)), *map(self.of, value)]
        if isinstance(value, Set):  # in no order of its own
            return [_name(type(value)), *sorted(json.dumps(self.of(item)) for item in value)]
        if isinstance(value, enum.Enum):
            return str(value)
        if id(value) in self._met:
            return ["again", self._met[id(value)][0]]
        self._met[id(value)] = len(self._met), value
        if isinstance(value, Mapping):
            return {str(key): self.of(item) for key, item in value.items()}
        if isinstance(value, Sequence):
            return [_name(type(value)), *map(self.of, value)]
        return self._of_object(value)

    def _of_object(self, value: Any) -> Any:
        if isinstance(value, functools.partial):
            return ["partial", self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, types.MethodType):
            return ["method", self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__)
        if isinstance(value, property):
            return self.of((value.fget, value.fset))
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, type):
            return _name(value) if _installed(value) else self._of_class(value)
        if isinstance(value, types.ModuleType | types.BuiltinFunctionType | np.ufunc):
            return f"{getattr(value, '__module__', None)}.{value.__name__}"
        if isinstance(value, nnx.Variable):
            return [_name(type(value)), self.of(value.get_value())] if self._parameters else _name(type(value))
        if isinstance(value, logging.Logger):
            return _name(type(value))
        if hasattr(value, "__wrapped__"):  # a jitted function, a custom derivative
            return ["wrapped", self.of(value.__wrapped__)]
        hidden = "_" if _installed(type(value)) else HIDDEN  # what a library keeps for itself may be a cache
        attributes = {
            name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith(hidden)
        }
        return [self.of(type(value)), {name: self.of(item) for name, item in sorted(attributes.items())}]

    def _of_function(self, function: types.FunctionType) -> list[Any]:
        cells = tuple(cell.cell_contents for cell in function.__closure__ or () if _filled(cell))
        values = [self.of(cells), self.of(function.__defaults__), self.of(function.__kwdefaults__)]
        if _installed(function):
            return [_name(function), *values]
        used = {name: function.__globals__.get(name) for name in sorted(_globals_of(function.__code__))}
        for module in [*used.values(), *cells]:
            if isinstance(module, types.ModuleType) and not _is_file_of_a_package(module):  # what it uses of one's own
                names = sorted(set(function.__code__.co_names) & vars(module).keys())
                used |= {f"{module.__name__}.{name}": getattr(module, name) for name in names}
        return [_name(function), *values, self.of(function.__code__), [[name, self.of(used[name])] for name in used]]

    def _of_class(self, owner: type) -> list[Any]:
        code = (types.FunctionType, staticmethod, classmethod, property, bool, int, float, str)
        values = (tuple, list, dict, frozenset, set)
        own = {
            name: item
            for name, item in vars(owner).items()
            if (isinstance(item, code) and name not in NOT_CODE)
            or (isinstance(item, values) and not name.startswith(HIDDEN))
        }
        return [_name(owner), self.of(owner.__bases__), [[name, self.of(own[name])] for name in sorted(own)]]


def _globals_of(code: types.CodeType) -> set[str]:
    """Returns the names that a code looks up in its module, those of the functions within it included."""
    found = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return found.union(*(_globals_of(const) for const in code.co_consts if isinstance(const, types.CodeType)))


def _installed(value: Any) -> bool:
    """True for what comes from an installed package, from Python, or from cnnjax."""
    import sys

    module = sys.modules.get(getattr(value, "__module__", None) or "")
    return module is not None and _is_file_of_a_package(module) and module.__name__ != "__main__"


def _is_file_of_a_package(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    return file is None or file.startswith((*PACKAGES, OWN))


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
