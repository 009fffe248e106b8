"""Reads the batches of a split in order and ahead: arrays a batch at a time, sources example by example."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import NamedTuple

import jax
import numpy as np

from cnnjax.data import CorruptExample, stream
from cnnjax.errors import UserError
from cnnjax.train.examples import (
    MOST_IN_A_ROW,
    Example,
    Examples,
    Split,
    gather,
    is_read_one_by_one,
    read_one,
    specs,
    stack,
)

BATCHES_AHEAD = 2
"""Batches that are read before they are asked for."""


class Read(NamedTuple):
    """Holds a batch on the host.

    Attributes:
      examples: arrays `(L, ...)`, zeros where nothing is to be read or could be.
      there: `(L,)` bool, False for those.
    """

    examples: Examples
    there: np.ndarray


class Skipped:
    """Notes which examples were skipped as they could not be read; threads may add to it."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}  # a set that keeps the order
        self._told = 0

    def add(self, sentence: str) -> None:
        """Notes one, once."""
        self._sentences[sentence] = None

    def take_new(self) -> list[str]:
        """Returns those that were not taken before."""
        sentences = list(self._sentences)
        before, self._told = self._told, len(sentences)
        return sentences[before:]

    def __len__(self) -> int:
        return len(self._sentences)


def read_batches(
    split: Split,
    rows: Callable[[int], np.ndarray],
    first: int,
    stop: int,
    *,
    workers: int,
    skipped: Skipped | None,
    replace: bool,
) -> Generator[Read, None, None]:
    """Yields batches `first` to `stop - 1`.

    Args:
      split: what to read.
      rows: the numbers of the examples of a batch, always L of them, as for `gather`; -1 stands for nothing.
      first: the first batch.
      stop: behind the last one.
      workers: threads that read a source.
      skipped: takes the examples that raise `data.CorruptExample`; None raises it.
      replace: whether the next example that can be read takes the place of a corrupt one, as in training, where batches
        are full; else it is left out.

    Raises:
      UserError: a corrupt example, or too many of them in a row.
    """
    if not is_read_one_by_one(split):

        def read_batch(batch: int) -> Read:
            wanted = rows(batch)
            there = wanted >= 0
            return Read(_spread(gather(split, wanted[there]), there), there)

        with closing(stream.in_order(read_batch, first, stop, threads=1, ahead=BATCHES_AHEAD)) as batches:
            yield from batches
        return

    length, shapes = len(rows(first)) if first < stop else 0, specs(split)

    def read(position: int) -> Example | None:
        batch, slot = divmod(position, length)
        number = int(rows(batch)[slot])
        return None if number < 0 else _read_or_skip(split, number, skipped, replace=replace)

    ahead = BATCHES_AHEAD * length
    with closing(stream.in_order(read, first * length, stop * length, threads=workers, ahead=ahead)) as examples:
        for _ in range(first, stop):
            batch = [next(examples) for _ in range(length)]
            there = np.array([one is not None for one in batch])
            found = [one for one in batch if one is not None]
            yield Read(_spread(stack(found) if found else jax.tree.map(_no_rows, shapes), there), there)


def read_examples(source: Split, numbers: Iterable[int], skipped: Skipped | None) -> Examples:
    """Reads some examples of a source; the next one that can be read takes the place of a corrupt one.

    Args:
      source: what to read.
      numbers: of the examples, as for `gather`.
      skipped: as for `read_batches`.

    Raises:
      UserError: a corrupt example, or too many of them in a row.
    """
    found = (_read_or_skip(source, int(number), skipped, replace=True) for number in numbers)
    return stack([example for example in found if example is not None])


def _no_rows(spec: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.zeros((0, *spec.shape[1:]), spec.dtype)


def _spread(found: Examples, there: np.ndarray) -> Examples:
    """Returns arrays with the examples found where they are there, and zeros elsewhere."""
    if there.all():
        return found

    def spread(leaf: np.ndarray) -> np.ndarray:
        whole = np.zeros((len(there), *leaf.shape[1:]), leaf.dtype)
        whole[there] = leaf
        return whole

    return jax.tree.map(spread, found)


def _read_or_skip(split: Split, number: int, skipped: Skipped | None, *, replace: bool) -> Example | None:
    """Reads an example; where it is corrupt, the next one that is not, or None."""
    epoch, row = divmod(number, len(split))
    last = ""
    for _ in range(MOST_IN_A_ROW):
        try:
            return read_one(split, epoch * len(split) + row)
        except CorruptExample as error:
            if skipped is None:
                raise
            last = str(error)
            skipped.add(last)
            if not replace:
                return None
            row = (row + 1) % len(split)
    raise UserError(f"{MOST_IN_A_ROW} examples in a row cannot be read, the last one: {last}")
