"""Image files of any size and kind, as a net takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import InputSpec
from cnnjax.data.images import decode, shape_of_file
from cnnjax.errors import UserError

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
DIGITS = InputSpec(size=32, channels=1, stored_shape=(8, 8, 1))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "image.png"


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm"])
def test_colours_and_gray_as_asked(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(COLOURS).save(path)
    np.testing.assert_array_equal(decode(path, 3), COLOURS)
    np.testing.assert_array_equal(decode(path, 1), data.to_channels(COLOURS[None], 1)[0])
    assert shape_of_file(path) == (6, 9, 3)


def test_gray_files(path: Path) -> None:
    Image.fromarray(COLOURS[..., 0]).save(path)
    np.testing.assert_array_equal(decode(path, 3), COLOURS[..., :1].repeat(3, -1))
    assert shape_of_file(path) == (6, 9, 1)
    Image.fromarray(COLOURS[..., 0] > 99).save(path)
    assert set(decode(path, 1).ravel()) == {0, 255} and shape_of_file(path)[2] == 1


def test_sixteen_bits_are_rounded_to_eight(path: Path) -> None:
    Image.fromarray(np.array([[0, 128, 129], [257, 32896, 65535]], np.uint16)).save(path)
    assert decode(path, 1)[..., 0].tolist() == [[0, 0, 1], [1, 128, 255]]
    assert decode(path, 3).shape == (2, 3, 3) and shape_of_file(path) == (2, 3, 1)


def test_what_is_transparent_is_white(path: Path) -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, :, 3] = 255  # black ink above, nothing below
    Image.fromarray(rgba).save(path)
    assert decode(path, 1)[..., 0].tolist() == [[0, 0], [255, 255]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(path, transparency=b"\xff\x00")
    assert decode(path, 3).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_photos_stand_upright(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    picture = Image.fromarray(np.repeat([[0], [255]], 8, 1).repeat(8, 0).astype(np.uint8))  # black above white
    exif = picture.getexif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    picture.crop((0, 0, 8, 12)).save(path, exif=exif)
    image = decode(path, 1)
    assert image.shape == (8, 12, 1) and shape_of_file(path) == (8, 12, 1)
    assert image[:, -4:].mean() < 60 < 200 < image[:, :2].mean(), "what was above is at the right"


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_a_file_that_is_no_image_is_named(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    for read in (lambda: decode(path, 1), lambda: shape_of_file(path), lambda: data.read_image(path, DIGITS)):
        with pytest.raises(UserError, match=r"image\.png (is no image that Pillow can read|cannot be read)"):
            read()


def test_a_truncated_or_absent_file_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"image\.png cannot be read \(No such file or directory\)"):
        data.read_image(path, DIGITS)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"image\.png cannot be read"):
        decode(path, 3)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "image.tiff")
    with pytest.raises(UserError, match=r"image\.tiff cannot be read \(its pixels are floating-point numbers"):
        decode(tmp_path / "image.tiff", 1)


@pytest.mark.parametrize(
    ("drawn", "read"),
    [((200, 200), (8, 8)), ((200, 300), (8, 8)), ((8, 8), (8, 8)), ((5, 4), (8, 8)), ((32, 32), (32, 32))],
)
def test_an_image_of_any_size_becomes_one_of_the_training_set(
    drawn: tuple[int, int], read: tuple[int, int], path: Path
) -> None:
    Image.fromarray(np.full(drawn, 90, np.uint8)).save(path)
    image = data.read_image(path, DIGITS)
    assert image.shape == (*read, 1) and (image == 90).all()
    assert DIGITS.as_input(image[None]).shape == (1, 32, 32, 1)


def test_a_net_that_resizes_takes_the_file_as_it_is(path: Path) -> None:
    Image.fromarray(COLOURS).save(path)
    assert data.read_image(path, InputSpec(size=4, channels=3, resize_to=5)).shape == (6, 9, 3)
    assert data.read_image(path, InputSpec(size=4, channels=1)).shape == (4, 4, 1)


def test_a_large_digit_is_read_as_the_small_one_was(path: Path) -> None:
    digit = data.digits().test_images[3]
    Image.fromarray(digit[..., 0]).resize((200, 200), Image.Resampling.NEAREST).save(path)
    read = data.read_image(path, DIGITS)
    assert np.corrcoef(read.ravel(), digit.ravel())[0, 1] > 0.97, "but for the smoothing of the filter"


def test_ink_on_paper_is_inverted_for_a_net_of_bright_digits() -> None:
    digits = data.digits()
    brightness = InputSpec.of(digits.train_images, size=8).brightness
    assert not any(data.looks_inverted(digit, brightness) for digit in digits.test_images)
    assert all(data.looks_inverted(255 - digit, brightness) for digit in digits.test_images)
    paper = 1 - brightness
    assert all(data.looks_inverted(digit, paper) for digit in digits.test_images)
    assert not any(data.looks_inverted(255 - digit, paper) for digit in digits.test_images)


def test_photos_are_never_inverted() -> None:
    white = np.full((4, 4, 3), 255, np.uint8)
    assert not data.looks_inverted(white, 0.47) and not data.looks_inverted(white, None)
    assert data.looks_inverted(np.full((1, 1, 1), 255, np.uint8), 0.1), "also where all is border"
