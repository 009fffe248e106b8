"""Starting from another net: what fits by name and shape is taken, the rest stays as it was drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from cnnjax.errors import UserError
from cnnjax.interop.files import load_torch_weights
from cnnjax.interop.names import from_torch_layout, naming_of, torch_name, torch_shape
from cnnjax.interop.weights import StateDict, as_state, flattened_at, given_arrays, is_floating, own_arrays
from cnnjax.train.state import load_state

#: How many names an error lists of each side.
NAMES_IN_ERROR = 4


class Matched(NamedTuple):
    """What `load_matching` returns.

    Attributes:
      model: a copy of the model, in evaluation mode, with what fits.
      taken: paths of the arrays that were taken, such as `conv1/kernel`.
      drawn: paths of the parameters and running statistics that stay as they were.
    """

    model: nnx.Module
    taken: tuple[str, ...]
    drawn: tuple[str, ...]


def load_matching(
    model: nnx.Module, source: str | Path | StateDict | Mapping[Any, Any], rest: Mapping[Any, Any] | None = None
) -> Matched:
    """Takes from another net's weights what fits by name and shape.

    Args:
      model: the net to start from; it is not changed.
      source: a file as for `load_weights`, or a state dict of PyTorch, both for the models that it knows; or another
        net's parameters as a nested dict of arrays, such as `state["params"]` of `train.restore`.
      rest: beside nested parameters, that net's other state, such as the running statistics of its norms.

    Raises:
      UserError: the file cannot be read, no naming is known for the model, or nothing fits.
    """
    own = own_arrays(model)
    described = str(source) if isinstance(source, str | Path) else "source"
    if isinstance(source, str | Path):
        there = _of_torch(model, own, load_torch_weights(Path(source)))
    elif _is_state_dict(source):
        there = _of_torch(model, own, source)
    else:
        there = _by_path("params", source) | _by_path("rest", rest or {})
    fitting = {name: there[name] for name in own if name in there and _fits(there[name], own[name])}
    if not fitting:
        raise UserError(
            f"{described} holds nothing that fits {type(model).__name__} by name and shape: it has "
            f"{_listed(there)}, the model {_listed(own)}."
        )
    loaded = own | {name: array.astype(own[name].dtype) for name, array in fitting.items()}
    drawn = [name for name in _initialised(model, own) if name not in fitting]
    return Matched(load_state(model, *as_state(loaded)), _paths(fitting), _paths(drawn))


def _of_torch(model: nnx.Module, own: Mapping[str, np.ndarray], arrays: StateDict) -> dict[str, np.ndarray]:
    """Returns a state dict by our names and in our layout; what has no place in the model under its own names."""
    naming = naming_of(model)
    given = given_arrays(arrays)
    there = {}
    for name, array in own.items():
        theirs = torch_name(naming, name)
        if theirs in given and given[theirs].shape == torch_shape(array.shape):
            there[name] = from_torch_layout(given.pop(theirs), flattened_at(naming, name))
    return there | given


def _by_path(kind: str, tree: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    names = (f"{kind}/{jax.tree_util.keystr(path, simple=True, separator='/')}" for path, _ in leaves)
    return {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def _is_state_dict(source: Mapping[Any, Any]) -> bool:
    """True for names with dots and arrays, as PyTorch has them; False for nested parameters."""
    return any("." in str(name) for name in source) and not any(isinstance(one, Mapping) for one in source.values())


def _fits(array: np.ndarray, own: np.ndarray) -> bool:
    same_kind = array.dtype == own.dtype or (is_floating(array) and is_floating(own))
    return same_kind and array.shape == own.shape


def _initialised(model: nnx.Module, own: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of parameters and running statistics: a `Buffer` is neither drawn nor taken from elsewhere."""
    statistics = _by_path("rest", nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    return [name for name in own if name.startswith("params/") or name in statistics]


def _paths(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name.partition("/")[2] for name in names)


def _listed(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the first names and shapes, for an error."""
    shown = [f"{name.removeprefix('params/')} {array.shape}" for name, array in list(arrays.items())[:NAMES_IN_ERROR]]
    more = len(arrays) - len(shown)
    return (", ".join(shown) or "nothing") + (f" and {more} more" if more else "")
