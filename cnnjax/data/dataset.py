"""A data set in memory, and a validation set held out of it."""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cnnjax.data import rng
from cnnjax.errors import UserError


class Dataset(NamedTuple):
    """A data set in memory, on the host.

    Attributes:
      name: as given to `load_dataset`.
      train_images: `(N, H, W, C)` uint8, C is 1 or 3; for sentences `(N, L)` int32, see `Corpus`.
      train_labels: `(N,)` int32, each in `0..len(class_names) - 1`.
      test_images: like `train_images`.
      test_labels: like `train_labels`.
      class_names: one name per class.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def hold_out(dataset: Dataset, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Holds out random training examples: a function of (dataset, validation, seed) alone.

    Args:
      dataset: its test part is not looked at.
      validation: number of examples to hold out; 0 holds out none.
      seed: the run's seed.

    Returns:
      `(train_images, train_labels, validation_images, validation_labels)`, each in the data set's order.

    Raises:
      UserError: `validation` is negative or leaves nothing to train on.
    """
    n = len(dataset.train_labels)
    if not 0 <= validation < n:
        raise UserError(
            f"{validation} examples were to be held out for validation; {dataset.name} has {n} training "
            f"examples, so the number must be between 0 and {n - 1}."
        )
    images, labels = dataset.train_images, dataset.train_labels
    if not validation:  # without a copy
        return images, labels, images[:0], labels[:0]
    held = held_out(n, validation, seed)
    return images[~held], labels[~held], images[held], labels[held]


def held_out(n: int, count: int, seed: int) -> np.ndarray:
    """Draws which of n training examples are held out, `(n,)` bool: a function of (n, count, seed) alone."""
    held = np.zeros(n, bool)
    held[np.asarray(jax.random.permutation(rng.key(seed, rng.HOLD_OUT), n))[:count]] = True
    return held


CHARACTERS = frozenset(
    {"digits", "mnist", "emnist", "kmnist", "mnist_corrupted", "binarized_mnist", "svhn_cropped", "omniglot",
     "binary_alpha_digits", "cmaterdb"}
)  # fmt: skip
"""Data sets of digits, letters and other characters, by the names of TFDS."""


def may_mirror(name: str, class_names: Sequence[str] = ()) -> bool:
    """Returns False for images of characters, which mean nothing or another thing when mirrored.

    Those are the data sets of `CHARACTERS`, and all whose classes are named by numbers or single characters only.

    Args:
      name: of the data set, as for `load_dataset`: `emnist/letters`, `folder:photos`, ...
      class_names: its classes.

    Example:
      >>> may_mirror("cifar10", ["airplane", "automobile"]), may_mirror("folder:scans", ["a", "b"])
      (True, False)
    """
    if re.split("[/:]", name)[0] in CHARACTERS:
        return False
    return not class_names or not all(len(one) == 1 or one.isdigit() for one in class_names)


def is_for_test(name: str, share: float) -> bool:
    """Returns True for a share of all names, always the same ones: by a hash, not by chance.

    Raises:
      UserError: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise UserError(f"`test_share` must be between 0 and 1, was {share}.")
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
