"""Reads word vectors from files: word2vec's text and binary formats, and GloVe's."""

import gzip
import itertools
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

from cnnjax.errors import UserError


def word_vectors(path: str | os.PathLike, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Reads the vectors of the given words from a file, as far as it has them.

    word2vec's formats begin with a line of two numbers, the count of words and the width; then each word is followed
    by its numbers, as text or as binary float32. GloVe's format has no such line. The file may be compressed with
    gzip. Where a word occurs twice, its first vector counts.

    Args:
      path: the file. It is read in one pass; only the vectors of `words` are kept.
      words: all different.

    Returns:
      `(found, vectors)`: `(M,)` int32, the indices in `words` of those in the file, ascending, and `(M, width)`
      float32.

    Raises:
      UserError: the file cannot be read, is cut short, or holds none of the words.
    """
    wanted = {word: index for index, word in enumerate(words)}
    found: dict[int, np.ndarray] = {}
    try:
        with open(path, "rb") as packed:
            zipped = packed.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as file:
            for word, vector in _entries(file, wanted):  # type: ignore[arg-type]
                found.setdefault(wanted[word], vector)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    except ValueError as error:
        raise UserError(f"{path} holds no word vectors of word2vec or GloVe: {error}.") from None
    if not found:
        raise UserError(f"{path} has vectors for none of the {len(words)} words: give one of this language.")
    indices = sorted(found)
    return np.array(indices, np.int32), np.stack([found[index] for index in indices])


def _entries(file: BinaryIO, wanted: Container[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the wanted words and their vectors.

    The ValueError for another format says where it fails.
    """
    first = file.readline()
    header = first.split()
    if len(header) == 2 and all(number.isdigit() for number in header):
        count, width = map(int, header)
        start = file.peek(1 << 13)  # type: ignore[attr-defined]
        is_text = _is_text(start.split(b"\n")[0], width)
        yield from _lines(enumerate(file, 2), width, wanted) if is_text else _records(file, count, width, wanted)
    elif len(header) > 1:
        yield from _lines(enumerate(itertools.chain([first], file), 1), len(header) - 1, wanted)
    else:
        raise ValueError("its first line has no numbers")


def _is_text(line: bytes, width: int) -> bool:
    """Returns True where a line is a word and numbers in text; a wide line may be cut short."""
    _, *numbers = line.split() or [b""]
    try:
        return len(list(map(float, numbers[:width]))) > 0
    except ValueError:
        return False


def _lines(lines: Iterable[tuple[int, bytes]], width: int, wanted: Container[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields from text lines, each a word, which may contain spaces, and `width` numbers."""
    for number, line in lines:
        first, *numbers = line.rstrip().rsplit(b" ", width)
        if line.strip() and len(numbers) != width:
            raise ValueError(f"line {number} has {len(numbers)} numbers, must have {width}")
        if (word := first.decode("utf-8", "replace")) not in wanted:
            continue
        try:
            yield word, np.array(numbers, np.float32)
        except ValueError:
            raise ValueError(f"line {number} must be a word and {width} numbers, is {line[:60]!r}") from None


def _records(file: BinaryIO, count: int, width: int, wanted: Container[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields from word2vec's binary format: a word, a space, float32 numbers.

    Some writers end a record with a newline.
    """
    for number in range(count):
        letters = bytearray()
        while (letter := file.read(1)) != b" ":
            if not letter:
                raise ValueError(f"it ends within word {number + 1} of {count}")
            letters += letter
        numbers = file.read(4 * width)
        if len(numbers) != 4 * width:
            raise ValueError(f"it ends within the vector of word {number + 1} of {count}")
        if (word := letters.lstrip(b"\n").decode("utf-8", "replace")) in wanted:
            yield word, np.frombuffer(numbers, "<f4")
