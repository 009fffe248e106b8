"""Word vectors: the formats give the same, and a file that is none of them is named with the place."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from cnnjax.data import word_vectors
from cnnjax.errors import UserError

VECTORS = {"the": [0.5, -1.25, 2.0], "caf\xe9": [1e-3, 0.0, -7.5], "film": [3.0, 4.0, 5.0], "unused": [9.0, 9.0, 9.0]}


def text(*, header: bool) -> bytes:
    lines = [f"{len(VECTORS)} 3"] * header + [f"{word} {a} {b} {c}" for word, (a, b, c) in VECTORS.items()]
    return ("\n".join(lines) + "\n").encode()


def binary(*, newline: bool) -> bytes:
    records = [word.encode() + b" " + np.array(v, "<f4").tobytes() + b"\n" * newline for word, v in VECTORS.items()]
    return f"{len(VECTORS)} 3\n".encode() + b"".join(records)


FILES = {
    "glove.txt": text(header=False),
    "word2vec.txt": text(header=True),
    "word2vec.bin": binary(newline=False),
    "lines.bin": binary(newline=True),
    "word2vec.bin.gz": gzip.compress(binary(newline=False), mtime=0),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    places, vectors = word_vectors(tmp_path / name, ["film", "missing", "caf\xe9", "the"])
    assert places.tolist() == [0, 2, 3] and places.dtype == np.int32 and vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.array([VECTORS["film"], VECTORS["caf\xe9"], VECTORS["the"]], "f4"))


def test_a_word_with_spaces_and_one_that_stands_there_twice(tmp_path: Path) -> None:
    (tmp_path / "glove.txt").write_text("a 1 2\n. . . 3 4\na 5 6\n\n")
    places, vectors = word_vectors(tmp_path / "glove.txt", [". . .", "a"])
    assert places.tolist() == [0, 1] and vectors.tolist() == [[3, 4], [1, 2]]


def test_a_wide_text_whose_lines_are_longer_than_what_is_looked_at(tmp_path: Path) -> None:
    row = " ".join(["0.25"] * 4_000)
    (tmp_path / "wide.txt").write_text(f"1 4000\nfilm {row}\n")
    assert word_vectors(tmp_path / "wide.txt", ["film"])[1].shape == (1, 4_000)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILES["word2vec.bin"][:-5], r"it ends within the vector of word 4 of 4"),
        (FILES["word2vec.bin"][:-14], r"it ends within word 4 of 4"),
        (FILES["word2vec.bin.gz"][:-20], r"cannot be read"),
        (b"the 1 2\nfilm 3\n", r"line 2 has 1 numbers, must have 2"),
        (b"the 1 2\nfilm 3 x\n", r"line 2 must be a word and 2 numbers, is b'film 3 x\\n'"),
        (b"the\n", r"its first line has no numbers"),
        (b"", r"its first line has no numbers"),
        (b"das 1 2\nist 3 4\n", r"has vectors for none of the 2 words"),
    ],
)
def test_what_is_no_such_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "vectors").write_bytes(content)
    with pytest.raises(UserError, match=rf"vectors.* {message}"):
        word_vectors(tmp_path / "vectors", ["the", "film"])


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent.bin cannot be read \(No such file"):
        word_vectors(tmp_path / "absent.bin", ["the"])
