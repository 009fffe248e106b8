"""jax.export of every op and its gradients, with a symbolic batch size, for every platform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cnnjax.ops import activations
from tests.ops.examples import NAMES, Example, example_of

pytestmark = pytest.mark.thorough

PLATFORMS = ("cpu", "cuda", "tpu")
#: Activation functions that look along an axis or at the shape of a parameter.
SIZED = ("crelu", "glu", "log_softmax", "maxout", "prelu", "softmax", "sparsemax", "swiglu")


def value_and_pullback(each: Example, *arrays: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    y, pull = jax.vjp(each.op, *arrays)
    return y, pull(jnp.cos(y))


def exported(each: Example) -> export.Exported:
    """The op and its gradients as one program for any batch size."""
    (batch,) = export.symbolic_shape("batch")
    shapes = [(batch, *shape[1:]) if i < each.batched else shape for i, shape in enumerate(each.shapes)]
    both = jax.jit(lambda *arrays: value_and_pullback(each, *arrays))
    return export.export(both, platforms=PLATFORMS)(*(jax.ShapeDtypeStruct(s, "float32") for s in shapes))


#: Elementwise functions ask for no size: they are slow.
ASKS_FOR_SIZES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in activations.__all__ and name not in SIZED else [])
    for name in NAMES
]


@pytest.mark.parametrize("name", ASKS_FOR_SIZES)
def test_a_symbolic_batch_is_exported_for_every_platform(name: str) -> None:
    assert set(exported(example_of(name)).platforms) == set(PLATFORMS)


@pytest.mark.parametrize("name", ["conv", "max_pool", "local_response_norm", "batch_norm", "fold", "pixel_shuffle"])
def test_an_exported_program_computes_the_same(name: str) -> None:
    each = example_of(name)
    program = exported(each)
    for batch in (2, 5):
        arrays = [a[:batch] if i < each.batched else a for i, a in enumerate(each.arrays("float32"))]
        direct = jax.jit(lambda *arrays: value_and_pullback(each, *arrays))(*arrays)
        for got, expected in zip(jax.tree.leaves(program.call(*arrays)), jax.tree.leaves(direct), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
