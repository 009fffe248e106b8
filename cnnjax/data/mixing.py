"""Random augmentation that cuts images, or mixes pairs of them with their labels; pure functions for use under `jit`.

Image `b` of a batch is mixed with image `p(b)` of the same batch, where p is a random permutation. What is drawn for
it depends on the key and on `b` alone, not on the pixels or the number of devices.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Pair = tuple[jax.Array, jax.Array]


def cutout(
    key: jax.Array, x: jax.Array, *, size: int, fill: float | Sequence[float] = 0.0, inside: bool = False
) -> jax.Array:
    """Covers a square of each image, centred on a random pixel; what of it lies outside the image is cut off.

    Its rows are `r - size // 2` to `r - size // 2 + size - 1` with r uniform over the image's, its columns likewise.
    With `inside` r is uniform over those rows for which the square lies inside the image, as airbench has it.

    Args:
      key: a scalar key.
      x: `(B, H, W, C)`, any dtype.
      size: side of the square in pixels, at least 1.
      fill: what covers it, one number or one per channel. The paper's is the mean of the data, which it has brought to
        0 before.
      inside: whether the whole square lies inside the image.

    Returns:
      `(B, H, W, C)`, dtype of `x`.

    Raises:
      ValueError: `size` is below 1, or with `inside` larger than the image, or `fill` has not one entry per channel.

    References:
      DeVries, Taylor, Improved regularization of convolutional neural networks with cutout, 2017, arXiv:1708.04552.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, was {size}")
    colour = np.asarray(fill, np.float32)
    if colour.shape not in ((), x.shape[-1:]):
        raise ValueError(f"fill must be one number or one for each of {x.shape[-1]} channels, was {fill!r}")
    batch, height, width, channels = x.shape
    if inside:
        if size > min(height, width):
            raise ValueError(f"size must be at most {min(height, width)} to lie inside {height} x {width}, was {size}")
        centres = random_pixels(key, batch, height - size + 1, width - size + 1) + size // 2
    else:
        centres = random_pixels(key, batch, height, width)
    covered = rectangles(centres, jnp.full((batch, 2), size, jnp.int32), height, width)
    filling = jnp.asarray(np.broadcast_to(colour, (1, 1, 1, channels)), x.dtype)
    return jnp.where(covered[..., None], filling, x)


def mixup(key: jax.Array, x: jax.Array, y: jax.Array, *, alpha: float, num_classes: int) -> Pair:
    """Blends each image, and its label, with another of the batch.

        x'[b] = s[b] x[b] + (1 - s[b]) x[p(b)],   y' likewise,   s[b] ~ Beta(alpha, alpha)

    Each image has a share s of its own; the authors' code draws one for the batch.

    Args:
      key: a scalar key.
      x: `(B, ...)` floating point.
      y: `(B,)` classes, or `(B, num_classes)` probabilities.
      alpha: above 0; the larger, the more equal the shares. 1 makes them uniform.
      num_classes: how many classes there are.

    Returns:
      x', like `x`, and y', `(B, num_classes)` float32.

    Raises:
      TypeError: `x` is not floating point.
      ValueError: `alpha` is not above 0, or `y` is of another shape.

    References:
      Zhang, Cisse, Dauphin, Lopez-Paz, mixup: beyond empirical risk minimization, ICLR 2018, arXiv:1710.09412.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x has dtype {x.dtype}; it must be floating point: convert it first")
    labels = soft_labels(y, num_classes, len(x))
    share_key, partner_key = jax.random.split(key)
    share = random_shares(share_key, len(x), alpha)
    partner = jax.random.permutation(partner_key, len(x))
    return blend(share, x, x[partner]), blend(share, labels, labels[partner])


def cutmix(key: jax.Array, x: jax.Array, y: jax.Array, *, alpha: float, num_classes: int) -> Pair:
    """Pastes a rectangle of another image of the batch into each, in its place; labels count by area.

        x'[b] = x[p(b)] in the rectangle, x[b] outside,   y'[b] = s[b] y[b] + (1 - s[b]) y[p(b)]

    The sides are `H sqrt(1 - t)` and `W sqrt(1 - t)`, rounded down, with t ~ Beta(alpha, alpha); the centre is a
    random pixel; what lies outside the image is cut off; s is the share of pixels that stay. Each image has a
    rectangle of its own; the authors' code draws one for the batch.

    Args:
      key: a scalar key.
      x: `(B, H, W, C)`, any dtype.
      y: `(B,)` classes, or `(B, num_classes)` probabilities.
      alpha: above 0; 1 in the paper, which makes t uniform.
      num_classes: how many classes there are.

    Returns:
      x', like `x`, and y', `(B, num_classes)` float32.

    Raises:
      ValueError: `alpha` is not above 0, or `y` is of another shape.

    References:
      Yun et al., CutMix: regularization strategy to train strong classifiers with localizable features, ICCV 2019,
      arXiv:1905.04899.
    """
    batch, height, width, _ = x.shape
    labels = soft_labels(y, num_classes, batch)
    share_key, partner_key, centre_key = jax.random.split(key, 3)
    side = jnp.sqrt(1 - random_shares(share_key, batch, alpha))
    partner = jax.random.permutation(partner_key, batch)
    sides = jnp.stack([side * height, side * width], axis=1).astype(jnp.int32)
    pasted = rectangles(random_pixels(centre_key, batch, height, width), sides, height, width)
    share = 1 - pasted.mean((1, 2), dtype=jnp.float32)
    return jnp.where(pasted[..., None], x[partner], x), blend(share, labels, labels[partner])


def one_hot(classes: jax.Array, num_classes: int) -> jax.Array:
    """Returns bools `(*S, num_classes)` that are True at the classes `(*S)`, ints of any size; all False for others."""
    return jax.nn.one_hot(classes.astype(jnp.int32), num_classes, dtype=bool)  # small ints would wrap


def soft_labels(y: jax.Array, num_classes: int, batch: int) -> jax.Array:
    """Returns classes `(B,)` as float32 probabilities `(B, num_classes)`; casts what is of this shape already.

    Raises:
      ValueError: `y` is neither.
    """
    if y.shape == (batch,) and jnp.issubdtype(y.dtype, jnp.integer):
        return one_hot(y, num_classes).astype(jnp.float32)
    if y.shape == (batch, num_classes):
        return y.astype(jnp.float32)
    raise ValueError(
        f"y must be classes ({batch},), int, or probabilities ({batch}, {num_classes}), was {y.dtype} {y.shape}"
    )


def random_shares(key: jax.Array, batch: int, alpha: float) -> jax.Array:
    """Draws from Beta(alpha, alpha) for each image: `(B,)` float32.

    Raises:
      ValueError: `alpha` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, was {alpha}")
    if alpha == 1:  # uniform, without the loops of the gamma distribution
        return jax.random.uniform(key, (batch,), jnp.float32)
    return jax.random.beta(key, jnp.float32(alpha), jnp.float32(alpha), (batch,), jnp.float32)


def random_pixels(key: jax.Array, batch: int, height: int, width: int) -> jax.Array:
    """Draws a pixel of each image: `(B, 2)` int32, row and column, uniform."""
    return jax.random.randint(key, (batch, 2), 0, jnp.array([[height, width]], jnp.int32), jnp.int32)


def rectangles(centres: jax.Array, sides: jax.Array, height: int, width: int) -> jax.Array:
    """Returns where rectangles lie, `(B, height, width)` bool.

    Rows go from `centre - side // 2` on, as many as the side has; columns likewise.

    Args:
      centres: `(B, 2)` int32, row and column.
      sides: `(B, 2)` int32, likewise.
      height: of the images.
      width: of the images.
    """

    def inside(axis: int, length: int) -> jax.Array:
        offset = jnp.arange(length, dtype=jnp.int32)[None] - (centres - sides // 2)[:, axis, None]
        return (offset >= 0) & (offset < sides[:, axis, None])

    return inside(0, height)[:, :, None] & inside(1, width)[:, None, :]


def blend(share: jax.Array, first: jax.Array, second: jax.Array) -> jax.Array:
    """Returns `share * first + (1 - share) * second`, a share `(B,)` for each example."""
    share = share.astype(first.dtype).reshape(-1, *[1] * (first.ndim - 1))
    return share * first + (1 - share) * second
