"""Random augmentation of image batches, as pure functions for use under `jit`.

How image `b` of a batch is changed depends on the key and on `b` alone, not on the other images or the number of
devices.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from cnnjax.data.preprocess import check_pixels


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
    key: jax.Array, images: jax.Array, *, pad: int = 4, mode: str = "constant", size: int | None = None
) -> jax.Array:
    """Pads, crops at random, and mirrors each image with probability 1/2.

    Args:
      key: a scalar key.
      images: `(B, H, W, C)`, any dtype.
      pad: pixels of padding on each side; the crop's corner is uniform over all that fit.
      mode: `"constant"` (zeros, as for CIFAR in the ResNet paper) or `"reflect"`, as in `jnp.pad`.
      size: side S of the crop, for square images; by default the crop is as large as the image.

    Returns:
      `(B, H, W, C)` or `(B, S, S, C)`, dtype of `images`.

    Raises:
      ValueError: `size` is given and the images are not square, or are smaller with their padding.

    References:
      He et al., Deep residual learning for image recognition, 2016, section 4.2. Crops of larger images:
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

    # one gather: a vmapped dynamic_slice is slower inside scan on the CPU
    def take(image: jax.Array, r: jax.Array, c: jax.Array) -> jax.Array:
        return image.at[r[:, None], c[None, :]].get(mode="promise_in_bounds")

    return jax.vmap(take)(padded, rows, columns)


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
    moved = (draws[:, :, None] * jnp.asarray(axes, jnp.float32)).sum(1)
    return images + moved[:, None, None, :].astype(images.dtype)


def augment_for(channels: int) -> Callable[..., jax.Array]:
    """Returns `affine` for one channel (characters), `crop_flip` for more (photos)."""
    return affine if channels == 1 else crop_flip
