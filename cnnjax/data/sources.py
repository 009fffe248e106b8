"""Image-classification data sets as arrays: the embedded digits, and whatever TFDS has under a name."""

import os
from importlib import resources
from typing import NamedTuple

import jax
import numpy as np

from cnnjax.data import rng
from cnnjax.errors import UserError

DIGIT_BOX = 28
"""Small images are enlarged by the largest whole factor that keeps them within this many pixels."""

_DIGITS_TEST_ROWS_PER_CLASS = 36


class Dataset(NamedTuple):
    """A data set in memory, on the host.

    Attributes:
      name: as :func:`load` took it.
      train_images, test_images: (N, H, W, C) uint8, C is 1 or 3; of sentences (N, L) int32, see :class:`Corpus`.
      train_labels, test_labels: (N,) int32, each in ``0..len(class_names) - 1``.
      class_names: one name per class.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]


def load(name: str, data_dir: str | os.PathLike | None = None, size: int | None = None) -> Dataset:
    """The data set of that name: ``digits``, or an image-classification data set of TFDS.

    ``digits`` comes with the package.  Others are read from the array_record files that TFDS prepared, or are
    prepared first when TensorFlow is installed and there is a network; what was decoded once is cached.

    Args:
      name: ``digits``, or what ``tfds.builder`` takes: ``mnist``, ``emnist/letters``, ``mnist:3.0.1``, ...
      data_dir: where TFDS keeps its data sets; by default ``$TFDS_DATA_DIR`` or ``~/tensorflow_datasets``.
      size: brings the images to ``size`` x ``size`` by :func:`resize`, so that they need not be of one size.

    Raises:
      UserError: no such data set; it is not prepared and cannot be; it has no images with a label, or not of
        one size and no ``size`` is given; no train and test splits; its files are damaged; it does not fit
        in memory.
    """
    if name == "digits":
        dataset = digits()
    else:
        from cnnjax.data import tfds_source  # not before it is needed: it costs more than the rest of cnnjax.data

        dataset = Dataset(name, *tfds_source.load(name, data_dir, size))
    if size is None:
        return dataset
    return dataset._replace(
        train_images=resize(dataset.train_images, size), test_images=resize(dataset.test_images, size)
    )


def digits() -> Dataset:
    """1,797 scanned digits, (8, 8, 1), the grey values 0..16 brought to 0..255.

    Test are the first 36 examples of each class in file order (360), train the other 1,437.

    References:
      E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (see digits.LICENSE).
    """
    with resources.files("cnnjax.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int32)
    images = ((images.astype(np.int32) * 255 + 8) // 16).astype(np.uint8)[..., None]
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[:_DIGITS_TEST_ROWS_PER_CLASS]] = True
    names = tuple(str(label) for label in range(10))
    return Dataset("digits", images[~test], labels[~test], images[test], labels[test], names)


def to_canvas(images: np.ndarray, size: int) -> np.ndarray:
    """Brings images to ``size`` x ``size``: enlarged if small, centred on a black (0) canvas.

    The factor is ``max(1, min(DIGIT_BOX, size) // max(H, W))``, applied with Pillow's bilinear filter; so
    8 x 8 becomes 24 x 24 with a border of 4 on a canvas of 32, 28 x 28 gets a border of 2, and 32 x 32 stays.
    An odd remainder goes to the bottom and the right.

    Args:
      images: (N, H, W, C) uint8.
      size: the side of the canvas.

    Returns:
      (N, size, size, C) uint8.

    Raises:
      UserError: the images are larger than the canvas.
    """
    n, height, width, channels = images.shape
    if max(height, width) > size:
        raise UserError(
            f"The images are {height} x {width} pixels; this network takes at most {size} x {size}. "
            "Choose a data set of smaller images."
        )
    if height == width == size:
        return images
    images = _enlarge(images, max(1, min(DIGIT_BOX, size) // max(height, width)))
    height, width = images.shape[1:3]
    top, left = (size - height) // 2, (size - width) // 2
    canvas = np.zeros((n, size, size, channels), np.uint8)
    canvas[:, top : top + height, left : left + width] = images
    return canvas


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Brings the shorter side to ``size`` pixels, with Pillow's bilinear filter, and cuts out the middle.

    Args:
      images: (N, H, W, C) uint8.
      size: the side of the result.

    Returns:
      (N, size, size, C) uint8; images of that size already are given back as they are.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 2.
    """
    if images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    n, height, width, channels = images.shape
    short = min(height, width)
    side = height * size // short, width * size // short
    top, left = (side[0] - size) // 2, (side[1] - size) // 2
    resized = np.empty((n, size, size, channels), np.uint8)
    for image, out in zip(images, resized, strict=True):
        whole = Image.fromarray(image[..., 0] if channels == 1 else image)
        smaller = np.asarray(whole.resize(side[::-1], Image.Resampling.BILINEAR))
        out[...] = smaller.reshape(*side, channels)[top : top + size, left : left + size]
    return resized


def _enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """(N, H, W, C) uint8 -> (N, factor * H, factor * W, C) uint8, bilinear, each channel by itself."""
    if factor == 1:
        return images
    from PIL import Image

    n, height, width, channels = images.shape
    enlarged = np.empty((n, factor * height, factor * width, channels), np.uint8)
    for i in range(n):
        for c in range(channels):
            plane = Image.fromarray(images[i, :, :, c])
            size = (factor * width, factor * height)
            enlarged[i, :, :, c] = plane.resize(size, Image.Resampling.BILINEAR)
    return enlarged


def hold_out(dataset: Dataset, validation: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Takes ``validation`` training examples out, at random: a function of (dataset, validation, seed) alone.

    Args:
      dataset: its test part is not looked at.
      validation: how many examples to hold out; 0 holds out none.
      seed: the run's seed.

    Returns:
      ``(train_images, train_labels, validation_images, validation_labels)``, each in the data set's order.

    Raises:
      UserError: ``validation`` is negative or leaves nothing to train on.
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
    held = np.zeros(n, bool)
    order = np.asarray(jax.random.permutation(rng.key(seed, rng.HOLD_OUT), n))
    held[order[:validation]] = True
    return images[~held], labels[~held], images[held], labels[held]
