"""Word vectors from files: word2vec's text and binary formats, and GloVe's."""

import gzip
import itertools
import os
from collections.abc import Container, Iterable, Iterator, Sequence
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
            for word, vector in _entries(file, wanted):  # type: ignore[arg-type]
                found.setdefault(wanted[word], vector)
    except (OSError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    except ValueError as error:
        raise UserError(f"{path} holds no word vectors of word2vec or GloVe: {error}.") from None
    if not found:
        raise UserError(f"{path} has vectors for none of the {len(words)} words: give one of this language.")
    places = sorted(found)
    return np.array(places, np.int32), np.stack([found[place] for place in places])


def _entries(file: BinaryIO, wanted: Container[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The wanted words and their vectors. Raises ValueError that says where a file is none of the three formats."""
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
    """Whether a line is a word and `width` numbers in text; of a wide one, cut short, what there is."""
    _, *numbers = line.split() or [b""]
    try:
        return len(list(map(float, numbers[:width]))) > 0
    except ValueError:
        return False


def _lines(lines: Iterable[tuple[int, bytes]], width: int, wanted: Container[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Lines of text and their numbers: each a word, in which there may be spaces, and `width` numbers."""
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
        if (word := letters.lstrip(b"\n").decode("utf-8", "replace")) in wanted:
            yield word, np.frombuffer(numbers, "<f4")
