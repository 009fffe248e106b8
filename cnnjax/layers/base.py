"""What all layers have in common: what they say of themselves, and how they keep their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from flax import nnx
from flax.core import FrozenDict

from cnnjax.layers.geometry import WindowGeometry
from cnnjax.ops.checks import check_keywords
from cnnjax.ops.counts import Counts
from cnnjax.ops.geometry import Sizes

__all__ = ["Buffer", "Functional", "Layer", "WindowGeometry"]


class Buffer(nnx.Variable):
    """An array of a module that is not trained."""


class Layer(nnx.Module):
    """A module that says how its windows lie and what it costs; `cnnjax.describe` makes a row of each call.

    A layer of your own may override both methods.
    """

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns how the windows lie over an input of one example.

        Args:
          x_shape: `(*S, C)`, of the input without its batch axis.
          y_shape: of the output, likewise.

        Returns:
          The windows, or None where the layer has none: `describe` then reads its arithmetic.
        """
        return None

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns the trained parameters, connections and multiply-accumulates for one example.

        Args:
          x_shape: as for `window_geometry`.
          y_shape: as for `window_geometry`.
        """
        return Counts(own_params(self), 0, 0)


class Functional(Layer):
    """An op without weights as a module: its arguments beside x are fixed when it is made."""

    _op: ClassVar[Callable[..., Any]]

    def __init__(self, *arguments: object, **keywords: object):
        signature = inspect.signature(type(self)._op)
        check_keywords(type(self).__name__, keywords, list(signature.parameters))
        _, *others = signature.parameters
        given = signature.bind(None, *arguments, **keywords).arguments  # TypeError for one missing or too many
        self.keywords = nnx.static(freeze({name: given[name] for name in others if name in given}))

    def __call__(self, x: jax.Array) -> Any:
        """Applies the op to x `(N, *S, C)`."""
        return type(self)._op(x, **self.keywords)


def own_params(module: nnx.Module) -> int:
    """Returns the number of trained numbers that a module holds itself."""
    return sum({id(param): param.size for param in params_of(module)}.values())


def params_of(module: nnx.Module) -> Iterator[nnx.Param]:
    """Yields the trained variables of a module itself, in its lists and dicts too, not those of modules within."""
    stop = (nnx.Variable, nnx.Module)
    leaves = jax.tree.leaves(list(vars(module).values()), is_leaf=lambda leaf: isinstance(leaf, stop))
    return (leaf for leaf in leaves if isinstance(leaf, nnx.Param))


def freeze(keywords: Mapping[str, object]) -> FrozenDict[str, Any]:
    """Returns keywords as a hashable mapping: lists and NumPy arrays become tuples, NumPy's numbers Python's.

    Example:
      >>> freeze({"padding": [np.array([1, 2]), 3]})["padding"]
      ((1, 2), 3)
    """
    return FrozenDict({name: _hashable(value) for name, value in keywords.items()})


def _hashable(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        value = value.tolist()
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
