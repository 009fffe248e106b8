"""Folders of image files: their two layouts, their cache, and what may be wrong with them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import folder, memory
from cnnjax.errors import UserError
from tests.data.picture_files import fill, save


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def parted(tmp_path: Path) -> Path:
    """cat and dog in train (3 and 2) and test (1 and 2)."""
    fill(tmp_path / "set" / "train", {"cat": 3, "dog": 2})
    fill(tmp_path / "set" / "test", {"cat": 1, "dog": 2})
    return tmp_path / "set"


def load(path: Path, size: int | None = None, **options) -> data.Dataset:
    return data.load_dataset(f"folder:{path}", None, size, **options)


def refused(path: Path, message: str, size: int | None = None, **options) -> None:
    with pytest.raises(UserError, match=message):
        load(path, size, **options)


@pytest.mark.parametrize("testing", ["test", "val", "valid", "validation"])
def test_parts_in_folders(parted: Path, testing: str) -> None:
    (parted / "test").rename(parted / testing)
    pets = load(parted)
    assert pets.name == f"folder:{parted}" and pets.class_names == ("cat", "dog")
    assert pets.train_images.shape == (5, 6, 5, 1) and pets.train_images.dtype == np.uint8
    assert pets.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101]
    assert pets.test_images[:, 5, 4, 0].tolist() == [0, 100, 101]
    assert pets.train_labels.tolist() == [0, 0, 0, 1, 1] and pets.test_labels.tolist() == [0, 1, 1]
    assert pets.train_labels.dtype == pets.test_labels.dtype == np.int32


def test_a_test_folder_wins_over_one_for_validation(parted: Path) -> None:
    fill(parted / "val", {"cat": 7})
    assert len(load(parted).test_labels) == 3


def test_deeper_files_count_and_others_do_not(parted: Path) -> None:
    save(parted / "train" / "dog" / "puppies" / "x.JPEG", (6, 5), 50)
    save(parted / "train" / "dog" / ".hidden.png", (9, 9), 0)
    (parted / "train" / "dog" / "Thumbs.db").write_text("no image")
    (parted / "train" / ".cache").mkdir()
    assert np.bincount(load(parted).train_labels).tolist() == [3, 3]


def test_numbers_are_ordered_by_value(tmp_path: Path) -> None:
    fill(tmp_path / "set" / "train", {"10": 1, "9": 1, "0": 1})
    fill(tmp_path / "set" / "test", {"9": 1})
    numbers = load(tmp_path / "set")
    assert numbers.class_names == ("0", "9", "10") and numbers.test_labels.tolist() == [1]
    assert not data.may_mirror(numbers.name, numbers.class_names)


@pytest.mark.parametrize("below", [".", "train"])
def test_a_share_for_testing_is_decided_by_the_paths(below: str, tmp_path: Path) -> None:
    root = tmp_path / "set"
    fill(root / below, {"cat": 60, "dog": 90})
    pets = load(root, test_share=0.2)
    assert len(pets.train_labels) + len(pets.test_labels) == 150 and 15 < len(pets.test_labels) < 45
    held = {(label, image.max()) for label, image in zip(pets.test_labels, pets.test_images, strict=True)}
    trained = {(label, image.max()) for label, image in zip(pets.train_labels, pets.train_images, strict=True)}
    assert len(held | trained) == 150 and not held & trained

    moved = tmp_path / "moved"
    root.rename(moved)
    save(moved / below / "dog" / "new.png", (6, 5), 255)
    again = load(moved, test_share=0.2)
    before = {(label, value) for label, value in held if value < 250}
    after = {(label, image.max()) for label, image in zip(again.test_labels, again.test_images, strict=True)}
    assert before <= after <= before | {(1, 255)}, "no image goes from one part to the other"
    larger = load(moved, test_share=0.4)
    assert len(larger.test_labels) > len(again.test_labels)


def test_images_of_many_sizes_are_resized(parted: Path) -> None:
    save(parted / "train" / "cat" / "wide.png", (8, 20), 7)
    pets = load(parted, 4)
    assert pets.train_images.shape == (6, 4, 4, 1) and pets.train_images[3, 0, 0, 0] == 7
    assert data.load_dataset(f"folder:{parted}", size=(4, 10)).test_images.shape == (3, 4, 10, 1)
    refused(
        parted,
        r"The images of folder:.* differ in size: .*000\.png has 6x5 pixels, .*wide\.png 8x20\. Give an image size",
    )


def test_gray_or_colour(parted: Path) -> None:
    assert load(parted, channels=3).train_images.shape == (5, 6, 5, 3)
    colour = np.full((6, 5, 3), [200, 0, 0], np.uint8)
    Image.fromarray(colour).save(parted / "test" / "cat" / "red.png")
    pets = load(parted)
    assert pets.train_images.shape == (5, 6, 5, 3) and (pets.train_images[2] == 2).all()
    np.testing.assert_array_equal(pets.test_images[1], colour)
    assert load(parted, channels=1).test_images[1].ravel().tolist() == [60] * 30


def test_the_second_load_comes_from_the_cache(parted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = load(parted)
    (file,) = (tmp_path / "cache" / "cnnjax").iterdir()
    decoded: list[Path] = []
    decode = folder.decode
    monkeypatch.setattr(folder, "decode", lambda path, channels: decoded.append(path) or decode(path, channels))
    second = load(parted)
    assert decoded == [] and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))

    file.write_bytes(file.read_bytes()[:-100])  # damaged
    with pytest.warns(UserWarning, match=file.name):
        load(parted)
    assert len(decoded) == 8
    os.utime(parted / "train" / "cat" / "001.png", ns=(0, 0))  # changed
    load(parted)
    assert len(decoded) == 16
    load(parted, 3)
    assert len(decoded) == 24


def test_missing_folders_and_classes(parted: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "nowhere is not an existing folder")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty has no folders of images; it must have one for each class, at least two")
    fill(tmp_path / "one", {"cat": 3})
    refused(tmp_path / "one", "one has 1 folder of images; it must have one for each class", test_share=0.5)
    (parted / "train" / "bird").mkdir()
    refused(parted, re.escape(f"The class folder {parted / 'train' / 'bird'} holds no image files"))


def test_missing_and_superfluous_test_parts(parted: Path, tmp_path: Path) -> None:
    refused(parted, r"`test_share` was 0\.1, but .*test holds the test images", test_share=0.1)
    fill(parted / "test", {"bird": 1})
    refused(parted, r"The class folder .*bird has no counterpart among the training images")
    (parted / "test").rename(tmp_path / "away")
    refused(parted, r"set has no folder of test images .* or say with `test_share`")
    (parted / "test").mkdir()
    refused(parted, r"test holds no image files in folders of classes")


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (0.0, "`test_share` must be between 0 and 1, was 0.0"),
        (1.0, "`test_share` must be between 0 and 1, was 1.0"),
        (1e-9, r"test_share=1e-09 leaves no test images in"),
        (1 - 1e-9, r"leaves no training images of class cat in .*; choose another share"),
    ],
)
def test_shares_that_leave_nothing(share: float, message: str, parted: Path) -> None:
    refused(parted / "train", message, test_share=share)


def test_a_damaged_image_is_named(parted: Path) -> None:
    broken = parted / "train" / "dog" / "000.png"
    broken.write_bytes(broken.read_bytes()[:50])
    refused(parted, re.escape(f"{broken} cannot be read"))
    broken.write_text("no image")
    refused(parted, re.escape(f"{broken} is no image that Pillow can read"))


def test_images_that_do_not_fit_are_refused_before_they_are_decoded(
    parted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2**20)
    monkeypatch.setattr(folder, "decode", lambda *_: pytest.fail("decoded"))
    refused(parted, r"The 8 images of folder:.*set at 500x500 pixels need", 500)
