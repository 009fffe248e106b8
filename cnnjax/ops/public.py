"""Decorators of the public ops: they explain foreign keywords, and let arrays lie on any mesh."""

import functools
import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from cnnjax.ops.checks import check_keywords

P = ParamSpec("P")
R = TypeVar("R")
Names = tuple[str, ...]


@overload
def public_op(op: Callable[P, R]) -> Callable[P, R]: ...
@overload
def public_op(*, has_batch: bool) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def public_op(op: Any = None, *, has_batch: bool = True) -> Any:
    """Makes a function an op of the public interface: `known_keywords` and `on_any_mesh` in one.

    Args:
      op: the function. Its first parameter is the array that it works on.
      has_batch: False for an op whose results have no batch axis, as the gradient of a kernel.
    """
    if op is None:
        return functools.partial(public_op, has_batch=has_batch)
    return known_keywords(on_any_mesh(op, has_batch=has_batch))


def known_keywords(op: Callable[P, R]) -> Callable[P, R]:
    """Answers an unknown keyword with cnnjax's spelling of what was meant."""
    known = list(inspect.signature(op).parameters)

    @functools.wraps(op)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_keywords(op.__name__, kwargs, known)
        return op(*args, **kwargs)

    return checked


def on_any_mesh(op: Callable[P, R], *, has_batch: bool = True) -> Callable[P, R]:
    """Runs an op with automatic sharding where its arrays lie on a mesh of explicit axes.

    `jax.make_mesh` makes such meshes by default. Inside the op the compiler shards; the results have types again:

    - the batch keeps the mesh axes of the first argument's, and so does each spatial axis that they divide evenly
      (results of another rank than the first argument have no spatial axes);
    - the channels keep those of the first argument's where their number is the same, else those of the last axis
      of `w` where that is their number (features sharded over devices stay so);
    - every other axis is whole, and so are results without a batch (`has_batch=False`).

    A NumPy array counts as whole on every device. A gradient has the sharding of what it is taken in. Axes that are
    automatic stay so, and so do the manual ones of `jax.shard_map`. Where a mesh has manual and explicit axes
    at once the op is rematerialised in the backward pass, which must be under `jax.jit`: `jax.shard_map` hands no
    intermediate results over such axes.
    """
    names = list(inspect.signature(op).parameters)

    @functools.wraps(op)
    def automatic(*args: P.args, **kwargs: P.kwargs) -> R:
        values = list(map(_unboxed, (*args, *kwargs.values())))
        holds_array = [isinstance(value, jax.Array) for value in values]
        arrays = list(itertools.compress(values, holds_array))
        mesh = next((mesh for mesh in map(_mesh, arrays) if mesh.explicit_axes), None)
        if mesh is None:
            return op(*args, **kwargs)

        def run(arrays: list[jax.Array]) -> R:
            rest = iter(arrays)
            filled = [next(rest) if held else value for value, held in zip(values, holds_array, strict=True)]
            return op(*filled[: len(args)], **dict(zip(kwargs, filled[len(args) :], strict=True)))  # type: ignore

        given = dict(zip((*names[: len(args)], *kwargs), values, strict=False))
        x = given.get(names[0]) if has_batch else None
        return _run_automatically(run, mesh, functools.partial(_result_sharding, mesh, x, given.get("w")), arrays)

    return automatic


def _unboxed(value: Any) -> Any:
    """Takes the array out of a module's variable; leaves other values unchanged."""
    return jnp.asarray(value) if hasattr(value, "__jax_array__") else value


def _run_automatically(
    run: Callable[[Any], R], mesh: AbstractMesh, sharding_of: Callable[[Any], NamedSharding], arrays: Any
) -> R:
    """Runs a function in a context in which the compiler shards; its results are sharded as told of their shapes."""

    def automatic(out_sharding: Any) -> Callable[..., R]:
        return jax.sharding.auto_axes(run, axes=mesh.explicit_axes, out_sharding=out_sharding)

    shapes = jax.eval_shape(automatic(NamedSharding(mesh, PartitionSpec())), arrays)
    f = automatic(jax.tree.map(sharding_of, shapes))
    return (jax.checkpoint(f) if mesh.manual_axes else f)(arrays)


def _result_sharding(mesh: AbstractMesh, x: Any, w: Any, result: jax.ShapeDtypeStruct) -> NamedSharding:
    """Returns the sharding that `on_any_mesh` promises for a result, where x and w are arrays or anything else."""
    shape, rank = result.shape, len(result.shape)
    kept: list[Names] = [()] * rank
    if rank and isinstance(x, jax.Array) and x.ndim:
        for axis, source in _axes_of_x(rank, x.ndim):
            names = _mesh_axes(x)[source]
            spatial = 0 < source < x.ndim - 1
            if shape[axis] == x.shape[source] or (spatial and _divides(mesh, names, shape[axis])):
                kept[axis] = names
    if rank > 1 and not kept[-1] and isinstance(w, jax.Array) and w.ndim and w.shape[-1] == shape[-1]:
        names = _mesh_axes(w)[-1]
        if not set(names) & set(itertools.chain(*kept)):  # a mesh axis serves one array axis
            kept[-1] = names
    return NamedSharding(mesh, PartitionSpec(*(names or None for names in kept)))


def _axes_of_x(rank: int, x_rank: int) -> list[tuple[int, int]]:
    """Pairs axes of a result with those of x that they come from; of another rank it has batch and channels alone."""
    if rank == x_rank:
        return [(axis, axis) for axis in range(rank)]
    channels = (rank - 1, x_rank - 1)
    return [channels] if rank == 1 else [(0, 0), channels]


def _mesh(array: jax.Array) -> AbstractMesh:
    return jax.typeof(array).sharding.mesh


def _mesh_axes(array: jax.Array) -> list[Names]:
    """Returns the mesh axes over which each axis of an array is sharded."""
    spec = jax.typeof(array).sharding.spec
    return [(names,) if isinstance(names, str) else tuple(names or ()) for names in spec]


def _divides(mesh: AbstractMesh, names: Names, size: int) -> bool:
    return size % math.prod(mesh.shape[name] for name in names) == 0
