"""Data sets in one file of NumPy: what is taken as it is, what is converted, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import memory
from cnnjax.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 4)).astype(np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
WHOLE = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:2], "y_test": LABELS[:2]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "set.npz"


def load(path: Path, arrays: dict | None = None, *, without: tuple[str, ...] = (), **options) -> data.Dataset:
    wanted = {**WHOLE, **(arrays or {})}
    np.savez(path, **{name: array for name, array in wanted.items() if name not in without})
    return data.load_dataset(f"npz:{path}", **options)


def test_what_is_in_the_file(path: Path) -> None:
    loaded = load(path)
    assert loaded.name == f"npz:{path}" and loaded.class_names == ("0", "1", "2")
    np.testing.assert_array_equal(loaded.train_images, IMAGES[..., None])
    np.testing.assert_array_equal(loaded.test_images, IMAGES[:2, ..., None])
    assert loaded.train_labels.tolist() == LABELS.tolist() and loaded.test_labels.tolist() == [0, 1]
    assert loaded.train_labels.dtype == loaded.test_labels.dtype == np.int32
    assert loaded.train_images.dtype == loaded.test_images.dtype == np.uint8


def test_the_arrays_of_keras_and_names_of_classes(path: Path) -> None:
    colours = np.stack([IMAGES] * 3, -1)
    arrays = {"x_train": colours, "y_train": LABELS[:, None].astype(np.uint8), "x_test": colours[:2]}
    loaded = load(path, {**arrays, "class_names": np.array(["cat", "dog", "owl"])})
    np.testing.assert_array_equal(loaded.train_images, colours)
    assert loaded.train_labels.tolist() == LABELS.tolist() and loaded.class_names == ("cat", "dog", "owl")


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint32])
def test_integers_of_0_to_255_are_taken_as_they_are(dtype: type, path: Path) -> None:
    np.testing.assert_array_equal(load(path, {"x_train": IMAGES.astype(dtype)}).train_images[..., 0], IMAGES)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_of_0_to_1_are_multiplied_by_255(dtype: type, path: Path) -> None:
    np.testing.assert_array_equal(load(path, {"x_train": (IMAGES / 255).astype(dtype)}).train_images[..., 0], IMAGES)
    tenths = np.full((6, 5, 4), 0.1, np.float16)
    assert set(load(path, {"x_train": tenths}).train_images.ravel()) == {25}


def test_bits_are_black_and_white(path: Path) -> None:
    loaded = load(path, {"x_train": IMAGES > 99})
    np.testing.assert_array_equal(loaded.train_images[..., 0], (IMAGES > 99) * 255)


def test_size_and_channels_as_asked(path: Path) -> None:
    loaded = load(path, size=8, channels=3)
    np.testing.assert_array_equal(loaded.test_images, data.resize(IMAGES[:2, ..., None], 8).repeat(3, -1))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": IMAGES[0]}, r"x_train of .*set\.npz has shape \(5, 4\); it must be \(N, H, W\), or"),
        ({"x_train": IMAGES[..., None].repeat(4, -1)}, r"has shape \(6, 5, 4, 4\)"),
        ({"x_test": np.zeros((2, 3, 5, 4), np.uint8)}, r"x_test of .* Move the channels to the end: np\.moveaxis"),
        ({"x_train": IMAGES[:0]}, r"x_train of .* has shape \(0, 5, 4\); it must .* have an image"),
        ({"x_train": IMAGES.astype(np.float32)}, r"dtype float32 and values from .* to .*; they must be in 0\.\.1"),
        ({"x_train": np.full((6, 5, 4), np.nan)}, r"dtype float64 and values from nan to nan; they must be in 0\.\.1"),
        ({"x_train": IMAGES.astype(np.int32) - 9}, r"dtype int32 and values from -9 to .*; they must be in 0\.\.255"),
        ({"x_train": IMAGES.astype(complex)}, "x_train of .* has dtype complex128; it must be uint8, integers in"),
        ({"x_test": IMAGES[:2, :3]}, r"has images of shape \(5, 4, 1\), x_test \(3, 4, 1\); they must agree"),
        ({"y_train": LABELS[:4]}, "x_train of .* has 6 images, y_train 4 labels"),
        ({"y_train": np.eye(3)[LABELS]}, r"y_train of .* has shape \(6, 3\) and dtype float64; .* y\.argmax\(-1\)"),
        ({"y_train": LABELS / 1}, r"y_train of .* has shape \(6,\) and dtype float64; it must be integers"),
        ({"y_train": LABELS - 1}, "y_train of .* has labels from -1 to 1; they must be 0, 1"),
        ({"y_train": LABELS + 1}, "Class 0 of .* has no training example; the labels must be 0 to 3"),
        ({"y_train": LABELS * 0, "y_test": LABELS[:2] * 0}, "has one class; it must have at least two"),
        ({"class_names": np.array(["cat", "dog"])}, "has 2 class_names and a label 2; labels must be below 2"),
        ({"x_train": np.array([{}] * 6)}, "cannot be read .*; it must be a file that np.savez wrote"),
    ],
)
def test_what_cannot_be_images_and_labels_is_refused(arrays: dict, message: str, path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(path, arrays)


def test_a_share_of_the_examples_for_testing(path: Path) -> None:
    images = np.arange(200, dtype=np.uint8)[:, None, None].repeat(3, 1).repeat(3, 2)
    arrays = {"x_train": images, "y_train": np.arange(200) % 2}
    loaded = load(path, arrays, without=("x_test", "y_test"), test_share=0.25)
    assert 30 < len(loaded.test_labels) < 70
    values = np.concatenate([loaded.train_images, loaded.test_images])[:, 0, 0, 0]
    assert np.sort(values).tolist() == list(range(200))
    np.testing.assert_array_equal(loaded.test_labels, loaded.test_images[:, 0, 0, 0] % 2)
    with pytest.raises(UserError, match="has no x_test and y_test; add them, or say with `test_share`"):
        load(path, arrays, without=("x_test", "y_test"))
    with pytest.raises(UserError, match="gives no test examples; add some, or choose another `test_share`"):
        load(path, arrays, without=("x_test", "y_test"), test_share=1e-9)


def test_arrays_that_are_missing_or_superfluous(path: Path) -> None:
    with pytest.raises(UserError, match="has the arrays x_test, x_train, y_test; it must have x_train, y_train"):
        load(path, without=("y_train",))
    with pytest.raises(UserError, match="has one of x_test and y_test; it must have both or none"):
        load(path, without=("x_test",))
    with pytest.raises(UserError, match=r"`test_share` was 0\.5, but .*set\.npz has test examples"):
        load(path, test_share=0.5)


def test_other_sets_have_test_parts_of_their_own() -> None:
    with pytest.raises(UserError, match=r"`test_share` was 0\.5, but digits has a test part of its own"):
        data.load_dataset("digits", test_share=0.5)


def test_files_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(UserError, match=r"set\.npz cannot be read \(No such file or directory\)"):
        data.load_dataset(f"npz:{path}")
    np.save(path.with_suffix(".npy"), IMAGES)
    for content in (b"", b"nothing", path.with_suffix(".npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"set\.npz cannot be read .*; it must be a file that np\.savez wrote"):
            data.load_dataset(f"npz:{path}")


def test_arrays_that_do_not_fit_are_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(UserError, match=r"The arrays of .*set\.npz need 0\.0 GiB of memory"):
        load(path)


@pytest.mark.parametrize("name", ["folder:", "folder", "npz:", "npz"])
def test_a_name_without_its_path_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"The data set '{name}' lacks its path: it must be folder:DIR or npz:FILE"):
        data.load_dataset(name)
