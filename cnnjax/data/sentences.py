"""Labelled sentences as word ids: movie reviews, and cross-validation folds."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from cnnjax.data import rng
from cnnjax.data.dataset import Dataset
from cnnjax.errors import UserError

FOLDS = 10
#: Padding tokens before each sentence and, at least, after it: a window of 5 words then covers each word 5 times.
MARGIN = 4
#: The files of the movie reviews, by class.
REVIEWS = {"negative": "rt-polarity.neg", "positive": "rt-polarity.pos"}
REVIEWS_HOME = "https://www.cs.cornell.edu/people/pabo/movie-review-data/rt-polaritydata.tar.gz"


class Corpus(NamedTuple):
    """Sentences in memory, on the host.

    Attributes:
      words: the vocabulary; the word `words[i]` has the id `i + 1`.
      ids: `(N, L)` int32, one sentence per row; 0 is padding.
      labels: `(N,)` int32, each in `0..len(class_names) - 1`.
      class_names: one name per class.
    """

    words: tuple[str, ...]
    ids: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def movie_reviews(data_dir: str | os.PathLike | None) -> Corpus:
    """Reads 5,331 negative and 5,331 positive sentences from movie reviews.

    They have 18,765 different words.

    Args:
      data_dir: folder of the two files, `rt-polarity.neg` and `rt-polarity.pos`: one sentence per line, latin-1.

    Returns:
      The sentences, the negative ones first.

    Raises:
      UserError: no folder was given, or a file cannot be read.

    References:
      Pang, Lee, Seeing stars, ACL 2005: the sentence polarity data set v1.0.
    """
    if data_dir is None:
        raise UserError(
            f"`data_dir` must be the folder of {' and '.join(REVIEWS.values())}: get {REVIEWS_HOME} and unpack it."
        )
    sentences = []
    for name in REVIEWS.values():
        path = Path(data_dir) / name
        try:
            text = path.read_text("latin-1")
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): get {REVIEWS_HOME}, unpack it, and give the folder of its "
                "two files as `data_dir`."
            ) from None
        # not splitlines: the byte 85, an ellipsis in this file, would end a line
        sentences.append([tokens(line) for line in text.split("\n") if line.strip()])
    return corpus(sentences, tuple(REVIEWS))


def tokens(sentence: str) -> list[str]:
    """Splits a sentence into words as Kim 2014 did.

    Words are in lower case; punctuation, 's, n't and the like are words of their own.

    All characters but letters, digits and ( ) , ! ? ' ` are dropped, full stops too.

    Example:
      >>> tokens("It's a film that doesn't, well, end (or so).")
      ['it', "'s", 'a', 'film', 'that', 'does', "n't", ',', 'well', ',', 'end', '(', 'or', 'so', ')']

    References:
      Kim, Convolutional neural networks for sentence classification, EMNLP 2014; the rules are those of its code.
    """
    sentence = re.sub(r"[^A-Za-z0-9(),!?'`]", " ", sentence)
    sentence = re.sub(r"('s|'ve|n't|'re|'d|'ll)", r" \1", sentence)
    sentence = re.sub(r"([,!()?])", r" \1 ", sentence)
    return sentence.lower().split()


def corpus(sentences: Sequence[Sequence[Sequence[str]]], class_names: tuple[str, ...]) -> Corpus:
    """Packs the sentences of each class into one array of word ids.

    `MARGIN` padding tokens stand on both sides of each.

    Words are numbered in the order of their first use. A row is as long as the longest sentence and its padding;
    shorter sentences have more padding at the end.

    Args:
      sentences: for each class its sentences, each a list of words.
      class_names: one name per class.

    Returns:
      The sentences of all classes, in the order given.

    Example:
      >>> corpus([[["a", "dull", "film"]], [["a", "film"]]], ("negative", "positive")).ids
      array([[0, 0, 0, 0, 1, 2, 3, 0, 0, 0, 0],
             [0, 0, 0, 0, 1, 3, 0, 0, 0, 0, 0]], dtype=int32)
    """
    rows = [row for of_class in sentences for row in of_class]
    numbers: dict[str, int] = {}
    for word in (word for row in rows for word in row):
        numbers.setdefault(word, len(numbers) + 1)
    ids = np.zeros((len(rows), max(map(len, rows), default=0) + 2 * MARGIN), np.int32)
    for sentence, row in zip(ids, rows, strict=True):
        sentence[MARGIN : MARGIN + len(row)] = [numbers[word] for word in row]
    labels = np.repeat(np.arange(len(sentences), dtype=np.int32), [len(of_class) for of_class in sentences])
    return Corpus(tuple(numbers), ids, labels, class_names)


def fold(sentences: Corpus, number: int, seed: int) -> Dataset:
    """Returns fold `number` of `FOLDS` as test set, the others as training set.

    The split is a function of (corpus, number, seed) alone. The examples are shuffled and cut into parts whose sizes
    differ by at most one; each example is tested on in one fold.

    Args:
      sentences: the whole corpus.
      number: which fold, from 0.
      seed: decides the shuffle.

    Returns:
      The corpus as training and test set.

    Raises:
      UserError: there is no such fold.
    """
    if not 0 <= number < FOLDS:
        raise UserError(f"fold must be between 0 and {FOLDS - 1}, was {number}.")
    order = np.asarray(jax.random.permutation(rng.key(seed, rng.FOLDS), len(sentences.labels)))
    testing = np.zeros(len(order), bool)
    testing[np.array_split(order, FOLDS)[number]] = True
    _, ids, labels, names = sentences
    return Dataset(f"fold {number}", ids[~testing], labels[~testing], ids[testing], labels[testing], names)
