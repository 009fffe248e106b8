"""Reads examples in order and ahead of their use, by threads; grain does it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import Any, TypeVar

Item = TypeVar("Item")


def in_order(
    read: Callable[[int], Item], start: int, stop: int, *, threads: int, ahead: int
) -> Generator[Item, None, None]:
    """Yields `read(start)`, ..., `read(stop - 1)`, each computed by one of some threads.

    There is no state but the next number: an iterator that starts at another one yields the same from there on. Closing
    the iterator stops the threads.

    Args:
      read: what a number stands for; a pure function. What it raises ends the iterator, and is raised there.
      start: the first number, from 0.
      stop: behind the last one.
      threads: how many read at once.
      ahead: results that are computed before they are asked for, at most.
    """
    import grain  # a second

    numbers = grain.MapDataset.range(start, stop).map(read)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
    results = iter(numbers.to_iter_dataset(options, allow_nones=True))
    try:
        yield from results
    finally:
        results.close()


def draws_anew(source: Any) -> bool:
    """True for a `grain.MapDataset`, whose elements beyond its length are those of later epochs, drawn anew."""
    grain = sys.modules.get("grain")
    return grain is not None and isinstance(source, grain.MapDataset)
