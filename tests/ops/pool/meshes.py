"""Runs every pool on eight devices of one host; started by `test_meshes.py`, prints what differs."""

import functools
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.ops.pool.cases import CORE, INDICES, POOLS, gradient, sample

SHAPE = (8, 8, 9, 4)
Functions = dict[str, Callable[[jax.Array], jax.Array]]

#: These draw for the whole batch: a device alone draws other numbers.
DRAWN = ("fractional max", "stochastic")


def functions(core: bool) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
    """Yields every pool, or those of `CORE`, its gradient, and the pools that return indices."""
    for name, op in POOLS.items():
        if core and name not in CORE:
            continue
        yield name, op
        yield f"gradient of {name}", gradient(op)
    for name, op in INDICES.items():
        if not core or name == "max":
            yield f"indices of {name}", lambda x, op=op: op(x)[1].astype("float32")


def together(functions: Functions) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """Returns one function of them all: one program is compiled sooner than many."""
    return lambda x: {name: f(x) for name, f in functions.items()}


@functools.cache
def on_one_device(core: bool) -> dict[str, jax.Array]:
    return jax.jit(together(dict(functions(core))))(sample(SHAPE))


def compare(what: str, functions: Functions, wrap: Callable, placed: jax.Array, core: bool) -> None:
    """Compares with one device; where the program of all functions fails, each by itself, which names the culprit."""
    try:
        results = jax.jit(wrap(together(functions)))(placed)
    except Exception:  # reported below
        results = None
    for name, f in functions.items():
        g = jax.jit(wrap(f)) if results is None else lambda _, name=name: results[name]
        report(f"{what} {name}", g, placed, on_one_device(core)[name])


def on_mesh(mesh: Mesh, spec: PartitionSpec, x: jax.Array, within: bool, core: bool) -> None:
    """Compares jitted calls, and eager ones unless `core`, with one device, inside `jax.set_mesh` or outside."""
    placed = jax.device_put(x, NamedSharding(mesh, spec))
    explicit = AxisType.Explicit in mesh.axis_types
    what = f"{mesh.axis_types} {spec} within={within}"
    compare(f"{what} jit", dict(functions(core)), lambda f: f, placed, core)
    if core:
        return
    for name, f in functions(core):
        # without set_mesh, JAX cannot differentiate eagerly on explicit axes: jnp.sin fails too
        if within or not explicit or "gradient" not in name:
            report(f"{what} eager {name}", f, placed, on_one_device(core)[name])


def in_shard_map(mesh: Mesh, x: jax.Array, core: bool) -> None:
    """Compares each device's share of the batch with the same share computed alone."""
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    local = {name: f for name, f in functions(core) if not any(drawn in name for drawn in DRAWN)}

    def sharded(f: Callable) -> Callable:
        return jax.shard_map(f, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))

    compare(f"shard_map {mesh.axis_types}", local, sharded, placed, core)


def report(what: str, f: Callable[[jax.Array], jax.Array], x: jax.Array, expected: jax.Array) -> None:
    """Prints what failed or differs, on one line."""
    try:
        np.testing.assert_allclose(np.asarray(f(x)), np.asarray(expected), rtol=1e-5, atol=1e-6)
    except Exception as error:  # every failure is a line of the report
        print(what, type(error).__name__, " ".join(str(error).split())[:200], flush=True)


def main() -> None:
    """Runs the kinds of mesh that are named, on the pools of `CORE` or on all."""
    *kinds, which = sys.argv[1:]
    for kind in kinds:
        on_kind(kind, which == "core")
    print("done")


def on_kind(kind: str, core: bool) -> None:
    x = sample(SHAPE)
    axis_type = AxisType.Auto if kind == "auto" else AxisType.Explicit
    mesh = jax.make_mesh((4, 2), ("data", "space"), axis_types=(axis_type,) * 2)
    if kind == "shard_map":
        in_shard_map(mesh, x, core)
    else:
        for spec in (
            (PartitionSpec("data", "space"),) if core else (PartitionSpec("data"), PartitionSpec(None, "space"))
        ):
            on_mesh(mesh, spec, x, within=False, core=core)
            if not core or kind == "explicit":
                with jax.set_mesh(mesh):
                    on_mesh(mesh, spec, x, within=True, core=core)


if __name__ == "__main__":
    main()
