"""Sums and means of windows, accumulated in float32 or better."""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive

from cnnjax.ops.geometry import Windows
from cnnjax.ops.pool import choose
from cnnjax.ops.pool.blocks import define_lowering
from cnnjax.ops.pool.derivatives import define_linear
from cnnjax.ops.pool.windows import counts, padded, slices_along, split_sizes, tiled_sizes, unpadded
from cnnjax.ops.primitives import aval_like
from cnnjax.ops.promotion import accumulator_dtype

Divisor = int | Literal["elements", "elements and padding"]


def sum_of_windows(x: jax.Array, windows: Windows) -> jax.Array:
    """Sums x `(N, *S, C)` over each window; padding counts as zero."""
    return mean_of_windows(x, windows, 1)


def mean_of_windows(x: jax.Array, windows: Windows, divisor: Divisor) -> jax.Array:
    """Sums x over each window and divides by a number, or by how many elements the window has."""
    return mean_p.bind(x, of="y", windows=windows, divisor=divisor)


# Means are linear. As a primitive they have a transpose of our choice (where windows tile x it repeats each cotangent,
# while XLA would pad and add an array of x's size for each tap), and are computed in blocks where x is large.

mean_p = Primitive("cnnjax_mean_of_windows")


@mean_p.def_abstract_eval
def _mean_shape(a: Any, *, of: str, windows: Windows, divisor: Divisor) -> Any:
    return aval_like(a, (a.shape[0], *(windows.output if of == "y" else windows.sizes), a.shape[-1]))


def _mean(a: jax.Array, *, of: str, windows: Windows, divisor: Divisor) -> jax.Array:
    wide = a.astype(accumulator_dtype(a.dtype))
    if of == "y":
        return _divide(_sum(wide, windows), windows, divisor).astype(a.dtype)
    return _sum_transpose(_divide(wide, windows, divisor), windows).astype(a.dtype)


def _mean_temporaries(a: Any, *, of: str, windows: Windows, divisor: Divisor) -> int:
    x_bytes, y_bytes = (
        a.shape[0] * math.prod(sizes) * a.shape[-1] * accumulator_dtype(a.dtype).itemsize
        for sizes in (windows.sizes, windows.output)
    )
    return choose.sum_temporaries(windows, x_bytes, y_bytes, transposed=of == "x")


define_linear(mean_p, ("of", "windows", "divisor"))
define_lowering(mean_p, _mean, _mean_temporaries)


def _divide(y: jax.Array, windows: Windows, divisor: Divisor) -> jax.Array:
    if divisor == 1:
        return y
    if isinstance(divisor, str):
        return y / counts(windows, include_padding=divisor == "elements and padding").astype(y.dtype)
    return y / np.asarray(divisor, y.dtype)


@functools.partial(jax.jit, static_argnums=1)
def _sum(x: jax.Array, windows: Windows) -> jax.Array:
    x = padded(x, windows)
    if choose.sum_form(windows) == "reduce_window":
        return lax.reduce_window(
            x,
            np.zeros((), x.dtype),
            lax.add,
            (1, *windows.window, 1),
            (1, *windows.stride, 1),
            "VALID",
            window_dilation=(1, *windows.dilation, 1),
        )
    for axis in reversed(range(len(windows.sizes))):
        slices = slices_along(x, windows, axis)
        x = sum(slices[1:], start=slices[0])
    return x


@functools.partial(jax.jit, static_argnums=1)
def _sum_transpose(dy: jax.Array, windows: Windows) -> jax.Array:
    """Adds dy `(N, *S', C)` to each element of its window: `(N, *S, C)`."""
    shape = (dy.shape[0], *windows.sizes, dy.shape[-1])
    if choose.sum_transpose_form(windows) == "transpose":
        return jax.linear_transpose(lambda x: _sum(x, windows), aval_like(jax.typeof(dy), shape))(dy)[0]
    inner = tuple(range(2, 2 + 2 * len(windows.sizes), 2))
    whole = jnp.broadcast_to(jnp.expand_dims(dy, inner), (shape[0], *split_sizes(windows), shape[-1]))
    return unpadded(whole.reshape(shape[0], *tiled_sizes(windows), shape[-1]), windows)


@functools.partial(jax.jit, static_argnums=1)
def norm(x: jax.Array, p: float) -> jax.Array:
    """Computes the Lp norm of x >= 0 over the last axis but one."""
    scale = lax.stop_gradient(x.max(-2, keepdims=True))
    scale = jnp.where((scale == 0) | jnp.isinf(scale), 1, scale)
    return (scale * power(power(x / scale, p).sum(-2, keepdims=True), 1 / p)).squeeze(-2)


@functools.partial(jax.jit, static_argnums=1)
def power(x: jax.Array, p: float) -> jax.Array:
    """Computes x ** p of x >= 0, with a gradient of 0 at 0 whatever p is."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.where(zero, 1, x) ** p)
