"""What tests/ops/test_meshes.py runs in a process with eight devices: `python -m tests.ops.on_meshes NAME...`.

Prints one line of JSON per op: its name, and its largest differences from the same op on one device, or the error.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.ops.examples import Example, example_of

AUTO, EXPLICIT = (AxisType.Auto,) * 2, (AxisType.Explicit,) * 2


def mesh_of(kinds: tuple[AxisType, AxisType] = EXPLICIT) -> Mesh:
    """Four times two devices: for batches, and for rows of images or features."""
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=kinds)


def placed(each: Example, mesh: Mesh, *spec: str | None) -> list[jax.Array]:
    """Arrays of which those with a batch are sharded so, and the others are whole on every device."""
    specs = [spec] * each.batched + [()] * (len(each.shapes) - each.batched)
    return [
        jax.device_put(array, NamedSharding(mesh, P(*spec)))
        for array, spec in zip(each.arrays("float64"), specs, strict=True)
    ]


def value_and_gradients(each: Example) -> Callable:
    every = tuple(range(len(each.shapes)))
    return jax.value_and_grad(lambda *arrays: (each.loss(*arrays), each.op(*arrays)), every, has_aux=True)


def runs(each: Example) -> Iterator[tuple[str, object]]:
    """The op with its gradients on each kind of mesh, outside and inside `jax.set_mesh`."""
    for kinds in (EXPLICIT, AUTO, (AxisType.Explicit, AxisType.Auto)):
        mesh = mesh_of(kinds)
        for spec in (("data",), ("data", "model")):
            yield f"{kinds} {spec}", jax.jit(value_and_gradients(each))(*placed(each, mesh, *spec))
    with jax.set_mesh(mesh_of()):
        arrays = placed(each, mesh_of(), "data", "model")
        yield "eager in set_mesh", value_and_gradients(each)(*arrays)
    if each.batched == len(each.shapes):
        local = jax.shard_map(each.op, mesh=mesh_of(), in_specs=P("data"), out_specs=P("data"), axis_names={"data"})
        apart = Example(local, each.shapes, each.batched)
        yield "shard_map over one axis", jax.jit(value_and_gradients(apart))(*placed(each, mesh_of(), "data"))


#: Ops whose numbers are compared every day; those of the others are slow.
EVERYDAY = ("avg_pool", "batch_norm", "conv", "conv_transpose", "depthwise_conv", "max_pool", "pixel_shuffle")

#: Ops whose numbers belong to the batch as a whole: in shard_map they are those of the device's own examples.
OF_THE_BATCH = ("conv_kernel_grad", "fractional_max_pool", "rrelu", "stochastic_pool", "toeplitz_matrix")


def largest_difference(result: object, alone: object) -> float:
    leaves = zip(jax.tree.leaves(result), jax.tree.leaves(alone), strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / (1 + np.abs(b)))) for a, b in leaves)


def differences(name: str) -> dict[str, float]:
    each = example_of(name)
    alone = jax.jit(value_and_gradients(each))(*each.arrays("float64"))
    found = {}
    for kind, result in runs(each):
        if kind.startswith("shard_map") and name in OF_THE_BATCH:
            continue
        found[kind] = largest_difference(result, alone)
    return found


def traced(name: str) -> None:
    """What JAX's types refuse they refuse when a program is traced, so these kinds of mesh need no compiling."""
    each = example_of(name)
    for kinds, inside, spec in (
        (EXPLICIT, True, ("data", "model")),
        (EXPLICIT, False, (None, None, "model")),
        ((AxisType.Explicit, AxisType.Auto), True, ("data",)),
    ):
        mesh = mesh_of(kinds)
        with jax.set_mesh(mesh) if inside else contextlib.nullcontext():
            jax.jit(value_and_gradients(each)).trace(*placed(each, mesh, *spec))


def everyday_differences() -> dict[str, dict[str, float]]:
    """Those of the ops of EVERYDAY on an explicit mesh, from two programs: one of all ops is compiled sooner."""
    examples = {name: example_of(name) for name in EVERYDAY}
    together = jax.jit(
        lambda arrays: {name: value_and_gradients(each)(*arrays[name]) for name, each in examples.items()}
    )
    alone = together({name: each.arrays("float64") for name, each in examples.items()})
    mesh = mesh_of()
    result = together({name: placed(each, mesh, "data") for name, each in examples.items()})
    return {name: {"explicit": largest_difference(result[name], alone[name])} for name in examples}


def main(names: list[str], everything: bool) -> None:
    jax.config.update("jax_enable_x64", True)
    found = {} if everything else everyday_differences()
    for name in names:
        try:
            traced(name)
            numbers = differences(name) if everything else found.get(name, {})
            print(json.dumps([name, numbers]), flush=True)
        except Exception as error:
            print(json.dumps([name, f"{type(error).__name__}: {error}"[:2000]]), flush=True)


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != "--everything"], "--everything" in sys.argv)
