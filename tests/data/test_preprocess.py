"""Gray and colour, sizes that are no squares, and which images may be mirrored."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.errors import UserError


def images_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_colour_becomes_gray_as_by_pillow() -> None:
    images = images_of(1100, 4, 5, 3)  # more than are converted at a time
    gray = data.to_channels(images, 1)
    assert gray.shape == (1100, 4, 5, 1) and gray.dtype == np.uint8
    for image, by_us in zip(images, gray, strict=True):
        np.testing.assert_array_equal(by_us[..., 0], np.asarray(Image.fromarray(image).convert("L")))


def test_gray_is_repeated_and_nothing_done_where_channels_agree() -> None:
    gray = images_of(3, 4, 5, 1)
    colour = data.to_channels(gray, 3)
    np.testing.assert_array_equal(colour, np.stack([gray[..., 0]] * 3, axis=-1))
    np.testing.assert_array_equal(data.to_channels(colour, 1), gray)
    assert data.to_channels(gray, 1) is gray and data.to_channels(colour, 3) is colour


@pytest.mark.parametrize(("stored", "channels"), [(1, 2), (4, 3), (2, 1)])
def test_other_channels_are_refused(stored: int, channels: int) -> None:
    with pytest.raises(UserError, match=f"have {stored} channels, the net takes {channels}; each must be 1 or 3"):
        data.to_channels(images_of(1, 2, 2, stored), channels)


@pytest.mark.parametrize(
    ("stored", "size", "covering"),
    [((8, 8), (4, 6), (6, 6)), ((10, 4), (5, 3), (7, 3)), ((4, 10), (5, 3), (5, 12)), ((3, 2), (6, 4), (6, 4))],
)
def test_resize_to_a_height_and_a_width_just_covers_them(
    stored: tuple[int, int], size: tuple[int, int], covering: tuple[int, int]
) -> None:
    images = images_of(2, *stored, 3)
    top, left = (covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2
    for image, resized in zip(images, data.resize(images, size), strict=True):
        whole = np.asarray(Image.fromarray(image).resize(covering[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(resized, whole[top : top + size[0], left : left + size[1]])


def test_images_are_padded_to_a_height_and_a_width() -> None:
    canvas = data.pad_to_square(np.full((1, 8, 6, 1), 7, np.uint8), (20, 40))
    assert canvas.shape == (1, 20, 40, 1)
    assert (canvas[0, 2:18, 14:26] == 7).all() and canvas.sum() == 7 * 16 * 12, "twice as large: 24 would be too high"


def test_crops_of_a_height_and_a_width() -> None:
    rows = np.arange(12).reshape(1, 3, 4, 1)
    assert data.centre_crop(rows, (1, 2))[0, :, :, 0].tolist() == [[5, 6]]
    crops = np.asarray(data.ten_crops(rows, (1, 3)))[:, 0, :, :, 0].tolist()
    upright = [[[0, 1, 2]], [[1, 2, 3]], [[8, 9, 10]], [[9, 10, 11]], [[4, 5, 6]]]
    assert crops == upright + [[row[::-1] for row in crop] for crop in upright]
    assert np.asarray(data.ten_crops(rows, (1, 3), mirror=False))[:, 0, :, :, 0].tolist() == upright
    with pytest.raises(ValueError, match=r"height and width of the images, 3 x 4, was \(3, 5\)"):
        data.centre_crop(rows, (3, 5))


@pytest.mark.parametrize(
    ("name", "class_names", "mirrored"),
    [
        ("digits", "0123456789", False),
        ("mnist", (), False),
        ("mnist:3.0.1", (), False),
        ("emnist/letters", ("unknown", "a"), False),
        ("kmnist", ("o", "ki"), False),
        ("svhn_cropped", (), False),
        ("fashion_mnist", ("Trouser", "Bag"), True),
        ("cifar10", ("cat", "dog"), True),
        ("folder:/data/mnist", ("cat", "dog"), True),
        ("folder:photos", ("0", "10", "7"), False),
        ("npz:scans.npz", ("a", "B", "é"), False),
        ("npz:scans.npz", ("a", "cat"), True),
    ],
)
def test_characters_are_not_mirrored(name: str, class_names: tuple[str, ...], mirrored: bool) -> None:
    assert data.may_mirror(name, class_names) == mirrored
