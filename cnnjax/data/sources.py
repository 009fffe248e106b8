"""Image-classification data sets by name: the embedded digits, and those of TFDS."""

import os
from importlib import resources

import numpy as np

from cnnjax.data.dataset import Dataset
from cnnjax.data.preprocess import resize

_DIGITS_TEST_IMAGES_PER_CLASS = 36


def load_dataset(name: str, data_dir: str | os.PathLike | None = None, size: int | None = None) -> Dataset:
    """Loads `digits`, or an image-classification data set of TFDS, into memory.

    `digits` comes with the package. The others are read from array_record files that TFDS prepared; they are
    prepared first where TensorFlow is installed and there is a network. Decoded images are cached.

    Args:
      name: `digits`, or what `tfds.builder` takes: `mnist`, `emnist/letters`, `mnist:3.0.1`, ...
      data_dir: where TFDS keeps its data sets; by default `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.
      size: side to which `resize` brings the images; with it the stored images may differ in size.

    Returns:
      The training and test examples.

    Raises:
      UserError: no such data set; it is not prepared and cannot be; it has no images with a label; the images
        differ in size and no `size` is given; no train and test splits; damaged files; too large for memory.
    """
    if name == "digits":
        dataset = digits()
    else:
        from cnnjax.data import tfds_source  # costs more than the rest of cnnjax.data

        dataset = Dataset(name, *tfds_source.load_tfds(name, data_dir, size))
    if size is None:
        return dataset
    return dataset._replace(
        train_images=resize(dataset.train_images, size), test_images=resize(dataset.test_images, size)
    )


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
