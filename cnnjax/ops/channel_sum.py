"""Sums over neighbouring channels, of which local response normalisation is made."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cnnjax.ops.geometry import slide
from cnnjax.ops.pool import choose
from cnnjax.ops.pool.derivatives import define_linear
from cnnjax.ops.pool.sums import sum_of_windows
from cnnjax.ops.primitives import aval_like


def channel_sum(x: jax.Array, low: int, high: int) -> jax.Array:
    """Sums each channel of x `(N, *S, C)` with its neighbours, as far as there are channels.

        y[n, s, c] = sum over j from c - low to c + high of x[n, s, j]

    On a TPU an infinity or NaN reaches all channels of its pixel.
    """
    return channel_sum_p.bind(x, of="y", low=low, high=high)


# A primitive, because its form depends on the platform (`cnnjax.ops.pool.choose`), which is known at lowering.

channel_sum_p = Primitive("cnnjax_channel_sum")


@channel_sum_p.def_abstract_eval
def _shape(x: Any, *, of: str, low: int, high: int) -> Any:
    return aval_like(x, x.shape)


def _channel_sum(x: jax.Array, *, of: str, low: int, high: int, platform: str) -> jax.Array:
    if of == "x":  # the transpose
        low, high = high, low
    forms = {"product": _by_product, "windows": _by_windows}
    return forms[choose.channel_sum_form(platform)](x, low, high)


def _by_windows(x: jax.Array, low: int, high: int) -> jax.Array:
    """Sums over windows of channels, whose padding need not reach beyond their other end."""
    channels = x.shape[-1]
    low, high = min(low, channels - 1), min(high, channels - 1)
    windows = slide((channels,), (low + high + 1,), padding=((low, high),))
    return sum_of_windows(x.reshape(math.prod(x.shape[:-1]), channels, 1), windows).reshape(x.shape)


def _by_product(x: jax.Array, low: int, high: int) -> jax.Array:
    """Multiplies with a banded matrix of ones."""
    channel = np.arange(x.shape[-1])
    distance = channel[:, None] - channel[None, :]  # from the channel that is written to the one that is read
    band = jnp.asarray((-low <= distance) & (distance <= high), x.dtype)
    return lax.dot_general(x, band, (((x.ndim - 1,), (0,)), ((), ())), precision=lax.Precision.HIGHEST)


define_linear(channel_sum_p, ("of", "low", "high"))
for _name, _platform in (("gpu", None), ("tpu", "tpu"), ("cpu", "cpu")):  # the first for all that are not named
    _form = mlir.lower_fun(partial(_channel_sum, platform=_name), multiple_results=False)
    mlir.register_lowering(channel_sum_p, _form, platform=_platform)
