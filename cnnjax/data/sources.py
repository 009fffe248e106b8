"""Image-classification data sets by name: the embedded digits, those of TFDS, folders of images, npz files."""

import os
from importlib import resources

import numpy as np

from cnnjax.data import memory
from cnnjax.data.dataset import Dataset
from cnnjax.data.folder import load_folder, open_folder
from cnnjax.data.npz import load_npz
from cnnjax.data.npz_rows import open_npz
from cnnjax.data.preprocess import Size, height_and_width, resize, to_channels
from cnnjax.data.reading import ArraySource, OpenDataset
from cnnjax.errors import UserError

_DIGITS_TEST_IMAGES_PER_CLASS = 36


def load_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    size: Size | None = None,
    *,
    channels: int | None = None,
    test_share: float | None = None,
) -> Dataset:
    """Loads an image-classification data set into memory.

    `digits` comes with the package. `folder:DIR` are image files in folders named by their classes, see `load_folder`;
    `npz:FILE` are arrays of NumPy, see `load_npz`. Other names are those of TFDS: they are read from array_record files
    that TFDS prepared; they are prepared first where TensorFlow is installed and there is a network. Decoded images are
    cached.

    Args:
      name: `digits`, `folder:DIR`, `npz:FILE`, or what `tfds.builder` takes: `mnist`, `emnist/letters`,
        `mnist:3.0.1`, ...
      data_dir: where TFDS keeps its data sets; by default `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      size: to which `resize` brings the images; with it the stored images may differ in size.
      channels: 1 or 3, to which `to_channels` brings the images; by default as they are stored.
      test_share: which share of the images of a folder or npz file is for testing, where they have no test part.

    Returns:
      The training and test examples.

    Raises:
      UserError: no such data set; it is not prepared and cannot be; it has no images with a label; the images
        differ in size and no `size` is given; no train and test splits; damaged files; too large for memory.
    """
    kind, where = _kind(name, test_share)
    if kind == "folder":
        dataset = load_folder(where, size, channels, test_share)
    elif kind == "npz":
        dataset = load_npz(where, test_share)
    elif name == "digits":
        dataset = digits()
    else:
        from cnnjax.data import tfds_source  # costs more than the rest of cnnjax.data

        dataset = Dataset(name, *tfds_source.load_tfds(name, data_dir, size))
    train, test = dataset.train_images, dataset.test_images
    height, width = wanted = height_and_width(train.shape[1:3] if size is None else size)
    depth = channels or train.shape[-1]
    if train.shape[1:] != (*wanted, depth):
        memory.check_images(len(train) + len(test), height, width, depth, name)
    return dataset._replace(train_images=_convert(train, wanted, depth), test_images=_convert(test, wanted, depth))


def open_dataset(
    name: str, data_dir: str | os.PathLike | None = None, *, test_share: float | None = None
) -> OpenDataset:
    """Opens an image-classification data set, whose images are read and decoded one by one when they are needed.

    The examples are those of `load_dataset`, in its order. They may differ in size.

    Args:
      name: as for `load_dataset`.
      data_dir: likewise.
      test_share: likewise.

    Returns:
      The training and test examples, to be brought to one size by `held_images` or `random_resized_crops`.

    Raises:
      UserError: no such data set; it is not prepared and cannot be; it has no images with a label; no train and test
        splits; a record file is missing, damaged or too short.
    """
    kind, where = _kind(name, test_share)
    if kind == "folder":
        return open_folder(where, test_share)
    if kind == "npz":
        return open_npz(where, test_share)
    if name == "digits":
        loaded = digits()
        train = ArraySource("the training digits", loaded.train_images, loaded.train_labels)
        return OpenDataset(name, train, ArraySource("the test digits", *loaded[3:5]), loaded.class_names)
    from cnnjax.data import tfds_source  # costs more than the rest of cnnjax.data

    return tfds_source.open_tfds(name, data_dir)


def _kind(name: str, test_share: float | None) -> tuple[str, str]:
    """Returns what a data set is, and its path where it has one."""
    kind, _, where = name.partition(":")
    if test_share is not None and kind not in ("folder", "npz"):
        raise UserError(
            f"`test_share` was {test_share}, but {name} has a test part of its own: leave `test_share` out."
        )
    if kind in ("folder", "npz") and not where:
        raise UserError(f"The data set {name!r} lacks its path: it must be folder:DIR or npz:FILE.")
    return kind, where


def _convert(images: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """Returns images resized and turned to gray or colour: gray first, colour last, as that takes less memory."""
    if channels < images.shape[-1]:
        images = to_channels(images, channels)
    return to_channels(resize(images, size), channels)


def digits() -> Dataset:
    """Returns 1,797 scanned digits, (8, 8, 1), their gray values 0..16 scaled to 0..255.

    The first 36 examples of each class in file order are the test set (360), the other 1,437 the training set.

    References:
      E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (see digits.LICENSE).
    """
    with resources.files("cnnjax.data").joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int32)
    images = ((images.astype(np.int32) * 255 + 8) // 16).astype(np.uint8)[..., None]
    test = np.zeros(len(labels), bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[:_DIGITS_TEST_IMAGES_PER_CLASS]] = True
    names = tuple(str(label) for label in range(10))
    return Dataset("digits", images[~test], labels[~test], images[test], labels[test], names)
