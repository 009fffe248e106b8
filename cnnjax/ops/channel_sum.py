"""Sums over neighbouring channels, of which local response normalisation is made."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cnnjax.ops.geometry import slide
from cnnjax.ops.pool.derivatives import define_linear
from cnnjax.ops.pool.sums import sum_of_windows
from cnnjax.ops.primitives import aval_like


def channel_sum(x: jax.Array, low: int, high: int) -> jax.Array:
    """Sums each channel of x `(N, *S, C)` with its neighbours, as far as there are channels.

        y[n, s, c] = sum over j from c - low to c + high of x[n, s, j]

    On a TPU an infinity or NaN reaches all channels of its pixel.
    """
    return channel_sum_p.bind(x, of="y", low=low, high=high)


# A primitive, because TPUs compute it in another way: they shift channels slowly, and multiply matrices fast.

channel_sum_p = Primitive("cnnjax_channel_sum")


@channel_sum_p.def_abstract_eval
def _shape(x: Any, *, of: str, low: int, high: int) -> Any:
    return aval_like(x, x.shape)


def _by_windows(x: jax.Array, *, of: str, low: int, high: int) -> jax.Array:
    if of == "x":  # the transpose
        low, high = high, low
    channels = x.shape[-1]
    # a pool over the channels, whose padding need not reach beyond their other end
    low, high = min(low, channels - 1), min(high, channels - 1)
    windows = slide((channels,), (low + high + 1,), padding=((low, high),))
    return sum_of_windows(x.reshape(math.prod(x.shape[:-1]), channels, 1), windows).reshape(x.shape)


def _by_product(x: jax.Array, *, of: str, low: int, high: int) -> jax.Array:
    if of == "x":
        low, high = high, low
    channel = np.arange(x.shape[-1])
    distance = channel[:, None] - channel[None, :]  # of the channel that is read from the one that is written
    band = jnp.asarray((-low <= distance) & (distance <= high), x.dtype)
    return lax.dot_general(x, band, (((x.ndim - 1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)


define_linear(channel_sum_p, ("of", "low", "high"))
mlir.register_lowering(channel_sum_p, mlir.lower_fun(_by_windows, multiple_results=False))
mlir.register_lowering(channel_sum_p, mlir.lower_fun(_by_product, multiple_results=False), platform="tpu")
