"""The devices of all processes: one mesh axis, along which each batch is sharded, and who writes.

With several processes (`jax.distributed`) each one runs the same program. An array on all devices is then made of what
each process gives for its own, and no process can read the parts of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax.errors import UserError
from cnnjax.train.state import TrainState, Tree, is_key

LEAST_SHARDED = 2**14
"""Elements of the smallest array that is sharded: smaller ones would cost more messages than they save memory."""


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of devices along one axis, `"batch"`; by default of all devices of all processes."""
    devices = devices or jax.devices()
    return jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)


def is_main() -> bool:
    """True in the one process that writes files and reports."""
    return jax.process_index() == 0


def own_rows(mesh: Mesh, size: int) -> np.ndarray:
    """Returns which rows of a batch of `size` lie on this process's devices, in order."""
    if jax.process_count() == 1:
        return np.arange(size)
    mine = NamedSharding(mesh, PartitionSpec("batch")).addressable_devices_indices_map((size,))
    rows = np.arange(size)
    return np.unique(np.concatenate([rows[index] for index in mine.values() if index is not None]))


def share_out(mesh: Mesh, tree: Tree, axis: int = 0) -> Tree:
    """Makes global arrays of batches, split evenly over the devices along an axis.

    Args:
      mesh: as `data_mesh` returns it.
      tree: arrays on the host with this process's rows alone, see `own_rows`.
      axis: of the rows.
    """
    sharding = NamedSharding(mesh, PartitionSpec(*(None,) * axis, "batch"))
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def combine(own: np.ndarray) -> jax.Array:
        rows = own.shape[axis] // len(mesh.local_devices) * mesh.size
        shape = (*own.shape[:axis], rows, *own.shape[axis + 1 :])
        return jax.make_array_from_process_local_data(sharding, own, shape)

    return jax.tree.map(combine, tree)


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Puts a copy of every array of a tree on every device; each process gives the same arrays."""
    return place(tree, jax.tree.map(lambda leaf: NamedSharding(mesh, PartitionSpec()), tree))


def place(tree: Tree, shardings: Tree) -> Tree:
    """Puts arrays, which each process holds in full or which lie there already, on the devices as the shardings say."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(put, tree, shardings)


def state_shardings(mesh: Mesh, state: TrainState, *, shard: bool) -> TrainState:
    """Returns a sharding for each array of a state: replicated, or with `shard` split where that pays.

    An array of the parameters, their average and the optimiser's state is split where it has at least `LEAST_SHARDED`
    elements, along its largest dimension that the number of devices divides, the last of equals: an optimiser's moments
    then lie where their parameters do.
    """
    whole = NamedSharding(mesh, PartitionSpec())

    def split(leaf: Any) -> NamedSharding:
        even = [size if size % mesh.size == 0 else 0 for size in leaf.shape]
        if leaf.size < LEAST_SHARDED or not max(even):
            return whole
        axis = max(range(len(even)), key=lambda axis: (even[axis], axis))
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "batch"))

    everywhere = jax.tree.map(lambda leaf: whole, state)
    if not shard:
        return everywhere
    parts = jax.tree.map(split, {name: getattr(state, name) for name in ("params", "opt_state", "average", "slow")})
    return everywhere._replace(**parts)


def gather(mesh: Mesh, tree: Tree) -> Tree:
    """Makes the arrays of a tree whole on every device, inside of a jitted function; their gradients likewise."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def bytes_of(state: Tree) -> tuple[int, int]:
    """Returns how many bytes of arrays lie on each device, and how many there are in all."""
    leaves = jax.tree.leaves(state)
    return sum(leaf.addressable_data(0).nbytes for leaf in leaves), sum(leaf.nbytes for leaf in leaves)


def to_host(tree: Tree) -> Tree:
    """Returns NumPy arrays, whole in each process, and random keys as they are; all processes must call it."""

    def on_host(leaf: Any) -> Any:
        whole = readable(leaf)
        return whole if is_key(leaf) else np.asarray(whole)

    return jax.tree.map(on_host, tree)  # one by one, to save the devices' memory


def readable(tree: Tree) -> Tree:
    """Returns arrays that this process can read, without waiting for them; all processes must call it.

    An array of which other processes hold parts is copied whole to every device.
    """

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return leaf
        assert isinstance(leaf.sharding, NamedSharding)
        return jax.jit(lambda array: array, out_shardings=NamedSharding(leaf.sharding.mesh, PartitionSpec()))(leaf)

    return jax.tree.map(whole, tree)


def wait_for_all(what: str) -> None:
    """Waits until every process has come to the same line.

    Args:
      what: is true there, in few words.

    Raises:
      UserError: it is not what the others say.
    """
    if jax.process_count() == 1:
        return
    try:
        multihost_utils.sync_global_devices(what)
    except AssertionError:
        raise UserError(
            f"process {jax.process_index()} of {jax.process_count()} found {what}, and another one did not: `workdir` "
            "must be the same folder for all of them, on a file system that they share."
        ) from None


def smallest_of_all(number: float) -> float:
    """Returns the least of the numbers that the processes give."""
    if jax.process_count() == 1:
        return number
    return float(np.min(multihost_utils.process_allgather(np.float32(number))))


def from_all(array: np.ndarray) -> np.ndarray:
    """Returns the arrays of all processes, of one shape, stacked: `(processes, ...)`."""
    if jax.process_count() == 1:
        return array[None]
    return np.asarray(multihost_utils.process_allgather(array))


def on_host(function: Callable[[int], Any], argument: int) -> float:
    """Computes a number on the host's CPU: on an accelerator it would wait there behind the updates under way."""
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names the accelerator alone
        return float(function(argument))
    with jax.default_device(cpu), jax.transfer_guard("allow"):
        return float(function(argument))
