"""Word vectors from files: word2vec's text and binary formats, and GloVe's."""

import gzip
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np

from cnnjax.errors import UserError


def word_vectors(path: str | os.PathLike, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The vectors that a file has for some of the words.

    word2vec's formats begin with a line of two numbers, how many words and how wide; each word then stands before its
    numbers, which are text, or float32 in binary. GloVe's has no first line. A file may be packed by gzip. Of a word
    that stands there twice the first vector counts.

    Args:
      path: the file. It is read in one pass; only the vectors of `words` are kept.
      words: different from each other.

    Returns:
      ``(places, vectors)``: (M,) int32, the places in `words` of those that were found, ascending, and (M, width)
      float32.

    Raises:
      UserError: the file cannot be read, is cut short, or holds none of the words.
    """
    wanted = {word: place for place, word in enumerate(words)}
    found: dict[int, np.ndarray] = {}
    try:
        with open(path, "rb") as packed:
            zipped = packed.read(2) == b"\x1f\x8b"
        with gzip.open(path) if zipped else open(path, "rb") as file:
            for word, vector in _entries(file):  # type: ignore[arg-type]
                if (place := wanted.get(word)) is not None:
                    found.setdefault(place, vector)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    except ValueError as error:
        raise UserError(f"{path} holds no word vectors of word2vec or GloVe: {error}.") from None
    if not found:
        raise UserError(f"{path} has vectors for none of the {len(words)} words: give one of this language.")
    places = sorted(found)
    return np.array(places, np.int32), np.stack([found[place] for place in places])


def _entries(file: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    """Each word and its vector. Raises ValueError that says where a file is none of the three formats."""
    first = file.readline()
    header = first.split()
    if len(header) == 2 and all(number.isdigit() for number in header):
        count, width = map(int, header)
        start = file.peek(1 << 13)  # type: ignore[attr-defined]
        if _is_text(start.split(b"\n")[0], width):
            yield from _lines(file, width, 2)
        else:
            yield from _records(file, count, width)
    else:
        width = len(header) - 1
        if width < 1:
            raise ValueError("its first line has no numbers")
        yield _entry(first, width, 1)
        yield from _lines(file, width, 2)


def _is_text(line: bytes, width: int) -> bool:
    """Whether a line is a word and `width` numbers in text; of a wide one, cut short, what there is."""
    _, *numbers = line.split() or [b""]
    try:
        return len(list(map(float, numbers[:width]))) > 0
    except ValueError:
        return False


def _lines(file: BinaryIO, width: int, first: int) -> Iterator[tuple[str, np.ndarray]]:
    for number, line in enumerate(file, first):
        if line.strip():
            yield _entry(line, width, number)


def _entry(line: bytes, width: int, number: int) -> tuple[str, np.ndarray]:
    """A line of text: a word, in which there may be spaces, and `width` numbers."""
    word, *numbers = line.rstrip().rsplit(b" ", width)
    if len(numbers) != width:
        raise ValueError(f"line {number} has {len(numbers)} numbers, must have {width}")
    try:
        return word.decode("utf-8", "replace"), np.array(numbers, np.float32)
    except ValueError:
        raise ValueError(f"line {number} must be a word and {width} numbers, is {line[:60]!r}") from None


def _records(file: BinaryIO, count: int, width: int) -> Iterator[tuple[str, np.ndarray]]:
    """word2vec's binary format: each word, a space, its float32; some writers end a record with a line."""
    for number in range(count):
        letters = bytearray()
        while (letter := file.read(1)) != b" ":
            if not letter:
                raise ValueError(f"it ends within word {number + 1} of {count}")
            letters += letter
        numbers = file.read(4 * width)
        if len(numbers) != 4 * width:
            raise ValueError(f"it ends within the vector of word {number + 1} of {count}")
        yield letters.lstrip(b"\n").decode("utf-8", "replace"), np.frombuffer(numbers, "<f4")
