"""A batch worked through a few images at a time, so that what is written down between stays small."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def map_over_images(f: Callable[[jax.Array], jax.Array], x: jax.Array, most: int) -> jax.Array:
    """Returns f(x), computed for at most so many images (N, ...) at a time; f treats each image by itself."""
    n, size = len(x), _evenly(len(x), most)
    if size == n:
        return f(x)
    chunk = jax.eval_shape(f, x[:size])

    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        # The last chunk begins early enough to be whole, and computes some images a second time.
        start = jnp.minimum(jnp.int32(i) * jnp.int32(size), jnp.int32(n - size))
        return lax.dynamic_update_slice_in_dim(y, f(lax.dynamic_slice_in_dim(x, start, size)), start, 0)

    y = jnp.zeros((n, *chunk.shape[1:]), chunk.dtype)
    return lax.fori_loop(0, -(-n // size), step, y)


def sum_over_images(
    f: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, dy: jax.Array, most: int
) -> jax.Array:
    """Returns f(x, dy), a sum over images, added up over at most so many images at a time."""
    n, size = len(x), _evenly(len(x), most)
    if size == n:
        return f(x, dy)

    def step(i: jax.Array, total: jax.Array) -> jax.Array:
        start = jnp.int32(i) * jnp.int32(size)
        return total + f(*(lax.dynamic_slice_in_dim(a, start, size) for a in (x, dy)))

    shape = jax.eval_shape(f, x[:size], dy[:size])
    total = lax.fori_loop(0, n // size, step, jnp.zeros(shape.shape, shape.dtype))
    rest = n % size
    return total + f(x[-rest:], dy[-rest:]) if rest else total


def _evenly(count: int, most: int) -> int:
    """Returns the size of chunks of about one size, none above `most`; a divisor of the count where one is near."""
    most = max(min(most, count), 1)
    divisor = max(d for d in range(1, most + 1) if count % d == 0)
    return divisor if 2 * divisor >= most else -(-count // -(-count // most))
