"""Receptive fields behind functions, against the pixels that the derivative of an output really depends on."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import describe, layers, ops
from tests import nets

pytestmark = pytest.mark.thorough

SIDE, CHANNELS = 12, 3
Function = Callable[[jax.Array], jax.Array]


def kernel(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(1, 2, shape).astype(np.float32)


class Probe(layers.Layer):
    """A layer that gives back what it gets: its row holds the field of what was before it."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def told(function: Function) -> tuple[int, ...] | None:
    return describe(nnx.Sequential(function, Probe()), (SIDE, SIDE, CHANNELS))[-1].receptive_field


def extent(function: Function, channels: int = CHANNELS) -> tuple[int, ...]:
    """The largest extent, over all positions of the output, of the pixels that change it when they change."""
    x = 1 + jax.random.uniform(jax.random.key(0), (1, SIDE, SIDE, channels))

    def output(row: jax.Array, column: jax.Array, value: jax.Array) -> jax.Array:
        return function(x.at[:, row, column].set(value))

    rows, columns, values = (
        part.ravel() for part in np.meshgrid(np.arange(SIDE), np.arange(SIDE), np.float32([4, -4]), indexing="ij")
    )
    outputs = np.asarray(jax.jit(jax.vmap(output))(rows, columns, values))
    changes = np.abs(outputs - np.median(outputs, 0, keepdims=True)).max(-1)  # most pixels change nothing
    seen = (changes > 1e-4 * np.abs(outputs).max()).reshape(SIDE, SIDE, 2, -1).any(2)
    sides = []
    for axis in (1, 0):
        lines = seen.any(axis).T
        first, last = lines.argmax(1), SIDE - lines[:, ::-1].argmax(1)
        sides.append(int((last - first)[lines.any(1)].max()))
    return tuple(sides)


def attention(x: jax.Array) -> jax.Array:
    tokens = x.reshape(1, -1, x.shape[-1])
    weights = jax.nn.softmax(jnp.einsum("nic,njc->nij", tokens, tokens) / 100)
    return jnp.einsum("nij,njc->nic", weights, tokens).reshape(x.shape)


def squeeze_and_excite(x: jax.Array) -> jax.Array:
    y = ops.conv(x, kernel(3, 3, 3, 3))
    return y * jax.nn.sigmoid(y.mean((1, 2), keepdims=True) / 100)


def pool_of_flax(x: jax.Array) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):  # it divides by ints
        return nnx.avg_pool(x, (3, 3), strides=(2, 2))


def by_lax(stride: int, dilation: int) -> Function:
    def function(x: jax.Array) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel(3, 2, 3, 3), (stride, 1), "VALID", rhs_dilation=(dilation, 1), dimension_numbers=numbers
        )

    return function


#: Functions whose field must be known.
KNOWN: dict[str, Function] = {
    "nothing": lambda x: x,
    "softmax over channels": jax.nn.softmax,
    "mean over channels": lambda x: x * x.mean(-1, keepdims=True),
    "RMSNorm": lambda x: x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6),
    "RMSNorm of flax": nnx.RMSNorm(3, rngs=nnx.Rngs(0)),
    "LayerNorm of flax": nnx.LayerNorm(3, rngs=nnx.Rngs(0)),
    "GroupNorm of flax": nnx.GroupNorm(3, 1, rngs=nnx.Rngs(0)),
    "activations": lambda x: jax.nn.gelu(jax.nn.relu(x)) + ops.scaled_tanh(x / 10),
    "conv": lambda x: ops.conv(x, kernel(3, 5, 3, 4)),
    "conv with strides and dilation": lambda x: ops.conv(x, kernel(3, 2, 3, 4), stride=(2, 3), dilation=(2, 1)),
    "conv of one pixel with strides": lambda x: ops.conv(x, kernel(1, 1, 3, 4), stride=2),
    "conv in groups": lambda x: ops.conv(x, kernel(3, 3, 1, 3), groups=3, padding=1),
    "conv by lax": lambda x: ops.conv(x, kernel(3, 3, 3, 4), algorithm="lax"),
    "conv directly": lambda x: ops.conv(x, kernel(3, 3, 3, 4), algorithm="direct"),
    "conv by im2col": lambda x: ops.conv(x, kernel(3, 3, 3, 4), algorithm="im2col"),
    "depthwise conv": lambda x: ops.depthwise_conv(x, kernel(3, 3, 3, 1)),
    "lax with strides": by_lax(2, 1),
    "lax with dilation": by_lax(1, 3),
    "two convs": lambda x: ops.conv(ops.conv(x, kernel(3, 3, 3, 3), stride=2), kernel(2, 3, 3, 3)),
    "max pool": lambda x: ops.max_pool(x, 2) + 0 * ops.avg_pool(x, 2),
    "avg pool": lambda x: ops.avg_pool(x, (3, 2), stride=1),
    "pool by reshape": lambda x: x.reshape(1, 6, 2, 4, 3, 3).mean((2, 4)),
    "flax's pool": pool_of_flax,
    "global pool": lambda x: x + ops.global_avg_pool(x)[:, None, None],
    "squeeze and excite": squeeze_and_excite,
    "attention": attention,
    "crop": lambda x: x[:, 2:-3, ::2],
    "pad": lambda x: ops.pad(x, 2),
    "transposed axes": lambda x: ops.max_pool(x.transpose(0, 2, 1, 3), (3, 2), stride=1),
    "channels concatenated": lambda x: jnp.concatenate([x, ops.conv(x, kernel(3, 3, 3, 3), padding=1)], -1),
    "channels shuffled": lambda x: x[..., np.array([2, 0, 1])],
    "dense over channels": lambda x: jnp.einsum("nhwc,cd->nhwd", x, kernel(3, 4)),
    "differences": lambda x: x[:, 1:] - x[:, :-1],
    "cumulative sum": lambda x: jnp.cumsum(x, 1),
    "flattened and dense": lambda x: (x.reshape(1, -1) @ kernel(SIDE * SIDE * CHANNELS, 2)).reshape(1, 1, 1, 2),
    "repeated": lambda x: ops.conv(jnp.broadcast_to(x[:, :, None], (1, 12, 2, 12, 3)).reshape(1, 24, 12, 3),
                                   kernel(3, 3, 3, 3)),
    "shuffled pixels": lambda x: ops.pixel_unshuffle(x, 2),
    "sorted channels": lambda x: jnp.sort(x, -1) * x.argmax(-1, keepdims=True).astype("float32"),
    "checkpointed": jax.checkpoint(lambda x: jax.jit(jax.nn.softmax)(ops.max_pool(x, 2))),
    "mapped": lambda x: jax.vmap(lambda image: ops.conv(image[None], kernel(3, 3, 3, 3))[0])(x),
    "each channel by itself": lambda x: jax.vmap(
        lambda plane: ops.conv(plane[..., None], kernel(3, 3, 1, 1))[..., 0], in_axes=3, out_axes=3
    )(x),
}  # fmt: skip
#: Functions whose field may be unknown, but not wrong.
UNKNOWN: dict[str, Function] = {
    "conv by fft": lambda x: ops.conv(x, kernel(3, 3, 3, 4), algorithm="fft"),
    "conv by winograd": lambda x: ops.conv(x, kernel(3, 3, 3, 4), algorithm="winograd"),
    "conv by toeplitz": lambda x: ops.conv(x, kernel(3, 3, 3, 4), algorithm="toeplitz"),
    "conv transpose": lambda x: ops.conv_transpose(x, kernel(3, 3, 4, 3), padding=1),
    "conv transpose with strides": lambda x: ops.conv_transpose(x, kernel(4, 4, 4, 3), stride=2),
    "interpolation": lambda x: jax.image.resize(x, (1, 6, 6, 3), "bilinear", antialias=False),
    "reflected": lambda x: ops.conv(x, kernel(3, 3, 3, 4), padding=1, padding_mode="reflect"),
    "rolled": lambda x: jnp.roll(x, 1, 1),
    "flipped": lambda x: x + x[:, ::-1],
    "halves beside each other": lambda x: x[:, :6] + x[:, 6:],
    "gathered": lambda x: x[:, np.array([0, 11, 3])],
    "lp pool": lambda x: ops.lp_pool(x, 2),
    "min pool": lambda x: ops.min_pool(x, 3, stride=2),
    "skip of another scale": lambda x: jnp.repeat(ops.avg_pool(x, (2, 1)), 2, 1) + x,
    "adaptive pool": lambda x: ops.adaptive_avg_pool(x, (6, 4)),
    "local response norm": lambda x: ops.local_response_norm(x, size=3),
    "pixel shuffle": lambda x: ops.pixel_shuffle(jnp.concatenate([x, x[..., :1]], -1), 2),
    "unfold": lambda x: ops.unfold(x, (3, 2)),
    "interleaved": lambda x: x.reshape(1, 2, 6, 12, 3).transpose(0, 2, 1, 3, 4).reshape(1, 12, 12, 3),
    "tiled": lambda x: jnp.tile(x, (1, 2, 1, 1)),
    "repeat": lambda x: ops.avg_pool(jnp.repeat(x, 2, 1), (3, 1), stride=1),
    "scan over rows": lambda x: jnp.moveaxis(jax.lax.scan(lambda c, row: (c + row, c + row), x[:, 0], x.swapaxes(0, 1))[1], 0, 1),  # noqa: E501
    "deconvolved": lambda x: nnx.ConvTranspose(3, 2, (3, 3), strides=2, rngs=nnx.Rngs(0))(x),
    "dynamic slice": lambda x: jax.lax.dynamic_slice(x, (0, x.astype("int32").min(), 0, 0), (1, 4, 12, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_the_field_is_where_the_derivative_is(name: str) -> None:
    assert told(KNOWN[name]) == extent(KNOWN[name])


@pytest.mark.parametrize("name", UNKNOWN)
def test_the_field_is_right_or_unknown(name: str) -> None:
    assert told(UNKNOWN[name]) in (None, extent(UNKNOWN[name]))


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [layers.Pad(2), layers.MaxPool(4, stride=2), layers.PixelUnshuffle(7)],
        lambda: [layers.PixelShuffle(2), conv(1, 3), conv(4, 3)],
        lambda: [conv(4, 3, stride=3), layers.PixelShuffle(2), conv(1, 2)],
        lambda: [layers.ChannelShuffle(2), layers.LocalResponseNorm(size=3), layers.Unfold(2)],
        lambda: [layers.AdaptiveAvgPool((5, 7)), conv(4, 2)],
        lambda: [conv(4, 2, stride=2), transposed(4), conv(4, 2), layers.GlobalAvgPool()],
        lambda: [conv(4, 2, stride=2), transposed(4), conv(4, 2)],
        lambda: [transposed(3), layers.MaxPool(3, stride=2), transposed(2)],
        lambda: [layers.Conv(4, 4, (3, 3), input_dilation=2, rngs=nnx.Rngs(0)), conv(4, 2)],
        lambda: [layers.TrueConv(4, 4, (3, 2), dilation=2, rngs=nnx.Rngs(0)), layers.MinPool(2)],
    ],
)
def test_layers_say_where_their_windows_lie(stack: Callable[[], list[nnx.Module]]) -> None:
    model = nets.filled(lambda: nnx.Sequential(*stack()))
    for path, array in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        array[...] = kernel(*array.shape) / 10 if path[-1] == "kernel" else np.zeros(array.shape, np.float32)
    field = describe(model, (SIDE, SIDE, 4))[-1].receptive_field
    assert field is not None

    def flat(x: jax.Array) -> jax.Array:
        y = model(x)
        return y.reshape(1, -1, y.shape[-1])

    assert tuple(min(size, SIDE) for size in field) == extent(flat, 4)


def conv(channels: int, window: int, **keywords: int) -> layers.Conv:
    return layers.Conv(channels, 4, (window, window), rngs=nnx.Rngs(0), **keywords)


def transposed(window: int) -> layers.ConvTranspose:
    return layers.ConvTranspose(4, 4, (window, window), stride=2, rngs=nnx.Rngs(0))
