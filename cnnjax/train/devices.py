"""The devices that a run computes on: one mesh axis, along which each batch is sharded."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax.train.state import Tree


def data_mesh() -> Mesh:
    """Returns the mesh of all local devices along one axis, `"batch"`."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Puts a copy of every array of a tree on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
