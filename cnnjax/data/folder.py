"""Data sets of image files in folders, one per class."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax.data import cache, memory
from cnnjax.data.damage import CorruptExample, named
from cnnjax.data.dataset import Dataset
from cnnjax.data.folder_files import Files, find
from cnnjax.data.images import decode, shape_of_file
from cnnjax.data.preprocess import Size, height_and_width, resize_image
from cnnjax.data.reading import ImageSource, OpenDataset, Record, evenly_spaced
from cnnjax.errors import UserError

MOST_MEASURED = 2048
"""Files whose size and channels are looked at when a folder is opened, evenly spaced."""

_CACHE_FORMAT = 1  # raise it when the arrays in the cache change their meaning


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
    name = f"folder:{folder}"
    root, parts, class_names = find(folder, test_share)
    path = _cache_path(root, parts, size, channels)
    arrays = cache.read(path)
    if arrays is None:
        shape = _common_shape(name, [path for files in parts.values() for path in files.paths], size, channels)
        memory.check_images(sum(map(len, parts.values())), *shape, name)
        arrays = {f"{part}_images": _decode(files.paths, shape, size, part) for part, files in parts.items()}
        cache.write(path, arrays)
    train, test = parts["train"].labels, parts["test"].labels
    return Dataset(name, arrays["train_images"], train, arrays["test_images"], test, class_names)


class FolderSource(ImageSource):
    """Image files, see `ImageSource`.

    Args:
      files: of the part.
      shape: of the images, see `ImageSource`.
    """

    def __init__(self, files: Files, shape: tuple[int | None, int | None, int]):
        self._files, self.shape = files, shape

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Record:
        """Reads a file."""
        path = self._files.paths[index]
        with named(path), open(path, "rb") as file:
            return Record(file.read(), self._files.labels[index], path)


def open_folder(folder: str | os.PathLike, test_share: float | None = None) -> OpenDataset:
    """Finds the images of a folder, see `load_folder`; they are read when they are needed.

    Whether they have one size, and are all gray, is told by 2,048 of them, evenly spaced; by all where there are fewer.
    Those that cannot be read are not asked.

    Raises:
      UserError: as for `load_folder`; or none of the files that are looked at can be read.
    """
    _, parts, class_names = find(folder, test_share)
    paths = [path for files in parts.values() for path in files.paths]
    shape = _stored_shape([paths[i] for i in evenly_spaced(len(paths), MOST_MEASURED)])
    train, test = FolderSource(parts["train"], shape), FolderSource(parts["test"], shape)
    return OpenDataset(f"folder:{folder}", train, test, class_names)


def _stored_shape(paths: Sequence[str]) -> tuple[int | None, int | None, int]:
    """Returns (height, width, channels) of image files; height and width are None where they differ."""
    shapes, problem = [], None
    for path in paths:
        try:
            shapes.append(shape_of_file(path))
        except CorruptExample as error:
            problem = problem or error
    if not shapes and problem:
        raise UserError(f"None of the image files that were looked at can be read. {problem}") from problem
    deepest = max(shape[2] for shape in shapes)
    sizes = {shape[:2] for shape in shapes}
    return (*(sizes.pop() if len(sizes) == 1 else (None, None)), deepest)


def _cache_path(root: Path, parts: dict[str, Files], size: Size | None, channels: int | None) -> Path:
    """Returns a path in the cache that changes when a file does, its part, or what is wanted of it."""
    files = []
    for part, members in parts.items():
        for path, label in zip(members.paths, members.labels.tolist(), strict=True):
            try:
                status = os.stat(path)
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}).") from None
            files.append((part, os.path.relpath(path, root), label, status.st_size, status.st_mtime_ns))
    wanted = [_CACHE_FORMAT, str(root.resolve()), files, size if size is None else height_and_width(size), channels]
    key = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
    return cache.directory() / f"folder-{root.resolve().name}-{key}.npz"


def _common_shape(name: str, paths: Sequence[str], size: Size | None, channels: int | None) -> tuple[int, int, int]:
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


def _decode(paths: Sequence[str], shape: tuple[int, int, int], size: Size | None, part: str) -> np.ndarray:
    """Decodes and resizes files: `(N, *shape)` uint8."""
    from tqdm import tqdm

    images = np.empty((len(paths), *shape), np.uint8)
    progress = tqdm(paths, desc=f"decoding {part} images", delay=2, leave=False, disable=None)
    for row, path in enumerate(progress):
        image = decode(path, shape[2])
        images[row] = image if size is None else resize_image(image, size)
    return images
