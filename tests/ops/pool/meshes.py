"""Runs every pool on eight devices of one host; started by `test_meshes.py`, prints what differs."""

import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.ops.pool.cases import CORE, INDICES, POOLS, gradient, sample

SHAPE = (8, 8, 9, 4)

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


def on_mesh(mesh: Mesh, spec: PartitionSpec, x: jax.Array, within: bool, core: bool) -> None:
    """Compares eager and jitted calls with those on one device, inside `jax.set_mesh` or outside."""
    placed = jax.device_put(x, NamedSharding(mesh, spec))
    explicit = AxisType.Explicit in mesh.axis_types
    for name, f in functions(core):
        expected = jax.jit(f)(x)
        # without set_mesh, JAX cannot differentiate eagerly on explicit axes: jnp.sin fails too
        eager = not core and (within or not explicit or "gradient" not in name)
        for way, g in (("eager", f), ("jit", jax.jit(f))) if eager else (("jit", jax.jit(f)),):
            report(f"{mesh.axis_types} {spec} within={within} {way} {name}", g, placed, expected)


def in_shard_map(mesh: Mesh, x: jax.Array, core: bool) -> None:
    """Compares each device's share of the batch with the same share computed alone."""
    placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    for name, f in functions(core):
        if any(drawn in name for drawn in DRAWN):
            continue
        g = jax.shard_map(f, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec("data"))
        report(f"shard_map {mesh.axis_types} {name}", jax.jit(g), placed, jax.jit(f)(x))


def report(what: str, f: Callable[[jax.Array], jax.Array], x: jax.Array, expected: jax.Array) -> None:
    """Prints what failed or differs, on one line."""
    try:
        np.testing.assert_allclose(np.asarray(f(x)), np.asarray(expected), rtol=1e-5, atol=1e-6)
    except Exception as error:  # every failure is a line of the report
        print(what, type(error).__name__, " ".join(str(error).split())[:200], flush=True)


def main() -> None:
    """Runs one kind of mesh, on the pools of `CORE` or on all."""
    kind, core = sys.argv[1], sys.argv[2] == "core"
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
    print("done")


if __name__ == "__main__":
    main()
