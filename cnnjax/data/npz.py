"""Data sets in a file of NumPy, with arrays of the names that Keras uses."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np

from cnnjax.data import memory
from cnnjax.data.dataset import Dataset, is_for_test
from cnnjax.errors import UserError

_CHUNK = 1000  # images converted at a time: floats take up to eight times the memory


def load_npz(path: str | os.PathLike, test_share: float | None = None) -> Dataset:
    """Loads the arrays x_train, y_train, x_test and y_test of a file that `np.savez` wrote, and class_names if there.

    Images are `(N, H, W)` or `(N, H, W, C)`, C is 1 or 3. uint8 is taken as it is; other integers must be in 0..255;
    floats must be in 0..1, and False and True are 0 and 1: they are multiplied by 255 and rounded. Labels are integers
    0, 1, ..., `(N,)` or `(N, 1)`. Classes without names are named by their numbers.

    Args:
      path: the file.
      test_share: which share of the training examples is for testing, where the file has no x_test and y_test. An
        example's number decides.

    Returns:
      The training and test examples.

    Raises:
      UserError: the file cannot be read or lacks an array; an array has another shape, dtype or range; there is one
        class, or one without training examples; or it is too large for memory.
    """
    file = Path(path).expanduser()
    arrays = _read(file)
    has_test = check_names(file, arrays.keys(), test_share)
    images, labels = _examples(arrays, "train", file)
    if has_test:
        test_images, test_labels = _examples(arrays, "test", file)
    else:
        test = share_for_test(len(images), test_share)
        test_images, test_labels, images, labels = images[test], labels[test], images[~test], labels[~test]
    class_names = class_names_of(arrays, labels, test_labels)
    check(file, labels, test_labels, class_names, images.shape, test_images.shape)
    return Dataset(f"npz:{path}", images, labels, test_images, test_labels, class_names)


def check_names(file: Path, names: Collection[str], test_share: float | None) -> bool:
    """Returns whether a file has test examples; raises UserError where arrays or `test_share` are lacking."""
    if not {"x_train", "y_train"} <= set(names):
        raise UserError(
            f"{file} has the arrays {', '.join(sorted(names)) or 'none'}; it must have x_train, "
            "y_train, x_test and y_test."
        )
    if {"x_test", "y_test"} & set(names):
        if test_share is not None:
            raise UserError(f"`test_share` was {test_share}, but {file} has test examples: leave one of them out.")
        if not {"x_test", "y_test"} <= set(names):
            raise UserError(f"{file} has one of x_test and y_test; it must have both or none.")
        return True
    if test_share is None:
        raise UserError(
            f"{file} has no x_test and y_test; add them, or say with `test_share` which share of the examples is for "
            "testing."
        )
    return False


def share_for_test(n: int, test_share: float | None) -> np.ndarray:
    """Returns which of n examples are for testing, `(n,)` bool: their numbers decide."""
    assert test_share is not None, "check_names asks for it"
    return np.array([is_for_test(str(row), test_share) for row in range(n)], bool)


def _read(file: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file, if they fit into memory."""
    with clear_errors(file):
        with zipfile.ZipFile(file) as archive:
            memory.check(sum(member.file_size for member in archive.infolist()), f"The arrays of {file}")
        with np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}


@contextlib.contextmanager
def clear_errors(file: Path) -> Iterator[None]:
    """Raises whatever reading an npz file raises as a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror or error}).") from None
    except UserError:
        raise
    except Exception as error:  # whatever a damaged zip file may cause; arrays of Python objects
        raise UserError(f"{file} cannot be read ({error}); it must be a file that np.savez wrote.") from None


def _examples(arrays: Mapping[str, np.ndarray], part: str, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns images and labels of a part, as many of the one as of the other."""
    x = arrays[f"x_{part}"]
    return to_images(x, f"x_{part} of {file}"), labels_of(arrays, part, file, len(x))


def labels_of(arrays: Mapping[str, np.ndarray], part: str, file: Path, images: int) -> np.ndarray:
    """Returns the labels of a part, `(N,)` int32, as many as `images`."""
    labels = _labels(arrays[f"y_{part}"], f"y_{part} of {file}")
    if images != len(labels):
        raise UserError(f"x_{part} of {file} has {images} images, y_{part} {len(labels)} labels; both must agree.")
    return labels


def to_images(x: np.ndarray, name: str) -> np.ndarray:
    """Returns images as uint8 `(N, H, W, C)`."""
    check_images(x.shape, x.dtype, name)
    if x.ndim == 3:
        x = x[..., None]
    if x.dtype == np.uint8:
        return x
    kind = x.dtype.kind
    low, high, most = x.min(), x.max(), 255 if kind in "ui" else 1
    if not (low >= 0 and high <= most):  # also for NaN
        raise UserError(
            f"{name} has dtype {x.dtype} and values from {low} to {high}; they must be in 0..{most}: scale them, or "
            "store them as uint8."
        )
    images = np.empty(x.shape, np.uint8)
    for start in range(0, len(x), _CHUNK):
        pixels = x[start : start + _CHUNK]
        images[start : start + _CHUNK] = pixels if kind in "ui" else np.rint(pixels.astype(np.float64) * 255)
    return images


def check_images(shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    """Raises UserError where an array cannot be images."""
    channels = shape[3] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or channels not in (1, 3) or 0 in shape:
        advice = ""
        if len(shape) == 4 and shape[1] in (1, 3):
            advice = " Move the channels to the end: np.moveaxis(x, 1, -1)."
        raise UserError(
            f"{name} has shape {shape}; it must be (N, H, W), or (N, H, W, C) with C 1 or 3, and have an image.{advice}"
        )
    if dtype.kind not in "buif":
        raise UserError(f"{name} has dtype {dtype}; it must be uint8, integers in 0..255, or floats in 0..1.")


def _labels(y: np.ndarray, name: str) -> np.ndarray:
    """Returns labels as int32 `(N,)`."""
    flat = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if flat.ndim != 1 or flat.dtype.kind not in "iu":
        advice = " Turn one-hot rows into classes: y.argmax(-1)." if y.ndim == 2 else ""
        raise UserError(
            f"{name} has shape {y.shape} and dtype {y.dtype}; it must be integers of shape (N,) or (N, 1).{advice}"
        )
    if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < 2**31:
        raise UserError(f"{name} has labels from {flat.min()} to {flat.max()}; they must be 0, 1, ...")
    return flat.astype(np.int32)


def class_names_of(arrays: Mapping[str, np.ndarray], *labels: np.ndarray) -> tuple[str, ...]:
    """Returns the names in the file, or else the classes' numbers."""
    if "class_names" in arrays:
        return tuple(map(str, arrays["class_names"].ravel()))
    return tuple(map(str, range(1 + max(int(part.max(initial=-1)) for part in labels))))


def check(
    file: Path,
    labels: np.ndarray,
    test_labels: np.ndarray,
    class_names: tuple[str, ...],
    shape: tuple[int, ...],
    test_shape: tuple[int, ...],
) -> None:
    """Raises UserError where the arrays do not fit together: labels of both parts, names, and shapes of the images."""
    for part, some in (("train", labels), ("test", test_labels)):
        if not len(some):
            raise UserError(f"{file} gives no {part} examples; add some, or choose another `test_share`.")
    if shape[1:] != test_shape[1:]:
        raise UserError(f"x_train of {file} has images of shape {shape[1:]}, x_test {test_shape[1:]}; they must agree.")
    classes = len(class_names)
    highest = max(int(labels.max()), int(test_labels.max()))
    if highest >= classes:
        raise UserError(f"{file} has {classes} class_names and a label {highest}; labels must be below {classes}.")
    if classes < 2:
        raise UserError(f"{file} has one class; it must have at least two.")
    empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    if len(empty):
        raise UserError(
            f"Class {empty[0]} of {file} has no training example; the labels must be 0 to {classes - 1}, each of them "
            "there."
        )
