"""One call of every op, as a function of float arrays alone: what the tests of JAX's own tools run over.

A new op needs its line in `EXAMPLES`, or in `WITHOUT_ARRAYS`; a new activation function that takes x alone needs none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.ops import activations
from tests.cases import array

BATCH, SIZES, CHANNELS = 8, (6, 8), 4
X = (BATCH, *SIZES, CHANNELS)
TABLE = np.arange(16).reshape(4, 4) % 3 > 0

#: One call of conv each, with a kernel that is turned or masked: JAX's tools meet nothing in them that conv lacks.
CONV_ALONE = ("connected_conv", "true_conv")
#: Ops of plain ints.
WITHOUT_ARRAYS = ("output_shape", "receptive_field")


class Example(NamedTuple):
    """A function of arrays of these shapes; the batch of the first `batched` arrays is their first axis."""

    op: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]
    batched: int = 1

    def arrays(self, dtype: str) -> list[jax.Array]:
        rng = np.random.default_rng(0)
        return [array(rng.uniform(-1, 1, shape), dtype) for shape in self.shapes]

    def loss(self, *arrays: jax.Array) -> jax.Array:
        """A sum in which every result counts with a weight of its own, so that none may change places."""
        y = self.op(*arrays)
        weights = jnp.sin(jnp.arange(y.size // y.shape[0], dtype=y.dtype)).reshape(1, *y.shape[1:])
        return (jnp.sin(y) * jnp.broadcast_to(weights, y.shape)).sum()


def example(op: Callable[..., jax.Array], *shapes: tuple[int, ...], batched: int = 1) -> Example:
    return Example(op, shapes, batched)


EXAMPLES = {
    "adaptive_avg_pool": example(lambda x: ops.adaptive_avg_pool(x, (4, 3)), X),
    "adaptive_max_pool": example(lambda x: ops.adaptive_max_pool(x, (4, 3)), X),
    "avg_pool": example(lambda x: ops.avg_pool(x, 3, stride=2, padding=1), X),
    "batch_norm": example(lambda *arrays: ops.batch_norm(*arrays)[0], X, (4,), (4,)),
    "batch_norm_max_pool": example(lambda *arrays: ops.batch_norm_max_pool(*arrays, 2)[0], X, (4,), (4,)),
    "channel_shuffle": example(lambda x: ops.channel_shuffle(x, 2), X),
    "connected_conv": example(lambda x, w, b: ops.connected_conv(x, w, TABLE, b), X, (3, 3, 4, 4), (4,)),
    "conv": example(lambda x, w, b: ops.conv(x, w, b, padding="SAME"), X, (3, 3, 4, 4), (4,)),
    "conv_input_grad": example(lambda dy, w: ops.conv_input_grad(dy, w, (dy.shape[0], 8, 10, 4)), X, (3, 3, 4, 4)),
    "conv_kernel_grad": example(
        lambda x, dy: ops.conv_kernel_grad(x, dy, (3, 3, 4, 2)), X, (BATCH, 4, 6, 2), batched=2
    ),
    "conv_transpose": example(lambda y, w, b: ops.conv_transpose(y, w, b, stride=2), X, (3, 3, 3, 4), (3,)),
    "deform_conv": example(
        lambda x, offset, mask, w, b: ops.deform_conv(x, w, offset, mask, b),
        *(X, (BATCH, 4, 6, 18), (BATCH, 4, 6, 9), (3, 3, 4, 2), (2,)),
        batched=3,
    ),
    "depthwise_conv": example(ops.depthwise_conv, X, (3, 3, 4, 2), (8,)),
    "fold": example(lambda cols: ops.fold(cols, (6, 8), 3), (BATCH, 4, 6, 36)),
    "fractional_max_pool": example(lambda x: ops.fractional_max_pool(x, 2, output_size=4, key=jax.random.key(0)), X),
    "global_avg_pool": example(ops.global_avg_pool, X),
    "global_max_pool": example(ops.global_max_pool, X),
    "local_conv": example(lambda x, w, b: ops.local_conv(x, w, b, window=3), X, (4, 6, 36, 2), (2,)),
    "local_response_norm": example(lambda x: ops.local_response_norm(x, size=3, alpha=0.5), X),
    "lp_pool": example(lambda x: ops.lp_pool(x, 3, stride=2), X),
    "max_pool": example(lambda x: ops.max_pool(x, 3, stride=2, padding=1), X),
    "max_unpool": example(lambda x: ops.max_unpool(*ops.max_pool(x, 2, return_indices=True), SIZES), X),
    "min_pool": example(lambda x: ops.min_pool(x, 2), X),
    "pad": example(
        lambda x: ops.pad(x, ((1, 2), (0, -1)), value=0.5) * ops.pad(x, ((2, 1), (0, -1)), mode="reflect"), X
    ),
    "pixel_shuffle": example(lambda x: ops.pixel_shuffle(x, 2), X),
    "pixel_unshuffle": example(lambda x: ops.pixel_unshuffle(x, 2), X),
    "pool": example(lambda x: ops.pool(x, 3, jax.nn.logsumexp, stride=1, padding=1, pad_value=0.0), X),
    "separable_conv": example(ops.separable_conv, X, (3, 3, 4, 2), (8, 3), (3,)),
    "stochastic_pool": example(lambda x: ops.stochastic_pool(jnp.abs(x), 2, key=jax.random.key(0)), X),
    "toeplitz_matrix": example(lambda w: ops.toeplitz_matrix(w, (4, 5), padding=1), (3, 3, 2, 2), batched=0),
    "true_conv": example(lambda x, w, b: ops.true_conv(x, w, b, padding="SAME"), X, (3, 3, 4, 4), (4,)),
    "unfold": example(lambda x: ops.unfold(x, 3, padding=1), X),
    # activation functions that take more than x
    "celu": example(ops.celu, X, (4,)),
    "elu": example(ops.elu, X, (4,)),
    "leaky_relu": example(ops.leaky_relu, X, (4,)),
    "maxout": example(lambda x: ops.maxout(x, 2), X),
    "prelu": example(ops.prelu, X, (4,)),
    "rrelu": example(lambda x: ops.rrelu(x, key=jax.random.key(0)), X),
    "scaled_sigmoid": example(ops.scaled_sigmoid, X, (4,)),
    "squareplus": example(lambda x, b: ops.squareplus(x, jnp.abs(b)), X, (4,)),
    "swish": example(ops.swish, X, (4,)),
    "threshold": example(lambda x: ops.threshold(x, 0.1), X),
}
#: One name of each activation function; the other spellings are the same objects.
ACTIVATIONS = sorted({getattr(ops, name): name for name in reversed(activations.__all__)}.values())
for _name in ACTIVATIONS:
    EXAMPLES.setdefault(_name, example(getattr(ops, _name), X))


def example_of(name: str) -> Example:
    """The example of an op, by any of its spellings."""
    same = [other for other in EXAMPLES if getattr(ops, other) is getattr(ops, name)]
    assert same, f"give {name} a line in EXAMPLES of tests/ops/examples.py: one call of it, as a function of arrays"
    return EXAMPLES[same[0]]


#: Every op of arrays, once; one that lacks its line here too, so that every test of it fails.
NAMES = [
    name
    for name in ops.__all__
    if name not in WITHOUT_ARRAYS and (name not in activations.__all__ or name in ACTIVATIONS)
]
