"""Data sets of image files in folders, one per class."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnnjax.data import cache, memory
from cnnjax.data.dataset import Dataset, is_for_test
from cnnjax.data.images import EXTENSIONS, decode, shape_of_file
from cnnjax.data.preprocess import Size, height_and_width, resize_image
from cnnjax.errors import UserError

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Where test images are looked for, beside the folder train; the first that is there counts."""

_CACHE_FORMAT = 1  # raise it when the arrays in the cache change their meaning


class _File(NamedTuple):
    path: Path
    label: int


def load_folder(
    folder: str | os.PathLike,
    size: Size | None = None,
    channels: int | None = None,
    test_share: float | None = None,
) -> Dataset:
    """Loads the images of a folder.

    They are in `folder/train/CLASS/` and `folder/test/CLASS/` (or `val`); or in `folder/CLASS/`, and `test_share` parts
    them. Files in deeper folders count; those that are no images by their names do not. Classes are ordered by name, by
    number where all are numbers. Decoded images are cached.

    Args:
      folder: the folder.
      size: to which `resize` brings the images; without it they must have one size.
      channels: 1 or 3; by default 1 where all images are gray.
      test_share: which share of the images is for testing, where no folder is. An image's path decides, so images that
        are added later leave the others where they are.

    Returns:
      The training and test examples.

    Raises:
      UserError: no such folder, or no classes or one in it; an empty class; no test part; a damaged file;
        images that differ in size where `size` is None, or are too large for memory.
    """
    root = Path(folder).expanduser()
    name = f"folder:{folder}"
    if not root.is_dir():
        raise UserError(f"The data set {name} cannot be loaded: {root.absolute()} is not an existing folder.")
    parts, class_names = _find(root, test_share)
    path = _cache_path(root, parts, size, channels)
    arrays = cache.read(path)
    if arrays is None:
        shape = _common_shape(name, [file.path for part in parts.values() for file in part], size, channels)
        memory.check_images(sum(map(len, parts.values())), *shape, name)
        arrays = {f"{part}_images": _decode(files, shape, size, part) for part, files in parts.items()}
        cache.write(path, arrays)
    labels = {part: np.array([file.label for file in files], np.int32) for part, files in parts.items()}
    return Dataset(name, arrays["train_images"], labels["train"], arrays["test_images"], labels["test"], class_names)


def _find(root: Path, test_share: float | None) -> tuple[dict[str, list[_File]], tuple[str, ...]]:
    """Returns the files for training and testing, and the names of the classes."""
    apart = bool(_subfolders(root / "train"))
    training = root / "train" if apart else root
    class_names = _in_order(_subfolders(training))
    if len(class_names) < 2:
        raise UserError(
            f"{training} has {len(class_names) or 'no'} folder{'s' * (not class_names)} of images; "
            "it must have one for each class, at least two."
        )
    labels = {name: label for label, name in enumerate(class_names)}
    files = _files_of_classes(training, labels)
    empty = [name for name, label in labels.items() if all(file.label != label for file in files)]
    if empty:
        raise UserError(f"The class folder {training / empty[0]} holds no image files; fill it or remove it.")

    testing = next((root / name for name in TEST_FOLDERS if apart and (root / name).is_dir()), None)
    if testing is not None:
        if test_share is not None:
            raise UserError(
                f"`test_share` was {test_share}, but {testing} holds the test images: leave one of them out."
            )
        parts = {"train": files, "test": _test_files(testing, labels)}
    elif test_share is None:
        raise UserError(
            f"{root} has no folder of test images beside its training images; make "
            f"{root / 'train'} and {root / 'test'}, or say with `test_share` which share of the images is for testing."
        )
    else:
        parts = {"train": [], "test": []}
        for file in files:
            part = "test" if is_for_test(file.path.relative_to(training).as_posix(), test_share) else "train"
            parts[part].append(file)
        _check_share(root, parts, class_names, test_share)
    return parts, class_names


def _test_files(testing: Path, labels: dict[str, int]) -> list[_File]:
    """Returns the test files, whose classes must be among those of training."""
    unknown = [name for name in _in_order(_subfolders(testing)) if name not in labels]
    if unknown:
        raise UserError(f"The class folder {testing / unknown[0]} has no counterpart among the training images.")
    files = _files_of_classes(testing, {name: label for name, label in labels.items() if (testing / name).is_dir()})
    if not files:
        raise UserError(f"{testing} holds no image files in folders of classes; fill it or remove it.")
    return files


def _check_share(root: Path, parts: dict[str, list[_File]], class_names: Sequence[str], test_share: float) -> None:
    """Raises UserError where no test images, or none to train a class on, fell to their part."""
    trained = {file.label for file in parts["train"]}
    missing = [name for label, name in enumerate(class_names) if label not in trained]
    if missing or not parts["test"]:
        what = f"no training images of class {missing[0]}" if missing else "no test images"
        raise UserError(f"test_share={test_share} leaves {what} in {root}; choose another share or add images.")


def _subfolders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder that are not hidden; none where it does not exist."""
    if not folder.is_dir():
        return []
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _in_order(names: list[str]) -> tuple[str, ...]:
    """Orders names of classes: numbers by value, others by their letters."""
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))


def _files_of_classes(folder: Path, labels: dict[str, int]) -> list[_File]:
    """Returns all image files below the folders of classes, ordered by class and path."""
    found = []
    for name, label in labels.items():
        paths = [
            Path(base, file)
            for base, _, files in os.walk(folder / name, followlinks=True)
            for file in files
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in EXTENSIONS
        ]
        found += [_File(path, label) for path in sorted(paths)]
    return found


def _cache_path(root: Path, parts: dict[str, list[_File]], size: Size | None, channels: int | None) -> Path:
    """Returns a path in the cache that changes when a file does, its part, or what is wanted of it."""
    files = []
    for part, members in parts.items():
        for path, label in members:
            try:
                status = os.stat(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}).") from None
            files.append((part, str(path.relative_to(root)), label, status.st_size, status.st_mtime_ns))
    wanted = [_CACHE_FORMAT, str(root.resolve()), files, size if size is None else height_and_width(size), channels]
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    return cache.directory() / f"folder-{root.resolve().name}-{key}.npz"


def _common_shape(name: str, paths: Sequence[Path], size: Size | None, channels: int | None) -> tuple[int, int, int]:
    """Returns (height, width, channels) of the arrays to be made."""
    from tqdm import tqdm

    shapes = [shape_of_file(path) for path in tqdm(paths, desc=f"measuring {name}", delay=2, leave=False, disable=None)]
    deepest = channels or max(shape[2] for shape in shapes)
    if size is not None:
        return (*height_and_width(size), deepest)
    height, width = shapes[0][:2]
    for path, shape in zip(paths, shapes, strict=True):
        if shape[:2] != (height, width):
            raise UserError(
                f"The images of {name} differ in size: {paths[0]} has {height}x{width} pixels, {path} "
                f"{shape[0]}x{shape[1]}. Give an image size, to which they are resized."
            )
    return height, width, deepest


def _decode(files: Sequence[_File], shape: tuple[int, int, int], size: Size | None, part: str) -> np.ndarray:
    """Decodes and resizes files: `(N, *shape)` uint8."""
    from tqdm import tqdm

    images = np.empty((len(files), *shape), np.uint8)
    progress = tqdm(files, desc=f"decoding {part} images", delay=2, leave=False, disable=None)
    for row, file in enumerate(progress):
        image = decode(file.path, shape[2])
        images[row] = image if size is None else resize_image(image, size)
    return images
