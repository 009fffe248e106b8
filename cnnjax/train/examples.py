"""The examples of a split: inputs and labels, each any pytree of arrays, or read one by one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from cnnjax.data import CorruptExample
from cnnjax.data.stream import draws_anew
from cnnjax.errors import UserError

Arrays = Any  # an array, or a pytree of them
SPLITS = ("train", "validation", "test")
MOST_EXAMPLES = 2**31 - 1
"""Their indices are int32."""
MOST_IN_A_ROW = 100
"""Corrupt examples in a row that may be replaced: more are no accident."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Examples:
    """Holds the examples of one split; unpacks as `x, y`.

    Attributes:
      x: inputs, arrays `(N, ...)`: uint8 images `(N, H, W, C)`, word ids `(N, L)`, or any pytree of such.
      y: labels, likewise: classes, int `(N,)`, targets of a regression, images, ...
    """

    x: Arrays
    y: Arrays

    def __len__(self) -> int:
        return len(jax.tree.leaves(self)[0])

    def __iter__(self) -> Iterator[Arrays]:
        return iter((self.x, self.y))


class Source(Protocol):
    """Examples read one by one, such as a `grain.MapDataset` of `(x, y)`."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Arrays, Arrays]: ...


class Rows(NamedTuple):
    """Some of the examples of another split, in the order of `rows`, read when they are needed.

    Attributes:
      of: memmaps or a source: more than may fit in memory.
      rows: indices into it.
    """

    of: Examples | Source
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


Split = Examples | Rows | Source
Example = tuple[Arrays, ...]  # (x, y)


def take(split: Split, rows: np.ndarray) -> Split:
    """Returns some examples as a split of their own: copies of arrays in memory, `Rows` of memmaps and sources."""
    if isinstance(split, Examples) and not is_mapped(split):
        return jax.tree.map(lambda leaf: leaf[rows], split)
    return Rows(split, rows)  # type: ignore[arg-type]


def is_mapped(examples: Examples) -> bool:
    """True where an array lies in a file."""
    return any(isinstance(leaf, np.memmap) for leaf in jax.tree.leaves(examples))


def to_splits(data: Mapping[str, Any]) -> dict[str, Split]:
    """Returns the splits of `fit`'s argument `data`, checked.

    A list is an array; tuples and dicts are pytrees. A split that is `None` is left out.

    Raises:
      UserError: no training examples, a name that is not a split's, not (x, y), or numbers of examples that differ.
    """
    if not isinstance(data, Mapping) or data.get("train") is None:
        raise UserError(
            f"`data` must be a dict such as {{'train': (x, y), 'test': (x, y)}}, was "
            f"{'a dict of ' + ', '.join(map(repr, data)) if isinstance(data, Mapping) else type(data).__name__}."
        )
    for name in data:
        if name not in SPLITS:
            raise UserError(f"`data` has a split {name!r}: it must be one of {', '.join(SPLITS)}.")
    return {name: _to_split(name, split) for name, split in data.items() if split is not None}


def gather(split: Split, numbers: Sequence[int] | np.ndarray) -> Examples:
    """Copies some examples to the host, in the order of `numbers`, as arrays `(len(numbers), ...)`.

    Numbers from `len(split)` on are those of later epochs: the same examples, which a `grain.MapDataset` with
    `random_map` draws anew.
    """
    if isinstance(split, Examples):
        chosen = np.asarray(numbers) % len(split)
        return jax.tree.map(lambda leaf: canonical(np.asarray(leaf[chosen])), split)
    if isinstance(split, Rows) and isinstance(split.of, Examples):
        return gather(split.of, split.rows[np.asarray(numbers) % len(split)])
    return stack([read_one(split, int(number)) for number in numbers])


def read_one(split: Split, number: int) -> Example:
    """Reads one example of a source; see `gather` for its number."""
    if isinstance(split, Rows):
        epoch, row = divmod(number, len(split))
        return read_one(split.of, epoch * len(split.of) + int(split.rows[row]))
    return tuple(split[number if draws_anew(split) else number % len(split)])  # type: ignore[index]


def stack(examples: Sequence[Example]) -> Examples:
    """Makes one batch of some examples.

    Raises:
      UserError: their arrays differ in name or shape.
    """
    try:
        return Examples(*jax.tree.map(lambda *leaves: canonical(np.stack(leaves)), *examples))
    except ValueError as error:
        raise UserError(
            f"{len(examples)} examples of `data` cannot be made one batch ({error}): each must have arrays of the same "
            "names and shapes."
        ) from error


def is_read_one_by_one(split: Split) -> bool:
    """True for a source; False for arrays, in memory or in a file."""
    return not isinstance(split.of if isinstance(split, Rows) else split, Examples)


def specs(split: Split) -> Examples:
    """Returns shape and dtype of each array of a batch of one: the first example that can be read."""
    for number in range(min(len(split), MOST_IN_A_ROW)):
        with contextlib.suppress(CorruptExample):
            first = gather(split, [number])
            return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), first)
    raise UserError(f"none of the first {number + 1} examples of `data` can be read.")


def canonical(array: np.ndarray) -> np.ndarray:
    """Casts to the dtype that JAX computes in: float64 to float32 and int64 to int32, unless x64 is enabled."""
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)


def _to_split(name: str, given: Any) -> Split:
    if isinstance(given, Examples) or _is_pair(given):
        examples = Examples(*(_to_arrays(part) for part in given))
        _check(name, examples)
        return examples
    is_source = hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, Mapping)
    if is_source and not hasattr(given, "shape"):
        if not len(given):
            raise UserError(f"`data['{name}']` is empty: it must have at least one example.")
        if len(given) > MOST_EXAMPLES:
            raise UserError(
                f"`data['{name}']` is endless: leave `repeat()` out, as `epochs` says how often it is read."
            )
        first = _first(given)
        if isinstance(first, Sequence) and len(first) == 2:
            return given
    raise UserError(
        f"`data['{name}']` must be (x, y), arrays with one row an example, or a grain.MapDataset of (x, y); "
        f"was {type(given).__name__}. Where there are no labels, give (x, x)."
    )


def _first(given: Any) -> Any:
    """Returns the first example of a source that can be read; UserError where many cannot."""
    for number in range(min(len(given), MOST_IN_A_ROW)):
        with contextlib.suppress(CorruptExample):
            return given[number]
    raise UserError(f"none of the first {number + 1} examples of `data` can be read.")


def _is_pair(given: Any) -> bool:
    """True for (x, y), as a tuple or a list; a list of two tuples holds two examples."""
    pair = isinstance(given, tuple | list) and len(given) == 2
    return pair and not (isinstance(given, list) and all(isinstance(one, tuple) for one in given))


def _to_arrays(part: Any) -> Arrays:
    return jax.tree.map(_to_array, part, is_leaf=lambda node: isinstance(node, list))


def _to_array(leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ndarray):  # memmaps too
        return leaf
    try:
        return np.asarray(leaf)
    except (TypeError, ValueError) as error:
        raise UserError(f"`data` holds {type(leaf).__name__}, which is no array: {error}.") from error


def _check(name: str, examples: Examples) -> None:
    counts = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(examples)[0]:
        where = f"{name} {jax.tree_util.keystr(path, simple=True, separator='/')}"
        if not leaf.ndim or leaf.dtype == object or (leaf.dtype.kind not in "biuf" and leaf.dtype.name != "bfloat16"):
            raise UserError(
                f"`data['{name}']`: {where} is {leaf.dtype} {leaf.shape}; it must be an array of numbers with one row "
                "an example."
            )
        counts[where] = len(leaf)
    if len(set(counts.values())) != 1 or not next(iter(counts.values())):
        raise UserError(
            f"`data['{name}']` must have as many inputs as labels, and at least one; has "
            + ", ".join(f"{count} in {where}" for where, count in counts.items())
            + "."
        )
