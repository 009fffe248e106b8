"""What every public op does beside its arithmetic: it knows foreign keywords, and takes arrays of any mesh."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
from jax.sharding import NamedSharding, PartitionSpec

from cnnjax.ops.checks import check_keywords

P = ParamSpec("P")
R = TypeVar("R")


def public_op(op: Callable[P, R]) -> Callable[P, R]:
    """Makes a function an op of the public interface.

    It answers an unknown keyword with cnnjax's spelling of what was meant, and runs with automatic sharding where its
    arrays lie on a mesh of explicit axes (`jax.make_mesh` makes such meshes by default).
    """
    known = list(inspect.signature(op).parameters)

    @functools.wraps(op)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_keywords(op.__name__, kwargs, known)
        arrays = [value for value in (*args, *kwargs.values()) if isinstance(value, jax.Array)]
        explicit = [array for array in arrays if _mesh(array).explicit_axes]
        if explicit:
            return _with_automatic_axes(op, explicit[0], args, kwargs)
        return op(*args, **kwargs)

    return checked


def _mesh(array: jax.Array) -> Any:
    return jax.typeof(array).sharding.mesh


def _with_automatic_axes(op: Callable[..., R], x: jax.Array, args: Any, kwargs: Any) -> R:
    """Runs the op in a context in which the compiler shards, and gives its results the sharding of x."""
    named = [name for name, value in kwargs.items() if isinstance(value, jax.Array)]
    at = [i for i, value in enumerate(args) if isinstance(value, jax.Array)]

    def run(*arrays: jax.Array) -> R:
        positions = dict(zip(at, arrays, strict=False))
        keywords = dict(zip(named, arrays[len(at) :], strict=True))
        return op(*(positions.get(i, value) for i, value in enumerate(args)), **{**kwargs, **keywords})

    def automatic(out_sharding: Any) -> Callable[..., R]:
        return jax.sharding.auto_axes(run, axes=mesh.explicit_axes, out_sharding=out_sharding)

    mesh, arrays = _mesh(x), [*(args[i] for i in at), *(kwargs[name] for name in named)]
    shapes = jax.eval_shape(automatic(NamedSharding(mesh, PartitionSpec())), *arrays)
    return automatic(jax.tree.map(lambda result: _sharding_like(x, result.shape), shapes))(*arrays)


def _sharding_like(x: jax.Array, shape: tuple[int, ...]) -> NamedSharding:
    """The sharding of x, for a result of another shape.

    Along an axis that its devices do not divide, and along the channels of another number, the result is whole.
    """
    mesh, spec = _mesh(x), jax.typeof(x).sharding.spec
    kept: list[Any] = [None] * len(shape)
    for axis, names in enumerate(spec if len(shape) == x.ndim else spec[:1]):
        sizes = [mesh.shape[name] for name in ((names,) if isinstance(names, str) else names or ())]
        whole = axis == x.ndim - 1 and shape[axis] != x.shape[axis]
        if sizes and not whole and shape[axis] % functools.reduce(int.__mul__, sizes) == 0:
            kept[axis] = names
    return NamedSharding(mesh, PartitionSpec(*kept))
