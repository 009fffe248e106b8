"""Random augmentation of image batches, as pure functions for use under `jit`.

How image `b` of a batch is changed depends on the key and on `b` alone, not on the other images or the number of
devices.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from cnnjax.data.preprocess import Size, check_pixels, height_and_width


class BatchInfo(NamedTuple):
    """Says which examples a batch has, and when: for augmentations that treat an example alike throughout a run.

    Attributes:
      numbers: of the examples in the training set, `(B,)` int32.
      epoch: of the batch, an int32 scalar.
      run_key: a scalar key, the same for all batches of a run.
    """

    numbers: jax.Array
    epoch: jax.Array
    run_key: jax.Array


def random_affine(
    key: jax.Array, batch: int, *, degrees: float, scale: float, shift: float
) -> tuple[jax.Array, jax.Array]:
    """Draws rotation, scale and shift for every image of a batch.

    Each is uniform, and independent of the others.

        A = R(a) diag(sy, sx),  a in [-degrees, degrees] (counter-clockwise on the screen),
        sy, sx in [1 - scale, 1 + scale],  t in [-shift, shift]

    Args:
      key: a scalar key.
      batch: number of images B.
      degrees: largest rotation.
      scale: largest relative change of size, `0 <= scale < 1`.
      shift: largest shift, as a fraction of the image's side.

    Returns:
      The inverse of A, `(B, 2, 2)` float32, and t, `(B, 2)` float32, axes in the order (row, column).

    Raises:
      ValueError: an argument is negative, or `scale` is 1 or more.
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
    """Moves the pixels at p to `c + A (p - c) + t` with bilinear sampling, zero outside.

    Output pixel q is the input at `c + A^-1 (q - c - t)`, interpolated between its four neighbours; neighbours
    outside the image count as 0. c is the image's centre.

    Args:
      images: `(B, H, W, C)`, floating point.
      inverse: `(B, 2, 2)`, `A^-1` in pixels, axes in the order (row, column).
      offset: `(B, 2)`, t as fractions of (H, W).

    Returns:
      `(B, H, W, C)`, dtype of `images`.

    Raises:
      TypeError: `images` is not floating point (interpolation would have to round).
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images has dtype {images.dtype}; it must be floating point: convert it first")
    height, width = images.shape[1:3]
    centre_row, centre_column = (height - 1) / 2, (width - 1) / 2
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] - centre_row
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] - centre_column

    def warp_image(image: jax.Array, inverse: jax.Array, offset: jax.Array) -> jax.Array:
        y, x = rows - offset[0] * height, columns - offset[1] * width
        # Written out: a matrix product would round the coordinates to bfloat16 on a TPU.
        at = [
            centre_row + inverse[0, 0] * y + inverse[0, 1] * x,
            centre_column + inverse[1, 0] * y + inverse[1, 1] * x,
        ]

        def warp_channel(plane: jax.Array) -> jax.Array:
            return map_coordinates(plane, at, order=1, mode="constant")

        return jax.vmap(warp_channel, in_axes=2, out_axes=2)(image)

    return jax.vmap(warp_image)(images, inverse, offset)


def affine(
    key: jax.Array, images: jax.Array, *, degrees: float = 10.0, scale: float = 0.1, shift: float = 0.1
) -> jax.Array:
    """Rotates, scales and shifts each image at random.

    It is `warp(images, *random_affine(key, B, ...))`.

    With all three strengths 0 the images are returned bit for bit.

    Args:
      key: a scalar key.
      images: `(B, H, W, C)` floating point with background 0, so before standardisation.
      degrees: largest rotation.
      scale: largest relative change of size.
      shift: largest shift, as a fraction of the image's side.

    Returns:
      `(B, H, W, C)`, dtype of `images`.
    """
    return warp(images, *random_affine(key, images.shape[0], degrees=degrees, scale=scale, shift=shift))


def crop_flip(
    key: jax.Array,
    images: jax.Array,
    *,
    pad: int = 4,
    mode: str = "constant",
    size: Size | None = None,
    flip: bool = True,
) -> jax.Array:
    """Pads, crops at random, and mirrors each image with probability 1/2.

    Args:
      key: a scalar key.
      images: `(B, H, W, C)`, any dtype.
      pad: pixels of padding on each side; the crop's corner is uniform over all that fit.
      mode: `"constant"` (zeros, as for CIFAR in the ResNet paper) or `"reflect"`, as in `jnp.pad`.
      size: side of the crop, or its height and width; by default the crop is as large as the image.
      flip: False for characters, which mean nothing or another thing when mirrored: then images are only cropped, at
        the same corners.

    Returns:
      `(B, H, W, C)` or `(B, *size, C)`, dtype of `images`.

    Raises:
      ValueError: the images are smaller than `size`, with their padding.

    References:
      He et al., Deep residual learning for image recognition, 2016, section 4.2. Crops of larger images:
      Krizhevsky et al., ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    batch, *sides, _ = images.shape
    height, width = sides if size is None else height_and_width(size)
    spare = [side + 2 * pad - cropped for side, cropped in zip(sides, (height, width), strict=True)]
    if min(height, width) < 1 or min(spare) < 0:
        raise ValueError(
            f"size must be from 1 to the height and width of the images, {sides[0]} x {sides[1]} with pad={pad}, "
            f"was {size}"
        )
    shift_key, flip_key = jax.random.split(key)
    limits = jnp.broadcast_to(jnp.array(spare, jnp.int32) + 1, (batch, 2))
    shift = jax.random.randint(shift_key, (batch, 2), 0, limits, jnp.int32)
    mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1)) & flip
    rows = shift[:, :1] + jnp.arange(height, dtype=jnp.int32)[None]
    columns = jnp.arange(width, dtype=jnp.int32)[None]
    columns = shift[:, 1:] + jnp.where(mirrored, columns[:, ::-1], columns)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)

    # one gather: a vmapped dynamic_slice is slower inside scan on the CPU
    def take(image: jax.Array, r: jax.Array, c: jax.Array) -> jax.Array:
        return image.at[r[:, None], c[None, :]].get(mode="promise_in_bounds")

    return jax.vmap(take)(padded, rows, columns)


def alternating_flip(images: jax.Array, info: BatchInfo) -> jax.Array:
    """Mirrors each image every other epoch: a random half of all images in even epochs, the others in odd ones.

    So two epochs show every image both ways, where independent flips show half of the images the same way twice.

    Args:
      images: `(B, H, W, C)`, any dtype.
      info: of the batch. Which half it is depends on `run_key` and the numbers of the images alone.

    Returns:
      `(B, H, W, C)`, dtype of `images`.

    References:
      Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024, arXiv:2404.00498, section 3.6.
    """

    def first(number: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(info.run_key, number))

    mirrored = jax.vmap(first)(info.numbers) ^ (info.epoch % 2 == 1)
    return jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def colour_axes(train_images: np.ndarray) -> np.ndarray:
    """Computes the principal axes of the colours of the training images, for `pca_jitter`.

    Row i is `255 lambda_i p_i`, where `lambda_i` is the i-th largest eigenvalue of the C x C covariance of all pixels
    in 0..1 and `p_i` its eigenvector (ImageNet has 0.22, 0.019 and 0.0045).

    Args:
      train_images: `(N, H, W, C)` uint8 on the host.

    Returns:
      `(C, C)` float32. The largest component of each row is positive: an eigenvector has no sign of its own.

    Raises:
      TypeError: `train_images` is not uint8.
      ValueError: there are no images.
    """
    check_pixels(train_images)
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
    """Shifts the colours of each image along the principal axes of all colours.

        y[b, h, w] = x[b, h, w] + sum_i a[b, i] axes[i],   a[b, i] normal with mean 0

    Nothing is clipped.

    Args:
      key: a scalar key.
      images: `(B, H, W, C)` floating point in 0..255.
      axes: `(C, C)`, as `colour_axes` returns them.
      deviation: standard deviation of a, 0.1 in the paper.

    Returns:
      `(B, H, W, C)`, dtype of `images`.

    Raises:
      TypeError: `images` is not floating point.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images has dtype {images.dtype}; it must be floating point: convert it first")
    draws = deviation * jax.random.normal(key, (len(images), len(axes)), jnp.float32)
    # Written out: a matrix product would round to bfloat16 on a TPU.
    moved = (draws[:, :, None] * jnp.asarray(axes, jnp.float32)[None]).sum(1)
    return images + moved[:, None, None, :].astype(images.dtype)


def augment_for(channels: int, *, mirror: bool = True, **crop: Any) -> Callable[..., jax.Array]:
    """Returns the usual augmentation of a data set.

    Args:
      channels: of its images as stored: gray ones (1) are distorted by `affine`, others by `crop_flip`.
      mirror: False where images must not be mirrored, see `may_mirror`.
      **crop: `pad` and `mode` of `crop_flip`.
    """
    if channels == 1:
        return affine
    crop = {**crop, **({} if mirror else {"flip": False})}
    return partial(crop_flip, **crop) if crop else crop_flip


def random_crops(train_images: np.ndarray, size: Size, *, mirror: bool = True) -> Callable[..., jax.Array]:
    """Returns AlexNet's augmentation: random crops, mirrored and with jittered colours.

    Args:
      train_images: the training images or a sample, `(N, H, W, C)` uint8, larger than `size`; for the axes of their
        colours.
      size: of the crops.
      mirror: as for `augment_for`.

    Returns:
      A function of a key and `(B, H, W, C)` floating point in 0..255 that returns `(B, *size, C)`.

    References:
      Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012, section 4.1.
    """
    axes = colour_axes(train_images)

    def crop_and_jitter(key: jax.Array, images: jax.Array) -> jax.Array:
        crop_key, colour_key = jax.random.split(key)
        cropped = crop_flip(crop_key, images, pad=0, size=size, flip=mirror)
        return pca_jitter(colour_key, cropped, axes)

    return crop_and_jitter
