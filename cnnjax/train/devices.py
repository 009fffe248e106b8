"""The devices that a run computes on: one mesh axis, along which each batch is sharded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax.train.state import Tree


def data_mesh() -> Mesh:
    """Returns the mesh of all local devices along one axis, `"batch"`."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)


def share_out(mesh: Mesh, tree: Tree, axis: int = 0) -> Tree:
    """Puts the arrays of a tree on the devices of the mesh, split evenly along an axis: the examples of a batch."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*(None,) * axis, "batch")))


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Puts a copy of every array of a tree on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_host(function: Callable[[int], Any], argument: int) -> float:
    """Computes a number on the host's CPU: on an accelerator it would wait there behind the updates under way."""
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone
        return float(function(argument))
    with jax.default_device(cpu), jax.transfer_guard("allow"):
        return float(function(argument))
