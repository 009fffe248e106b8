"""Sentences as arrays: the rules of the words, the padding, the folds, the two files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cnnjax.data import sentences
from cnnjax.data.sentences import Corpus, corpus, fold, movie_reviews, tokens
from cnnjax.errors import UserError


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The CAT, sat!", "the cat , sat !"),
        ("isn't they'll we've you're he'd it's", "is n't they 'll we 've you 're he 'd it 's"),
        ("a - b ... c: $3.50; caf\xe9 (why?)", "a b c 3 50 caf ( why ? )"),
        ("  `quoted'  ", "`quoted'"),
        ("...", ""),
    ],
)
def test_words_as_in_the_papers_code(sentence: str, expected: str) -> None:
    assert " ".join(tokens(sentence)) == expected


def numbered(count: int) -> Corpus:
    """Sentences of one word, each another; the label is the remainder by 2."""
    ids = np.arange(1, count + 1, dtype=np.int32)[:, None]
    return Corpus(tuple(map(str, range(count))), ids, (np.arange(count) % 2).astype(np.int32), ("even", "odd"))


def test_each_sentence_is_tested_on_once_and_never_trained_on_there() -> None:
    everything = numbered(103)
    tested = []
    for number in range(10):
        part = fold(everything, number, seed=3)
        train, test = part.train_images[:, 0], part.test_images[:, 0]
        assert sorted([*train, *test]) == list(range(1, 104)) and len(test) in (10, 11)
        np.testing.assert_array_equal(part.train_labels, (train - 1) % 2)
        np.testing.assert_array_equal(part.test_labels, (test - 1) % 2)
        tested += list(test)
    assert sorted(tested) == list(range(1, 104))


def test_a_fold_is_a_function_of_the_seed_and_its_number() -> None:
    def test_of(number: int, seed: int) -> list[int]:
        return fold(numbered(103), number, seed).test_images[:, 0].tolist()

    assert test_of(4, 0) == test_of(4, 0) != test_of(4, 1)
    with pytest.raises(UserError, match=r"fold must be between 0 and 9, was 10\."):
        test_of(10, 0)


def test_the_two_files(tmp_path: Path) -> None:
    """Latin-1, a sentence a line; the byte 85, which Unicode knows as a line's end, ends none."""
    (tmp_path / "rt-polarity.neg").write_bytes(b"too dull\x85 too long . \nna\xefve\n")
    (tmp_path / "rt-polarity.pos").write_bytes(b"not dull\n")
    found = movie_reviews(tmp_path)
    assert found.words == ("too", "dull", "long", "na", "ve", "not") and found.class_names == ("negative", "positive")
    np.testing.assert_array_equal(found.ids[:, 4:-4], [[1, 2, 1, 3], [4, 5, 0, 0], [6, 2, 0, 0]])
    assert not found.ids[:, :4].any() and not found.ids[:, -4:].any() and found.ids.dtype == np.int32
    np.testing.assert_array_equal(found.labels, [0, 0, 1])


def test_absent_files_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^`data_dir` must be the folder of rt-polarity.neg and .*: get https://www.cs"
    ):
        movie_reviews(None)
    (tmp_path / "rt-polarity.neg").write_text("dull\n")
    with pytest.raises(UserError, match=r"rt-polarity.pos cannot be read \(No such file .*: get https://www.cs"):
        movie_reviews(tmp_path)


def test_a_corpus_of_nothing_is_empty() -> None:
    assert corpus([[], []], ("a", "b")).ids.shape == (0, 2 * sentences.MARGIN)


@pytest.mark.skipif("MR_DATA_DIR" not in os.environ, reason="needs the movie reviews: set MR_DATA_DIR to their folder")
def test_the_movie_reviews_have_the_published_counts() -> None:
    """Kim 2014, table 1: 10,662 sentences and 18,765 words; the longest of his code has 56."""
    found = movie_reviews(os.environ["MR_DATA_DIR"])
    assert len(found.words) == 18_765 and found.ids.shape == (10_662, 56 + 8)
    assert found.labels.sum() == 5_331 and found.ids.max() == 18_765
    assert round((found.ids > 0).sum() / 10_662) == 20  # the mean length of table 1
