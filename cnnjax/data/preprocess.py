"""What is done to pixels on the way into a net, without randomness."""

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import memory
from cnnjax.errors import UserError

_Images = TypeVar("_Images", jax.Array, np.ndarray)

Size = int | Sequence[int]
"""The size of an image in pixels: the side of a square, or (height, width)."""

LARGEST_ENLARGED_SIDE = 28
"""Small images are enlarged by the largest whole factor that keeps their sides within this many pixels."""

# Pillow's weights of red, green and blue in gray, in 65536ths (ITU-R 601-2).
_LUMA = (19595, 38470, 7471)
_CHUNK = 1000  # images converted at a time: the sums take four times the memory


def height_and_width(size: Size) -> tuple[int, int]:
    """Returns (height, width) of a size that may be the side of a square."""
    height, width = (size, size) if isinstance(size, (int, np.integer)) else size
    return int(height), int(width)


def pad_to_square(images: np.ndarray, size: Size) -> np.ndarray:
    """Pads images with black (0) to `size`, centred; enlarges small ones first.

    The factor is the largest whole one that keeps the sides within 28 and within `size`, applied with Pillow's bilinear
    filter: 8 x 8 becomes 24 x 24 with a border of 4 where `size` is 32, 28 x 28 gets a border of 2, and 32 x 32 stays
    as it is. An odd remainder goes to the bottom and the right.

    Args:
      images: `(N, H, W, C)` uint8.
      size: side of the result in pixels; or its height and width.

    Returns:
      `(N, *size, C)` uint8; images of that size already are returned as they are.

    Raises:
      UserError: the images are larger than `size`, or the result does not fit into memory.
    """
    n, height, width, channels = images.shape
    wanted = height_and_width(size)
    if height > wanted[0] or width > wanted[1]:
        raise UserError(
            f"The images are {height} x {width} pixels; this network takes at most {wanted[0]} x {wanted[1]}. "
            "Give an image size, to which they are resized, or choose a data set of smaller images."
        )
    if (height, width) == wanted:
        return images
    memory.check_images(n, *wanted, channels)
    factor = min(min(LARGEST_ENLARGED_SIDE, wanted[0]) // height, min(LARGEST_ENLARGED_SIDE, wanted[1]) // width)
    images = _enlarge(images, max(1, factor))
    height, width = images.shape[1:3]
    top, left = (wanted[0] - height) // 2, (wanted[1] - width) // 2
    canvas = np.zeros((n, *wanted, channels), np.uint8)
    canvas[:, top : top + height, left : left + width] = images
    return canvas


def _enlarge(images: np.ndarray, factor: int) -> np.ndarray:
    """Enlarges (N, H, W, C) uint8 images by a whole factor, bilinearly, channel by channel."""
    if factor == 1:
        return images
    from PIL import Image

    n, height, width, channels = images.shape
    enlarged = np.empty((n, factor * height, factor * width, channels), np.uint8)
    for i in range(n):
        for c in range(channels):
            plane = Image.fromarray(images[i, :, :, c])
            size = (factor * width, factor * height)
            enlarged[i, :, :, c] = plane.resize(size, Image.Resampling.BILINEAR)
    return enlarged


def resize(images: np.ndarray, size: Size) -> np.ndarray:
    """Resizes images until they just cover `size`, and crops the centre.

    For a square that brings the shorter side to `size` pixels. The filter is Pillow's bilinear one.

    Args:
      images: `(N, H, W, C)` uint8, C is 1 or 3.
      size: side of the result in pixels; or its height and width.

    Returns:
      `(N, *size, C)` uint8; images of that size already are returned as they are.

    Raises:
      UserError: the result does not fit into memory.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 2.
    """
    wanted = height_and_width(size)
    if images.shape[1:3] == wanted:
        return images
    from tqdm import tqdm

    n, *_, channels = images.shape
    memory.check_images(n, *wanted, channels)
    resized = np.empty((n, *wanted, channels), np.uint8)
    for i in tqdm(range(n), desc="resizing", delay=2, leave=False, disable=None):
        resized[i] = resize_image(images[i], wanted)
    return resized


def resize_image(image: np.ndarray, size: Size) -> np.ndarray:
    """Resizes one image as `resize` does, `(H, W, C)` uint8 to `(*size, C)`."""
    height, width, channels = image.shape
    rows, columns = height_and_width(size)
    if (height, width) == (rows, columns):
        return image
    from PIL import Image

    if rows * width >= columns * height:  # relative to its height the image is at least as wide
        covering = rows, width * rows // height
    else:
        covering = height * columns // width, columns
    top, left = (covering[0] - rows) // 2, (covering[1] - columns) // 2
    whole = Image.fromarray(image[..., 0] if channels == 1 else image)
    resized = np.asarray(whole.resize(covering[::-1], Image.Resampling.BILINEAR)).reshape(*covering, channels)
    return resized[top : top + rows, left : left + columns]


def to_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Turns gray images into colour ones or colour ones into gray ones.

    Gray is repeated three times. Colour becomes `0.299 red + 0.587 green + 0.114 blue`, as by Pillow's `convert("L")`,
    to the bit.

    Args:
      images: `(N, H, W, C)` uint8, C is 1 or 3.
      channels: 1 or 3.

    Returns:
      `(N, H, W, channels)` uint8; images that have the channels already are returned as they are.

    Raises:
      UserError: C or `channels` is neither 1 nor 3, or the result does not fit into memory.
    """
    stored = images.shape[-1]
    if stored == channels:
        return images
    if {stored, channels} != {1, 3}:
        raise UserError(f"The images have {stored} channels, the net takes {channels}; each must be 1 or 3.")
    n, height, width, _ = images.shape
    memory.check_images(n, height, width, channels)
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    gray = np.empty((*images.shape[:3], 1), np.uint8)
    for start in range(0, len(images), _CHUNK):
        pixels = images[start : start + _CHUNK]
        total = sum(pixels[..., i].astype(np.uint32) * weight for i, weight in enumerate(_LUMA))
        gray[start : start + _CHUNK, ..., 0] = (total + (1 << 15)) >> 16
    return gray


def centre_crop(images: _Images, size: Size) -> _Images:
    """Crops the centre to `size`.

    Of an odd remainder less is cut off at the top and the left.

    Args:
      images: `(B, H, W, C)`, any dtype, an array of JAX or of NumPy.
      size: side of a square; or height and width; at most H and W.

    Returns:
      `(B, *size, C)`, an array of the same kind.

    Raises:
      ValueError: the images are smaller than `size`.
    """
    height, width = images.shape[1:3]
    rows, columns = height_and_width(size)
    if not (1 <= rows <= height and 1 <= columns <= width):
        raise ValueError(f"size must be from 1 to the height and width of the images, {height} x {width}, was {size}")
    top, left = (height - rows) // 2, (width - columns) // 2
    return images[:, top : top + rows, left : left + columns]


def ten_crops(images: jax.Array, size: Size, *, mirror: bool = True) -> jax.Array:
    """Crops the four corners and the centre, and mirrors each.

    A net is evaluated by its mean over the ten crops.

    Args:
      images: `(B, H, W, C)`, any dtype.
      size: side of a square; or height and width; at most H and W.
      mirror: False for characters, which mean nothing or another thing when mirrored: then these are five crops.

    Returns:
      `(10, B, *size, C)`: top left, top right, bottom left, bottom right, centre, then the mirror of each; without
      `mirror` the first five.

    Raises:
      ValueError: the images are smaller than `size`.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    centre = centre_crop(images, size)
    height, width = height_and_width(size)
    top, bottom = images[:, :height], images[:, images.shape[1] - height :]
    corners = [rows[:, :, columns] for rows in (top, bottom) for columns in (slice(width), slice(-width, None))]
    crops = jnp.stack([*corners, centre])
    return jnp.concatenate([crops, crops[..., ::-1, :]]) if mirror else crops


def channel_stats(train_images: np.ndarray | Iterable[np.ndarray]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes mean and standard deviation per channel, of pixels in 0..1.

    The sums are exact, so how the images are parted changes nothing.

    Args:
      train_images: `(N, H, W, C)` uint8 on the host; or several such one after the other, where not all are in memory.

    Returns:
      `(mean, std)`, each a tuple of C floats. A constant channel gets std 1, so that `standardize` makes it 0.

    Raises:
      TypeError: `train_images` is not uint8.
      ValueError: there are no images.
    """
    n, total, squares = 0, np.zeros((), np.uint64), np.zeros((), np.uint64)
    for images in [train_images] if isinstance(train_images, np.ndarray) else train_images:
        check_pixels(images)
        for start in range(0, len(images), _CHUNK):
            pixels = images[start : start + _CHUNK]
            n += pixels.size // pixels.shape[-1]
            # over the images first: NumPy adds along the rest of an array many times faster than three channels apart
            rows = pixels.reshape(len(pixels), -1).astype(np.uint16)
            total = total + _by_channel(rows.sum(axis=0, dtype=np.uint32), images.shape[-1])
            squares = squares + _by_channel((rows * rows).sum(axis=0, dtype=np.uint32), images.shape[-1])
    if not n:
        raise ValueError("train_images is empty: there is nothing to average")
    means, stds = [], []
    for s1, s2 in zip(total.ravel().tolist(), squares.ravel().tolist(), strict=True):
        means.append(s1 / (255 * n))
        # Python's integers are exact, so the difference of two large numbers loses nothing.
        stds.append(math.sqrt(n * s2 - s1 * s1) / (255 * n) or 1.0)
    return tuple(means), tuple(stds)


def _by_channel(sums: np.ndarray, channels: int) -> np.ndarray:
    """Adds the sums of all pixels `(H * W * C,)` to one of each channel, `(C,)`."""
    return sums.reshape(-1, channels).sum(axis=0, dtype=np.uint64)


def standardize(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """Computes `(images / 255 - mean) / std`, channel by channel.

    Args:
      images: `(..., C)` in 0..255, any dtype.
      mean: C floats, as `channel_stats` returns them.
      std: C floats, likewise.

    Returns:
      `(..., C)` float32.

    Raises:
      ValueError: `mean` or `std` has not one entry per channel.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"mean has {len(mean)}, std {len(std)} entries, images has {channels} channels; all must agree"
        )
    each = (1,) * (images.ndim - 1) + (channels,)
    shift, scale = (jnp.array(values, jnp.float32).reshape(each) for values in (mean, std))
    return (images.astype(jnp.float32) / 255 - shift) / scale


def check_pixels(train_images: np.ndarray) -> None:
    """Raises TypeError unless the images are uint8, ValueError where there are none."""
    if train_images.dtype != np.uint8:
        raise TypeError(f"train_images has dtype {train_images.dtype}; it must be uint8")
    if not train_images.size:
        raise ValueError(f"train_images has shape {train_images.shape}: there is nothing to average")
