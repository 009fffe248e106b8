"""Batches of a run: `feed(step, count)`, a function of (seed, step), from the device's memory or from the host's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax.data import batches, memory
from cnnjax.train import devices
from cnnjax.train.examples import Examples, Split, canonical, gather, is_mapped
from cnnjax.train.state import Tree
from cnnjax.train.step import Batches

DEVICE_SHARE = 0.5
"""Largest share of a device's free memory that the training examples may take."""


def fits_on_device(split: Split) -> bool:
    """True for arrays in memory that leave room beside them on each device; False for memmaps and sources."""
    if not isinstance(split, Examples) or is_mapped(split):
        return False
    return sum(leaf.nbytes for leaf in jax.tree.leaves(split)) <= DEVICE_SHARE * _free_memory()


class DeviceFeed:
    """Keeps all examples on the devices and chooses there.

    Args:
      split: arrays.
      mesh: of the run.
      make: as `make_batches` returns it.
      seed: of the run.
      batch_size: examples per update.
    """

    def __init__(self, split: Examples, mesh: Mesh, make: Batches, seed: int, batch_size: int):
        examples = jax.tree.map(canonical, split)
        self._x, self._y = devices.replicate(mesh, examples.x), devices.replicate(mesh, examples.y)
        self._mesh, self._make, self._seed, self._batch_size, self._n = mesh, make, seed, batch_size, len(split)

    def __call__(self, step: int, count: int) -> tuple[Tree, Tree]:
        """Returns the batches of `count` updates from `step` on, `(count, batch_size, ...)`."""
        chosen = batches.indices(self._seed, step, count, self._n, self._batch_size)
        first = devices.replicate(self._mesh, np.int32(step))
        return self._make(self._x, self._y, devices.share_out(self._mesh, chosen, axis=1), first)

    def close(self) -> None:
        """Ends nothing: there are no threads."""


class HostFeed:
    """Reads the examples of each call on the host, and sends them, those of the next call while the devices compute.

    Args:
      split: arrays, memmaps, or a source.
      mesh: of the run.
      make: as `make_batches` returns it.
      seed: of the run.
      batch_size: examples per update.
      next_call: `next_call(step)`: the updates of the call that starts there, or 0 after the last one.
    """

    def __init__(
        self, split: Split, mesh: Mesh, make: Batches, seed: int, batch_size: int, next_call: Callable[[int], int]
    ):
        self._split, self._mesh, self._make, self._seed, self._batch_size = split, mesh, make, seed, batch_size
        self._next_call = next_call
        self._reader = ThreadPoolExecutor(1, "feed")
        self._ahead: tuple[int, int, Future[Examples]] | None = None

    def __call__(self, step: int, count: int) -> tuple[Tree, Tree]:
        """Returns the batches of `count` updates from `step` on, `(count, batch_size, ...)`."""
        ahead, self._ahead = self._ahead, None
        expected = ahead is not None and ahead[:2] == (step, count)
        examples = ahead[2].result() if ahead is not None and expected else self._read(step, count)
        following = step + count
        if more := self._next_call(following):
            self._ahead = following, more, self._reader.submit(self._read, following, more)
        within = np.arange(count * self._batch_size, dtype=np.int32).reshape(count, self._batch_size)
        first = devices.replicate(self._mesh, np.int32(step))
        return self._make(examples.x, examples.y, devices.share_out(self._mesh, within, axis=1), first)

    def close(self) -> None:
        """Stops reading ahead."""
        self._reader.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int, count: int) -> Examples:
        chosen = batches.indices(self._seed, step, count, len(self._split), self._batch_size)
        return devices.replicate(self._mesh, gather(self._split, chosen.reshape(-1)))


Feed = DeviceFeed | HostFeed


def _free_memory() -> float:
    """Returns the bytes that are free on the fullest device; the host's where a device does not say."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(one and "bytes_limit" in one for one in stats):
        return min(one["bytes_limit"] - one.get("bytes_in_use", 0) for one in stats if one)
    return memory.available() / len(stats)
