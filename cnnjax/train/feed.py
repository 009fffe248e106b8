"""Batches of a run: `feed(step, count)`, a function of (seed, step), from the device's memory or from the host's."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from cnnjax.data import batches, memory
from cnnjax.train import devices
from cnnjax.train.examples import Examples, Split, canonical, is_mapped
from cnnjax.train.reading import Read, Skipped, read_batches
from cnnjax.train.state import Tree
from cnnjax.train.step import Batches

DEVICE_SHARE = 0.5
"""Largest share of a device's free memory that the training examples may take."""


def fits_on_device(split: Split) -> bool:
    """True for arrays in memory that leave room beside them on each device; False for memmaps and sources."""
    if not isinstance(split, Examples) or is_mapped(split):
        return False
    free = devices.smallest_of_all(_free_memory())
    return sum(leaf.nbytes for leaf in jax.tree.leaves(split)) <= DEVICE_SHARE * free


class DeviceFeed:
    """Keeps all examples on the devices and chooses there.

    Args:
      split: arrays.
      mesh: of the run.
      make: as `make_batches` returns it.
      seed: of the run.
      batch_size: examples per update.
      like: a feed on the same devices, whose examples are used where they are the same arrays.
    """

    def __init__(
        self, split: Examples, mesh: Mesh, make: Batches, seed: int, batch_size: int, like: DeviceFeed | None = None
    ):
        self._split = split
        self._held: tuple[Tree, Tree] = (
            like._held if like and like._has(split) else devices.replicate(mesh, tuple(jax.tree.map(canonical, split)))
        )
        self._mesh, self._make, self._seed, self._batch_size, self._n = mesh, make, seed, batch_size, len(split)
        self._own = devices.own_rows(mesh, batch_size)

    def __call__(self, step: int, count: int) -> tuple[Tree, Tree]:
        """Returns the batches of `count` updates from `step` on, `(count, batch_size, ...)`."""
        chosen = batches.indices(self._seed, step, count, self._n, self._batch_size)[:, self._own]
        first = devices.replicate(self._mesh, np.int32(step))
        return self._make(*self._held, devices.share_out(self._mesh, chosen, axis=1), first)

    def _has(self, split: Examples) -> bool:
        """True where the examples are this feed's, the very arrays."""
        pairs = [jax.tree.leaves(one) for one in (split, self._split)]
        return len(split) == self._n and all(one is other for one, other in zip(*pairs, strict=True))

    def close(self) -> None:
        """Ends nothing: there are no threads."""


class HostFeed:
    """Reads this process's examples of each call on the host, and sends them while the devices compute.

    Args:
      split: arrays, memmaps, or a source.
      mesh: of the run.
      make: as `make_batches` returns it.
      seed: of the run.
      batch_size: examples per update.
      next_call: `next_call(step)`: the updates of the call that starts there, or 0 after the last one.
      total: updates of the run.
      workers: threads that read a source.
      skipped: takes the corrupt examples, in whose place the next ones come; None raises.
      numbered: whether the augmentation is told which examples a batch has.
    """

    def __init__(
        self, split: Split, mesh: Mesh, make: Batches, seed: int, batch_size: int, *, next_call: Callable[[int], int],
        total: int, workers: int, skipped: Skipped | None, numbered: bool = False,
    ):  # fmt: skip
        self._split, self._mesh, self._make, self._next_call, self._total = split, mesh, make, next_call, total
        self._seed, self._batch_size, self._workers, self._skipped = seed, batch_size, workers, skipped
        self._per_epoch = batches.steps_per_epoch(len(split), batch_size)
        self._own, self._numbered = devices.own_rows(mesh, batch_size), numbered
        self._sender = ThreadPoolExecutor(1, "feed")
        self._ahead: tuple[int, int, Future[Examples]] | None = None
        self._reading, self._at = self._read_from(0), 0

    def __call__(self, step: int, count: int) -> tuple[Tree, Tree]:
        """Returns the batches of `count` updates from `step` on, `(count, batch_size, ...)`."""
        ahead, self._ahead = self._ahead, None
        expected = ahead is not None and ahead[:2] == (step, count)
        examples = ahead[2].result() if ahead is not None and expected else self._send(step, count)
        numbers = [self._numbers(step, count)] if self._numbered else []
        following = step + count
        if more := self._next_call(following):
            self._ahead = following, more, self._sender.submit(self._send, following, more)
        return self._make(examples.x, examples.y, None, devices.replicate(self._mesh, np.int32(step)), *numbers)

    def close(self) -> None:
        """Stops reading ahead."""
        self._sender.shutdown(wait=True, cancel_futures=True)
        self._reading.close()

    def _numbers(self, step: int, count: int) -> Tree:
        """Returns the indices of the examples of a call, on the devices that have these."""
        chosen = batches.indices(self._seed, step, count, len(self._split), self._batch_size)
        return devices.share_out(self._mesh, chosen[:, self._own], axis=1)

    def _rows(self, step: int) -> np.ndarray:
        """Returns the numbers of this process's examples of an update; those of epoch e start at `e * len(split)`."""
        n = len(self._split)
        chosen = batches.indices(self._seed, step, 1, n, self._batch_size)[0]
        return chosen[self._own].astype(np.int64) + step // self._per_epoch * n

    def _read_from(self, step: int) -> Generator[Read, None, None]:
        return read_batches(
            self._split, self._rows, step, self._total, workers=self._workers, skipped=self._skipped, replace=True
        )

    def _send(self, step: int, count: int) -> Examples:
        if step != self._at:
            self._reading.close()
            self._reading = self._read_from(step)
        self._at = step + count
        found: list[Read] = [next(self._reading) for _ in range(count)]
        together = jax.tree.map(_stack, *(one.examples for one in found))
        return devices.share_out(self._mesh, together, axis=1)


Feed = DeviceFeed | HostFeed


def _stack(*leaves: np.ndarray) -> np.ndarray:
    return leaves[0][None] if len(leaves) == 1 else np.stack(leaves)


def _free_memory() -> float:
    """Returns the bytes that are free on the fullest device; the host's where a device does not say."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(one and "bytes_limit" in one for one in stats):
        return min(one["bytes_limit"] - one.get("bytes_in_use", 0) for one in stats if one)
    return memory.available() / len(stats)
