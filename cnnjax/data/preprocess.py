"""What is done to pixels on the way into a net, without randomness."""

import math
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError

_Images = TypeVar("_Images", jax.Array, np.ndarray)

LARGEST_ENLARGED_SIDE = 28
"""Small images are enlarged by the largest whole factor that keeps their sides within this many pixels."""


def pad_to_square(images: np.ndarray, size: int) -> np.ndarray:
    """Pads images to `size` x `size` with black (0), centred; enlarges small ones first.

    The factor is `max(1, min(28, size) // max(H, W))`, applied with Pillow's bilinear filter: 8 x 8 becomes 24 x 24
    with a border of 4 where `size` is 32, 28 x 28 gets a border of 2, and 32 x 32 stays as it is. An odd remainder
    goes to the bottom and the right.

    Args:
      images: `(N, H, W, C)` uint8.
      size: side of the result in pixels.

    Returns:
      `(N, size, size, C)` uint8.

    Raises:
      UserError: the images are larger than `size`.
    """
    n, height, width, channels = images.shape
    if max(height, width) > size:
        raise UserError(
            f"The images are {height} x {width} pixels; this network takes at most {size} x {size}. "
            "Choose a data set of smaller images."
        )
    if height == width == size:
        return images
    images = _enlarge(images, max(1, min(LARGEST_ENLARGED_SIDE, size) // max(height, width)))
    height, width = images.shape[1:3]
    top, left = (size - height) // 2, (size - width) // 2
    canvas = np.zeros((n, size, size, channels), np.uint8)
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


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes the shorter side to `size` pixels and crops the centre.

    The filter is Pillow's bilinear one.

    Args:
      images: `(N, H, W, C)` uint8.
      size: side of the result in pixels.

    Returns:
      `(N, size, size, C)` uint8; images of that size already are returned as they are.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 2.
    """
    if images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    n, height, width, channels = images.shape
    short = min(height, width)
    side = height * size // short, width * size // short
    top, left = (side[0] - size) // 2, (side[1] - size) // 2
    resized = np.empty((n, size, size, channels), np.uint8)
    for image, out in zip(images, resized, strict=True):
        whole = Image.fromarray(image[..., 0] if channels == 1 else image)
        smaller = np.asarray(whole.resize(side[::-1], Image.Resampling.BILINEAR))
        out[...] = smaller.reshape(*side, channels)[top : top + size, left : left + size]
    return resized


def centre_crop(images: _Images, size: int) -> _Images:
    """Crops the centre, `size` x `size`.

    Of an odd remainder less is cut off at the top and the left.

    Args:
      images: `(B, H, W, C)`, any dtype, an array of JAX or of NumPy.
      size: at most H and W.

    Returns:
      `(B, size, size, C)`, an array of the same kind.

    Raises:
      ValueError: the images are smaller than `size`.
    """
    height, width = images.shape[1:3]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size must be from 1 to {min(height, width)}, the smaller side of the images, was {size}")
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, top : top + size, left : left + size]


def ten_crops(images: jax.Array, size: int) -> jax.Array:
    """Crops the four corners and the centre, and mirrors each.

    A net is evaluated by its mean over the ten crops.

    Args:
      images: `(B, H, W, C)`, any dtype.
      size: at most H and W.

    Returns:
      `(10, B, size, size, C)`: top left, top right, bottom left, bottom right, centre, then the mirror of each.

    Raises:
      ValueError: the images are smaller than `size`.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    centre = centre_crop(images, size)
    top, bottom = images[:, :size], images[:, images.shape[1] - size :]
    corners = [rows[:, :, columns] for rows in (top, bottom) for columns in (slice(size), slice(-size, None))]
    crops = jnp.stack([*corners, centre])
    return jnp.concatenate([crops, crops[..., ::-1, :]])


def channel_stats(train_images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Computes mean and standard deviation per channel, of pixels in 0..1.

    The sums are exact.

    Args:
      train_images: `(N, H, W, C)` uint8 on the host.

    Returns:
      `(mean, std)`, each a tuple of C floats. A constant channel gets std 1, so that `standardize` makes it 0.

    Raises:
      TypeError: `train_images` is not uint8.
      ValueError: there are no images.
    """
    check_pixels(train_images)
    n = math.prod(train_images.shape[:-1])
    channels = train_images.shape[-1]
    total, squares = np.zeros(channels, np.uint64), np.zeros(channels, np.uint64)
    for start in range(0, len(train_images), 1000):  # in pieces: the squares take four times the memory
        pixels = train_images[start : start + 1000].reshape(-1, channels).astype(np.uint32)
        total += pixels.sum(axis=0, dtype=np.uint64)
        squares += (pixels * pixels).sum(axis=0, dtype=np.uint64)
    means, stds = [], []
    for s1, s2 in zip(total.tolist(), squares.tolist(), strict=True):
        means.append(s1 / (255 * n))
        # Python's integers are exact, so the difference of two large numbers loses nothing.
        stds.append(math.sqrt(n * s2 - s1 * s1) / (255 * n) or 1.0)
    return tuple(means), tuple(stds)


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
    return (images.astype(jnp.float32) / 255 - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def check_pixels(train_images: np.ndarray) -> None:
    """Raises TypeError unless the images are uint8, ValueError where there are none."""
    if train_images.dtype != np.uint8:
        raise TypeError(f"train_images has dtype {train_images.dtype}; it must be uint8")
    if not train_images.size:
        raise ValueError(f"train_images has shape {train_images.shape}: there is nothing to average")
