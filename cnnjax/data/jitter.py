"""Random changes of brightness, contrast and saturation, as a pure function for use under `jit`."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_LUMA = (0.299, 0.587, 0.114)  # red, green and blue in gray, ITU-R 601-2
_BRIGHTNESS, _CONTRAST = 0, 1  # and saturation 2


def colour_jitter(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
) -> jax.Array:
    """Changes brightness, contrast and saturation of each image, in a drawn order.

        y = clip(f x + (1 - f) g, 0, 255),   f uniform in [max(0, 1 - strength), 1 + strength]

    For the brightness g is 0, for the contrast the mean of the image's gray values, for the saturation the gray value
    of the pixel. It is torchvision's `ColorJitter` without its fourth part, the hue, which needs another colour space.

    It belongs on the device: three passes over the pixels, which fuse with what follows.

    Args:
      key: a scalar key.
      images: `(B, H, W, C)` floating point in 0..255, C is 1 or 3.
      brightness: strength, at least 0; 0 leaves the brightness as it is.
      contrast: likewise.
      saturation: likewise; gray images have none.

    Returns:
      `(B, H, W, C)`, dtype of `images`.

    Raises:
      TypeError: `images` is not floating point.
      ValueError: a strength is negative.

    References:
      Howard, Some improvements on deep convolutional neural network based image classification, 2013, arXiv:1312.5402.
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images has dtype {images.dtype}; it must be floating point: convert it first")
    strengths = jnp.array([brightness, contrast, saturation], jnp.float32)
    if min(brightness, contrast, saturation) < 0:
        raise ValueError(f"{brightness=}, {contrast=}, {saturation=}: none may be negative")
    batch, _, _, channels = images.shape
    draws = jax.random.uniform(key, (batch, 2, 3), jnp.float32)
    low = jnp.maximum(1 - strengths, 0)[None]
    factors = low + draws[:, 0] * (1 + strengths[None] - low)
    order = jnp.argsort(draws[:, 1], axis=1)

    x = images.astype(jnp.float32)
    for position in range(3):
        which = order[:, position, None]
        f = jnp.take_along_axis(factors, which, axis=1)[:, :, None, None]
        which = which[:, :, None, None]
        gray = x
        if channels == 3:
            gray = _LUMA[0] * x[..., :1] + _LUMA[1] * x[..., 1:2] + _LUMA[2] * x[..., 2:]
        other = jnp.where(which == _CONTRAST, gray.mean((1, 2), keepdims=True), gray)
        other = jnp.where(which == _BRIGHTNESS, 0.0, other)
        x = jnp.clip(f * x + (1 - f) * other, 0, 255)
    return x.astype(images.dtype)
