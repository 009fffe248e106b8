"""Augmentation and standardisation of image batches, as pure functions for use on the device under ``jit``.

Image ``b`` of a batch is changed according to the key and to ``b`` alone: neither the other images nor
the number of devices matter.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates


def random_affine(
    key: jax.Array, batch: int, *, degrees: float, scale: float, shift: float
) -> tuple[jax.Array, jax.Array]:
    """Draws rotation, scale and shift, each uniform and independent, for every image of a batch.

    ``A = R(a) diag(sy, sx)`` with ``a`` in ``[-degrees, degrees]`` (counter-clockwise on the screen),
    ``sy`` and ``sx`` in ``[1 - scale, 1 + scale]``; ``t`` in ``[-shift, shift]``.

    Args:
      key: a scalar key.
      batch: number of images B.
      degrees, scale, shift: the strengths; ``0 <= scale < 1``, ``shift`` in parts of the image's side.

    Returns:
      The inverse of ``A``, (B, 2, 2) float32, and ``t``, (B, 2) float32, axes in the order (row, column).

    Raises:
      ValueError: a strength is negative, or ``scale`` is 1 or more.
    """
    if degrees < 0 or shift < 0 or not 0 <= scale < 1:
        raise ValueError(
            f"degrees={degrees}, scale={scale}, shift={shift}: none may be negative, scale must be below 1"
        )
    draws = jax.random.uniform(key, (batch, 5), jnp.float32, -1.0, 1.0)
    angle = draws[:, 0] * math.radians(degrees)
    size = 1 + draws[:, 1:3] * scale
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rotate_back = jnp.stack([cos, sin, -sin, cos], axis=-1).reshape(batch, 2, 2)
    return rotate_back / size[:, :, None], draws[:, 3:5] * shift


def warp(images: jax.Array, inverse: jax.Array, offset: jax.Array) -> jax.Array:
    """Moves the pixels at ``p`` to ``c + A (p - c) + t`` with bilinear sampling, zero outside.

    Output pixel ``q`` is the input at ``c + A^-1 (q - c - t)``, interpolated between its four
    neighbours; neighbours outside the image count as 0.  ``c`` is the image's centre.

    Args:
      images: (B, H, W, C), floating point.
      inverse: (B, 2, 2), ``A^-1`` in pixels, axes in the order (row, column).
      offset: (B, 2), ``t`` in parts of (H, W).

    Returns:
      (B, H, W, C), dtype of ``images``.

    Raises:
      TypeError: ``images`` is not floating point (interpolation would have to round).
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images has dtype {images.dtype}; it must be floating point: convert it first")
    height, width = images.shape[1:3]
    centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] - centre_row
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] - centre_column

    def one(image, inverse, offset):
        y, x = rows - offset[0] * height, columns - offset[1] * width
        # Written out: a matrix product would round the coordinates to bfloat16 on a TPU.
        at = [
            centre_row + inverse[0, 0] * y + inverse[0, 1] * x,
            centre_column + inverse[1, 0] * y + inverse[1, 1] * x,
        ]

        def channel(plane):
            return map_coordinates(plane, at, order=1, mode="constant")

        return jax.vmap(channel, in_axes=2, out_axes=2)(image)

    return jax.vmap(one)(images, inverse, offset)


def affine(
    key: jax.Array, images: jax.Array, *, degrees: float = 10.0, scale: float = 0.1, shift: float = 0.1
) -> jax.Array:
    """Turns, stretches and shifts each image at random: ``warp(images, *random_affine(key, B, ...))``.

    Args:
      key: a scalar key.
      images: (B, H, W, C) floating point with background 0 (so before standardisation).
      degrees, scale, shift: see :func:`random_affine`; all zero gives the images back, bit for bit.

    Returns:
      (B, H, W, C), dtype of ``images``.
    """
    return warp(images, *random_affine(key, images.shape[0], degrees=degrees, scale=scale, shift=shift))


def crop_flip(
    key: jax.Array, images: jax.Array, *, pad: int = 4, mode: str = "constant", size: int | None = None
) -> jax.Array:
    """Pads by ``pad``, crops a window at random, and mirrors every other image on average.

    Args:
      key: a scalar key.
      images: (B, H, W, C), any dtype.
      pad: pixels on each side; the shift is uniform over all places of the window.
      mode: how to pad, as in ``jnp.pad``: ``"constant"`` (zeros, as for CIFAR in the ResNet paper) or
        ``"reflect"``.
      size: the side S of the window, of square images; by default the window is as large as the image.

    Returns:
      (B, H, W, C) or (B, S, S, C), dtype of ``images``.

    Raises:
      ValueError: ``size`` is given and the images are not square, or are smaller with their padding.

    References:
      He et al., Deep residual learning for image recognition, 2016, section 4.2.  Crops of larger images:
      Krizhevsky et al., ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    batch, height, width, _ = images.shape
    if size is not None and (height != width or not 1 <= size <= height + 2 * pad):
        raise ValueError(
            f"size must be from 1 to the side of square images with pad={pad}, was {size} for {height} x {width}"
        )
    spare = 2 * pad if size is None else height + 2 * pad - size
    height, width = (height, width) if size is None else (size, size)
    shift_key, flip_key = jax.random.split(key)
    shift = jax.random.randint(shift_key, (batch, 2), 0, spare + 1, jnp.int32)
    flip = jax.random.bernoulli(flip_key, 0.5, (batch, 1))
    rows = shift[:, :1] + jnp.arange(height, dtype=jnp.int32)
    columns = jnp.arange(width, dtype=jnp.int32)
    columns = shift[:, 1:] + jnp.where(flip, columns[::-1], columns)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)

    # One gather; a vmapped dynamic_slice was 2-3 times slower inside scan on the CPU.
    def take(image, r, c):
        return image.at[r[:, None], c[None, :]].get(mode="promise_in_bounds")

    return jax.vmap(take)(padded, rows, columns)


def centre_crop(images: Any, size: int) -> Any:
    """The window of ``size`` x ``size`` in the middle; of an odd remainder less is cut off at the top and the left.

    Args:
      images: (B, H, W, C), any dtype, an array of JAX or of NumPy.
      size: at most H and W.

    Returns:
      (B, size, size, C), an array of the same kind.

    Raises:
      ValueError: the images are smaller.
    """
    height, width = images.shape[1:3]
    if not 1 <= size <= min(height, width):
        raise ValueError(f"size must be from 1 to {min(height, width)}, the smaller side of the images, was {size}")
    top, left = (height - size) // 2, (width - size) // 2
    return images[:, top : top + size, left : left + size]


def ten_crops(images: jax.Array, size: int) -> jax.Array:
    """The windows in the four corners and in the middle, and their mirrors; a net is evaluated by its mean over them.

    Args:
      images: (B, H, W, C), any dtype.
      size: at most H and W.

    Returns:
      (10, B, size, size, C): top left, top right, bottom left, bottom right, middle, then the mirror of each.

    Raises:
      ValueError: the images are smaller.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    middle = centre_crop(images, size)
    top, bottom = images[:, :size], images[:, images.shape[1] - size :]
    corners = [rows[:, :, columns] for rows in (top, bottom) for columns in (slice(size), slice(-size, None))]
    windows = jnp.stack([*corners, middle])
    return jnp.concatenate([windows, windows[..., ::-1, :]])


def colour_axes(train_images: np.ndarray) -> np.ndarray:
    """The principal axes of the colours of the training images, each as long as its eigenvalue, for :func:`pca_jitter`.

    Row ``i`` is ``255 lambda_i p_i``, with ``lambda_i`` and ``p_i`` the ``i``-th largest eigenvalue and its vector of
    the C x C covariance of all pixels in 0..1 (of ImageNet 0.22, 0.019 and 0.0045).

    Args:
      train_images: (N, H, W, C) uint8 on the host.

    Returns:
      (C, C) float32.  The largest component of each row is positive: an eigenvector has no sign of its own.

    Raises:
      TypeError: ``train_images`` is not uint8.
      ValueError: there are no images.
    """
    _check_bytes(train_images)
    channels = train_images.shape[-1]
    total, products = np.zeros(channels), np.zeros((channels, channels))
    for start in range(0, len(train_images), 1000):  # in pieces: float64 takes eight times the memory
        pixels = train_images[start : start + 1000].reshape(-1, channels).astype(np.float64)
        total += pixels.sum(axis=0)  # exact: whole numbers far below 2^53
        products += pixels.T @ pixels
    n = math.prod(train_images.shape[:-1])
    mean = total / n
    values, vectors = np.linalg.eigh((products / n - np.outer(mean, mean)) / 255**2)
    axes = (values * vectors).T[::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1, keepdims=True), axis=1)
    return (255 * axes * np.where(largest < 0, -1, 1)).astype(np.float32)


def pca_jitter(key: jax.Array, images: jax.Array, axes: np.ndarray, *, deviation: float = 0.1) -> jax.Array:
    """Changes light and colour of each image: every pixel of image ``b`` is moved by ``sum_i a_bi axes_i``.

    ``a_bi`` is normal with mean 0 and the deviation given, drawn anew for each image and axis.  Nothing is clipped.

    Args:
      key: a scalar key.
      images: (B, H, W, C) floating point in 0..255.
      axes: (C, C), as :func:`colour_axes` gives them.
      deviation: of the draws, the paper's 0.1.

    Returns:
      (B, H, W, C), dtype of ``images``.

    Raises:
      TypeError: ``images`` is not floating point.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images has dtype {images.dtype}; it must be floating point: convert it first")
    draws = deviation * jax.random.normal(key, (len(images), len(axes)), jnp.float32)
    # Written out: a matrix product would round to bfloat16 on a TPU.
    moved = (draws[:, :, None] * jnp.asarray(axes, jnp.float32)).sum(1)
    return images + moved[:, None, None, :].astype(images.dtype)


def augment_for(channels: int) -> Callable[..., jax.Array]:
    """The default augmentation: :func:`affine` for one channel (characters), :func:`crop_flip` for photos."""
    return affine if channels == 1 else crop_flip


def channel_stats(train_images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of the training images in 0..1, from exact sums.

    Args:
      train_images: (N, H, W, C) uint8 on the host.

    Returns:
      ``(mean, std)``, each a tuple of C floats.  A channel that never changes gets std 1, so that
      :func:`standardize` makes it 0.

    Raises:
      TypeError: ``train_images`` is not uint8.
      ValueError: there are no images.
    """
    _check_bytes(train_images)
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
    """``(images / 255 - mean) / std``, channel by channel.

    Args:
      images: (..., C) in 0..255, any dtype.
      mean, std: C floats each, as :func:`channel_stats` gives them.

    Returns:
      (..., C) float32.

    Raises:
      ValueError: ``mean`` or ``std`` has not one entry per channel.
    """
    channels = images.shape[-1]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"mean has {len(mean)}, std {len(std)} entries, images has {channels} channels; all must agree"
        )
    return (images.astype(jnp.float32) / 255 - jnp.array(mean, jnp.float32)) / jnp.array(std, jnp.float32)


def _check_bytes(train_images: np.ndarray) -> None:
    if train_images.dtype != np.uint8:
        raise TypeError(f"train_images has dtype {train_images.dtype}; it must be uint8")
    if not train_images.size:
        raise ValueError(f"train_images has shape {train_images.shape}: there is nothing to average")
