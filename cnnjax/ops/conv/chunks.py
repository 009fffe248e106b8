"""A batch worked through a few images at a time, so that what is written down between stays small.

XLA on the CPU widens each bfloat16 array that a loop reads to float32 first, all of it. So loops read its bits.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def map_over_images(f: Callable[[jax.Array], jax.Array], x: jax.Array, most: int) -> jax.Array:
    """Returns f(x), computed for at most so many images (N, ...) at a time; f treats each image by itself."""
    n, size = len(x), _evenly(len(x), most)
    if size == n:
        return f(x)
    chunk, bits = jax.eval_shape(f, x[:size]), as_bits(x)

    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        # The last chunk begins early enough to be whole, and computes some images a second time.
        start = jnp.minimum(jnp.int32(i) * jnp.int32(size), jnp.int32(n - size))
        images = from_bits(lax.dynamic_slice_in_dim(bits, start, size), x.dtype)
        return lax.dynamic_update_slice_in_dim(y, as_bits(f(images)), start, 0)

    y = as_bits(jnp.zeros((n, *chunk.shape[1:]), chunk.dtype))
    return from_bits(lax.fori_loop(0, -(-n // size), step, y), chunk.dtype)


def sum_over_images(
    f: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, dy: jax.Array, most: int
) -> jax.Array:
    """Returns f(x, dy), a sum over images, added up over at most so many images at a time."""
    n, size = len(x), _evenly(len(x), most)
    if size == n:
        return f(x, dy)
    bits = as_bits(x), as_bits(dy)

    def step(i: jax.Array, total: jax.Array) -> jax.Array:
        start = jnp.int32(i) * jnp.int32(size)
        parts = (lax.dynamic_slice_in_dim(a, start, size) for a in bits)
        return total + f(*(from_bits(part, a.dtype) for part, a in zip(parts, (x, dy), strict=True)))

    shape = jax.eval_shape(f, x[:size], dy[:size])
    total = lax.fori_loop(0, n // size, step, jnp.zeros(shape.shape, shape.dtype))
    rest = n % size
    return total + f(x[-rest:], dy[-rest:]) if rest else total


def as_bits(x: jax.Array) -> jax.Array:
    """Returns an array as a loop should hold it: the bits of bfloat16, as uint16; others as they are."""
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x


def from_bits(bits: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """Returns what `as_bits` took, or a part of it."""
    return bits if bits.dtype == dtype else lax.bitcast_convert_type(bits, dtype)


def _evenly(count: int, most: int) -> int:
    """Returns the size of chunks of about one size, none above `most`; a divisor of the count where one is near."""
    most = max(min(most, count), 1)
    divisor = max(d for d in range(1, most + 1) if count % d == 0)
    return divisor if 2 * divisor >= most else -(-count // -(-count // most))
