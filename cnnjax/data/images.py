"""Image files as arrays, decoded by Pillow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from cnnjax.data.damage import named
from cnnjax.data.input_spec import InputSpec
from cnnjax.data.preprocess import resize_image

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What the names of image files end with, in lower case."""

DARK_GROUND, BRIGHT_GROUND = 0.35, 0.65
"""Training images whose mean (0..1) is below or above are taken for bright on black, or for dark on white."""

_GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L"})
_SIDEWAYS = frozenset({5, 6, 7, 8})  # orientations of Exif that swap height and width
_ORIENTATION = 0x0112  # tag of Exif


def read_image(path: str | os.PathLike, spec: InputSpec) -> np.ndarray:
    """Reads an image file of any size for a net.

    Where the net was trained on padded images, the image becomes as large as those were before: resized by its shorter
    side, the centre cropped. `spec.as_input` does the rest.

    Args:
      path: the file.
      spec: of the net's input.

    Returns:
      `(H, W, spec.channels)` uint8.

    Raises:
      CorruptExample: the file cannot be read.
    """
    image = decode(path, spec.channels)
    if spec.resize_to is not None or image.shape[:2] == spec.size:
        return image
    return resize_image(image, spec.stored_shape[:2] if spec.stored_shape else spec.size)


def looks_inverted(image: np.ndarray, brightness: float | None) -> bool:
    """Returns True for an image dark on white where training images are bright on black, or the reverse.

    The border, one pixel wide, is taken for the ground. It is compared to the training images, whose mean is far from
    gray where most of each is ground; where it is not, as for photos, the answer is False.

    Args:
      image: `(H, W, C)` uint8.
      brightness: mean of the training images in 0..1, as `InputSpec.brightness`; None where it is not known.

    Example:
      >>> looks_inverted(np.full((8, 8, 1), 255, np.uint8), brightness=0.13)
      True
    """
    if brightness is None or DARK_GROUND <= brightness <= BRIGHT_GROUND:
        return False
    inner = image[1:-1, 1:-1]
    border = (int(image.sum()) - int(inner.sum())) / (image.size - inner.size) / 255
    return border > 0.5 if brightness < DARK_GROUND else border < 0.5


def decode(path: str | os.PathLike, channels: int) -> np.ndarray:
    """Reads an image file as `(H, W, channels)` uint8, see `to_picture`.

    Raises:
      CorruptExample: the file cannot be read.
    """
    with named(path):
        return to_array(to_picture(path, channels))


def to_picture(file: str | os.PathLike | BinaryIO, channels: int, *, upright: bool = True) -> Image.Image:
    """Decodes an image file as a picture of mode L or RGB.

    Colours become gray by Pillow's weights, gray is repeated; sixteen bits are rounded to eight; what is transparent is
    white.

    Args:
      file: its path, or its content as an open file.
      channels: 1 or 3.
      upright: whether a photo stands as its Exif orientation says.

    Raises:
      Exception: whatever Pillow raises at a damaged file, see `damage.named`.
    """
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        picture: Image.Image = opened
        if upright and opened.format in ("JPEG", "MPO"):
            ImageOps.exif_transpose(opened, in_place=True)  # else it copies photos that stand already
        picture.load()
    picture = _eight_bits(picture)
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def to_array(picture: Image.Image) -> np.ndarray:
    """Returns a picture of mode L or RGB as `(H, W, C)` uint8."""
    array = np.asarray(picture)
    return array.reshape(*array.shape[:2], -1)


def shape_of_file(path: str | os.PathLike) -> tuple[int, int, int]:
    """Returns (height, width, channels) of an image file, which is not decoded; channels is 1 or 3.

    Raises:
      CorruptExample: the file cannot be read.
    """
    from PIL import Image

    with named(path), Image.open(path) as file:
        width, height = file.size
        if file.format in ("JPEG", "MPO") and file.getexif().get(_ORIENTATION) in _SIDEWAYS:
            height, width = width, height
        return height, width, 1 if file.mode in _GRAY_MODES else 3


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Returns a picture of at most eight bits per channel, on white where it is transparent."""
    from PIL import Image

    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers; they must be integers of 8 or 16 bits")
    if picture.mode.startswith("I"):
        pixels = np.asarray(picture).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("its pixels have 32 bits; they must have 8 or 16")
        return Image.fromarray(((pixels * 255 + 32767) // 65535).astype(np.uint8))
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture
