"""Data sets read one by one: the examples of those in memory, to the bit, and a sentence for each damage."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import folder, memory
from cnnjax.data.npz_rows import NotByRows
from cnnjax.errors import UserError
from tests.data.picture_files import fill, save

grain = pytest.importorskip("grain")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photograph(path: Path, height: int, width: int, seed: int, **options) -> Path:
    """Saves noise of low frequency as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90, **options)
    return path


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Colour JPEGs of many sizes, one lying on its side, and a gray PNG."""
    root = tmp_path / "photographs"
    for number, (part, name) in enumerate([("train", "ant"), ("train", "bee"), ("test", "ant"), ("test", "bee")]):
        for i in range(3):
            photograph(root / part / name / f"{i}.jpg", 40 + 7 * i, 64 - 5 * number, 10 * number + i)
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(root / "train" / "bee" / "aside.jpg", 30, 60, 99, exif=exif)
    save(root / "train" / "ant" / "gray.png", (50, 45), 77)
    return root


def write_npz(path: Path, **changes) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (6, 5, 4, 3), np.uint8),
        "y_train": np.arange(6) % 2,
        "x_test": rng.integers(0, 256, (3, 5, 4, 3), np.uint8),
        "y_test": np.arange(3) % 2,
    }
    np.savez(path, **{name: array for name, array in {**arrays, **changes}.items() if array is not None})
    return path


def identical(name: str, *, test_share: float | None = None, most: int = 10**6, **spec) -> data.OpenDataset:
    """Checks that a data set read one by one has the examples of the same in memory; returns it."""
    resize_to = spec.get("resize_to")
    loaded = data.load_dataset(name, None, resize_to, test_share=test_share)
    opened = data.open_dataset(name, test_share=test_share)
    assert (opened.name, opened.class_names) == (loaded.name, loaded.class_names)
    expected = data.InputSpec.of(loaded.train_images, **spec)
    parts = [
        (opened.train, loaded.train_images, loaded.train_labels),
        (opened.test, loaded.test_images, loaded.test_labels),
    ]
    for source, images, labels in parts:
        held = data.held_images(source, expected)
        assert isinstance(held, grain.MapDataset) and len(held) == len(source) == len(labels)
        in_memory = expected.on_host(images[:most])
        for index in range(len(in_memory)):
            x, y = held[index]
            assert x.dtype == np.uint8 and y.dtype == np.int32 and y.shape == ()
            np.testing.assert_array_equal(x, in_memory[index])
            assert y == labels[index]
    return opened


@pytest.mark.parametrize(
    "spec", [{"size": 32}, {"size": 8, "channels": 3}, {"size": 12, "resize_to": 14}, {"size": (10, 12)}]
)
def test_digits(spec: dict) -> None:
    opened = identical("digits", **spec)
    assert opened.train.shape == (8, 8, 1) and opened.nbytes() == 1797 * 64 and opened.nbytes(32, 3) == 1797 * 3072


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize_to", [(20, 20), (26, 40)])
def test_a_folder_of_many_sizes(photographs: Path, channels: int, resize_to: tuple[int, int]) -> None:
    opened = identical(f"folder:{photographs}", size=20, channels=channels, resize_to=resize_to)
    assert opened.train.shape == (None, None, 3)
    assert [len(opened.train), len(opened.test)] == [8, 6]


@pytest.mark.parametrize("share", [None, 0.3])
def test_a_folder_of_one_size_without_a_resize(tmp_path: Path, share: float | None) -> None:
    root = tmp_path / "set"
    for part in ("train", "test"):
        fill(root / part, {"cat": 9, "dog": 12})
    opened = identical(f"folder:{root / 'train' if share else root}", size=(6, 5), test_share=share)
    assert opened.train.shape == (6, 5, 1)
    if share is None:
        assert opened.train[10][1] == 1 and opened.train[10][0][0, 0, 0] == 101


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"x_train": np.arange(6 * 20).reshape(6, 5, 4), "x_test": np.zeros((3, 5, 4), np.uint8)},
        {"x_train": np.linspace(0, 1, 6 * 20, dtype=np.float32).reshape(6, 5, 4, 1), "x_test": np.ones((3, 5, 4, 1))},
        {"x_train": np.arange(6 * 20).reshape(6, 5, 4).astype(">i2"), "x_test": np.zeros((3, 5, 4), bool)},
        {"class_names": np.array(["no", "yes"])},
    ],
)
def test_an_npz(tmp_path: Path, changes: dict) -> None:
    identical(f"npz:{write_npz(tmp_path / 'set.npz', **changes)}", size=8)


def test_an_npz_with_a_share_for_testing(tmp_path: Path) -> None:
    x = np.random.default_rng(1).integers(0, 256, (40, 3, 3), np.uint8)
    path = write_npz(tmp_path / "set.npz", x_train=x, y_train=np.arange(40) % 2, x_test=None, y_test=None)
    opened = identical(f"npz:{path}", size=3, test_share=0.3)
    assert len(opened.train) + len(opened.test) == 40


def test_the_first_of_cifar10_where_it_is_prepared() -> None:
    if not os.path.isdir(os.path.join(os.environ.get("TFDS_DATA_DIR", ""), "cifar10")):
        pytest.skip("TFDS_DATA_DIR holds no cifar10")
    import tensorflow_datasets as tfds

    opened = data.open_dataset("cifar10")
    assert opened.train.shape == (32, 32, 3) and opened.nbytes() == 60000 * 3072
    assert [len(opened.train), len(opened.test)] == [50000, 10000] and opened.class_names[1] == "automobile"
    theirs = tfds.data_source("cifar10", split="train")
    held = data.held_images(opened.train, data.InputSpec(size=32, channels=3))
    for index in range(200):
        x, y = held[np.int64(index)]
        np.testing.assert_array_equal(x, theirs[index]["image"])
        assert y == theirs[index]["label"]


def test_threads_and_copies_read_the_same(photographs: Path, tmp_path: Path) -> None:
    for name in (f"folder:{photographs}", f"npz:{write_npz(tmp_path / 'set.npz')}", "digits"):
        source = data.open_dataset(name).train
        alone = [source[index] for index in range(6)]
        copied = pickle.loads(pickle.dumps(source))
        with ThreadPoolExecutor(4) as pool:
            for got, want in zip(pool.map(copied.__getitem__, [*range(6)] * 10), alone * 10, strict=True):
                np.testing.assert_array_equal(got[0], want[0])
                assert got[1] == want[1]


def test_what_fits_in_memory_is_told_by_the_size_as_held(monkeypatch: pytest.MonkeyPatch, photographs: Path) -> None:
    digits = data.open_dataset("digits")
    monkeypatch.setattr(memory, "available", lambda: 2 * 1797 * 32 * 32)
    assert digits.fits_in_memory() and digits.fits_in_memory(32) and not digits.fits_in_memory(33)
    assert not digits.fits_in_memory(32, channels=3)
    photos = data.open_dataset(f"folder:{photographs}")
    assert photos.nbytes(20) == 14 * 20 * 20 * 3
    monkeypatch.setattr(memory, "available", lambda: 2 * 14 * 20 * 20 * 3 - 1)
    assert not photos.fits_in_memory(20, channels=1), "they are loaded in colour, and turned to gray after"
    with pytest.raises(UserError, match=r"differ in size\. Give an image size"):
        photos.nbytes()


def test_a_data_set_that_does_not_fit_is_opened_all_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz")
    monkeypatch.setattr(memory, "available", lambda: 10)
    with pytest.raises(UserError, match=r"or stream it: `--stream=always`, `data\.open_dataset`"):
        data.load_dataset(f"npz:{path}")
    x, _ = data.held_images(data.open_dataset(f"npz:{path}").train, data.InputSpec(size=8, channels=1))[0]
    assert x.shape == (8, 8, 1)


def damaged(path: Path, damage: Callable[[Path], None], match: str) -> None:
    """Checks that reading a damaged file is one sentence that names it, and that others can be read."""
    source = data.open_dataset(f"folder:{path.parents[2]}").train
    index = source._files.paths.index(str(path))  # type: ignore[attr-defined]
    damage(path)
    spec = data.InputSpec(size=20, channels=3, resize_to=20)
    for examples in (source, data.held_images(source, spec), data.random_resized_crops(source, spec, 0)):
        with pytest.raises(data.CorruptExample, match=re.escape(str(path)) + match):
            examples[index]
        examples[0]


def test_a_truncated_jpeg(photographs: Path) -> None:
    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    damaged(photographs / "train" / "bee" / "1.jpg", cut, r" cannot be read \(.*truncated")


def test_an_empty_file(photographs: Path) -> None:
    damaged(photographs / "train" / "bee" / "1.jpg", lambda path: path.write_bytes(b"") and None, " is no image")


def test_a_file_that_is_no_image(photographs: Path) -> None:
    damaged(photographs / "train" / "bee" / "1.jpg", lambda path: path.write_text("no image") and None, " is no image")


def test_a_file_that_vanished(photographs: Path) -> None:
    damaged(photographs / "train" / "bee" / "1.jpg", Path.unlink, r" cannot be read \(No such file or directory\)")


def test_an_image_of_another_size_than_those_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MOST_MEASURED", 2)
    for part in ("train", "test"):
        fill(tmp_path / "set" / part, {"cat": 3, "dog": 3})
    save(tmp_path / "set" / "train" / "dog" / "000.png", (9, 5), 1)
    source = data.open_dataset(f"folder:{tmp_path / 'set'}").train
    with pytest.raises(UserError, match=r"000\.png has 9x5 pixels, others of its data set 6x5\. Give an image size"):
        source[3]


def test_an_unreadable_file_does_not_decide_the_size_of_all(tmp_path: Path) -> None:
    for part in ("train", "test"):
        fill(tmp_path / "set" / part, {"cat": 3, "dog": 3})
    for broken in (tmp_path / "set" / "train" / "cat").iterdir():
        broken.write_text("no image")
    assert data.open_dataset(f"folder:{tmp_path / 'set'}").train.shape == (6, 5, 1)
    for broken in (tmp_path / "set").rglob("*.png"):
        broken.write_text("no image")
    with pytest.raises(UserError, match=r"None of the image files that were looked at can be read\. .*png is no image"):
        data.open_dataset(f"folder:{tmp_path / 'set'}")


def test_what_is_refused_in_memory_is_refused_here(photographs: Path, tmp_path: Path) -> None:
    (photographs / "train" / "cow").mkdir()
    with pytest.raises(UserError, match=r"The class folder .*cow holds no image files; fill it or remove it"):
        data.open_dataset(f"folder:{photographs}")
    (tmp_path / "alone").mkdir()
    (photographs / "test").rename(tmp_path / "alone" / "test")
    with pytest.raises(UserError, match=r"alone has 1 folder of images; it must have one for each class"):
        data.open_dataset(f"folder:{tmp_path / 'alone'}")
    for name, match in [
        ("folder:", "lacks its path"),
        ("npz:", "lacks its path"),
        ("folder:/nowhere", "nowhere is not an existing folder"),
        ("npz:/nowhere.npz", r"nowhere\.npz cannot be read \(No such file or directory\)"),
        ("mnsit", "Did you mean mnist"),
    ]:
        with pytest.raises(UserError, match=match):
            data.open_dataset(name)
    with pytest.raises(UserError, match=r"`test_share` was 0\.1, but digits has a test part of its own"):
        data.open_dataset("digits", test_share=0.1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"x_train": np.zeros((6, 5, 4, 3), complex)},
            "x_train of .* has dtype complex128; it must be uint8, integers",
        ),
        ({"x_train": np.array([["a"]])}, r"x_train of .* has shape \(1, 1\); it must be"),
        ({"x_train": np.zeros((6, 3, 5, 4), np.uint8)}, "Move the channels to the end"),
        ({"x_train": np.asfortranarray(np.zeros((6, 5, 4, 3), np.uint8))}, "Fortran's order.*np.ascontiguousarray"),
        ({"x_train": None}, "it must have x_train"),
        ({"x_test": None}, "has one of x_test and y_test"),
        ({"x_test": np.zeros((3, 5, 5, 3), np.uint8)}, "they must agree"),
        ({"y_train": np.zeros(5, int)}, "6 images, y_train 5 labels"),
        ({"y_train": np.zeros((6, 2))}, "argmax"),
        ({"y_train": np.array([0, 0, 0, 0, 0, 2])}, "Class 1 of .* has no training example"),
        ({"x_test": None, "y_test": None}, "or say with `test_share`"),
    ],
)
def test_arrays_that_cannot_be_images_and_labels(tmp_path: Path, changes: dict, match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        data.open_dataset(f"npz:{write_npz(tmp_path / 'set.npz', **changes)}")
    assert type(caught.value) is (NotByRows if "Fortran" in match else UserError)


def test_pixels_out_of_range_are_told_when_they_are_read(tmp_path: Path) -> None:
    x = np.zeros((6, 5, 4, 3), np.float32)
    x[4] = 200
    source = data.open_dataset(f"npz:{write_npz(tmp_path / 'set.npz', x_train=x)}").train
    assert source[3][0].max() == 0
    with pytest.raises(
        UserError, match=r"Row 4 of x_train of .*set\.npz has dtype float32 and values from 200"
    ) as caught:
        source[4]
    assert type(caught.value) is UserError, "all of the data set is of another scale"


def test_compressed_and_damaged_archives(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "set.npz")
    with np.load(path) as stored:
        np.savez_compressed(tmp_path / "small.npz", **stored)
    with pytest.raises(UserError, match=r"x_train of .*small\.npz is compressed.*: write the file with np\.savez, not"):
        data.open_dataset(f"npz:{tmp_path / 'small.npz'}")
    small, plain = (data.load_dataset(f"npz:{file}").train_images for file in (tmp_path / "small.npz", path))
    np.testing.assert_array_equal(small, plain)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:300])
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("cut.npz", "text.npz"):
        with pytest.raises(UserError, match=rf"{name} cannot be read .*; it must be a file that np\.savez wrote"):
            data.open_dataset(f"npz:{tmp_path / name}")
    source = data.open_dataset(f"npz:{path}").train
    os.truncate(path, 300)
    with pytest.raises(
        data.CorruptExample, match=r"Row 5 of x_train of .*set\.npz cannot be read \(the file ends early"
    ):
        source[5]


def test_reading_an_npz_holds_one_row(tmp_path: Path) -> None:
    x = np.zeros((400, 64, 64, 16), np.uint8).reshape(400, 256, 256, 1)
    path = write_npz(tmp_path / "set.npz", x_train=x, y_train=np.arange(400) % 2, x_test=x[:3])
    source = data.open_dataset(f"npz:{path}").train

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc")
    source[0]
    before = resident()
    for index in range(400):
        source[index]
    assert resident() - before < 5 * 2**20, "of 25 MiB"
