"""The image files of a data set in folders, one folder per class: their parts and classes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cnnjax.data.dataset import is_for_test
from cnnjax.data.images import EXTENSIONS
from cnnjax.errors import UserError

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Where test images are looked for, beside the folder train; the first that is there counts."""


@dataclasses.dataclass(frozen=True)
class Files:
    """The image files of one part, ordered by class and path.

    Attributes:
      paths: of the files. Strings: a data set has millions.
      labels: their classes, `(N,)` int32.
    """

    paths: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def choose(self, chosen: np.ndarray) -> Files:
        """Returns some of the files, `chosen` is `(N,)` bool."""
        return Files([path for path, one in zip(self.paths, chosen, strict=True) if one], self.labels[chosen])


def find(folder: str | os.PathLike, test_share: float | None) -> tuple[Path, dict[str, Files], tuple[str, ...]]:
    """Finds the files for training and testing, see `load_folder`.

    Returns:
      The folder, the files by part, `train` and `test`, and the names of the classes.

    Raises:
      UserError: no such folder, or no classes or one in it; an empty class; no test part.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"The data set folder:{folder} cannot be loaded: {root.absolute()} is not an existing folder.")
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
    empty = np.flatnonzero(np.bincount(files.labels, minlength=len(labels)) == 0)
    if len(empty):
        where = training / class_names[empty[0]]
        raise UserError(f"The class folder {where} holds no image files; fill it or remove it.")

    testing = next((root / name for name in TEST_FOLDERS if apart and (root / name).is_dir()), None)
    if testing is not None:
        if test_share is not None:
            raise UserError(
                f"`test_share` was {test_share}, but {testing} holds the test images: leave one of them out."
            )
        return root, {"train": files, "test": _test_files(testing, labels)}, class_names
    if test_share is None:
        raise UserError(
            f"{root} has no folder of test images beside its training images; make "
            f"{root / 'train'} and {root / 'test'}, or say with `test_share` which share of the images is for testing."
        )
    below = [Path(os.path.relpath(path, training)).as_posix() for path in files.paths]
    test = np.array([is_for_test(name, test_share) for name in below], bool)
    parts = {"train": files.choose(~test), "test": files.choose(test)}
    _check_share(root, parts, class_names, test_share)
    return root, parts, class_names


def _test_files(testing: Path, labels: dict[str, int]) -> Files:
    """Returns the test files, whose classes must be among those of training."""
    unknown = [name for name in _in_order(_subfolders(testing)) if name not in labels]
    if unknown:
        raise UserError(f"The class folder {testing / unknown[0]} has no counterpart among the training images.")
    files = _files_of_classes(testing, {name: label for name, label in labels.items() if (testing / name).is_dir()})
    if not len(files):
        raise UserError(f"{testing} holds no image files in folders of classes; fill it or remove it.")
    return files


def _check_share(root: Path, parts: dict[str, Files], class_names: Sequence[str], test_share: float) -> None:
    """Raises UserError where no test images, or none to train a class on, fell to their part."""
    missing = np.flatnonzero(np.bincount(parts["train"].labels, minlength=len(class_names)) == 0)
    if len(missing) or not len(parts["test"]):
        what = f"no training images of class {class_names[missing[0]]}" if len(missing) else "no test images"
        raise UserError(f"test_share={test_share} leaves {what} in {root}; choose another share or add images.")


def _subfolders(folder: Path) -> list[str]:
    """Returns the names of the folders in a folder that are not hidden; none where it does not exist."""
    if not folder.is_dir():
        return []
    return [entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")]


def _in_order(names: list[str]) -> tuple[str, ...]:
    """Orders names of classes: numbers by value, others by their letters."""
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))


def _files_of_classes(folder: Path, labels: dict[str, int]) -> Files:
    """Returns all image files below the folders of classes, ordered by class and path."""
    found: list[str] = []
    counts = []
    for name in labels:
        paths = sorted(_image_files(folder / name), key=lambda path: path.split(os.sep))
        found += paths
        counts.append(len(paths))
    return Files(found, np.repeat(np.array([*labels.values()], np.int32), counts))


def _image_files(folder: Path) -> Iterator[str]:
    for base, _, files in os.walk(folder, followlinks=True):
        for file in files:
            if not file.startswith(".") and os.path.splitext(file)[1].lower() in EXTENSIONS:
                yield os.path.join(base, file)
