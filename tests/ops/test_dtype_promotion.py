"""Every op under JAX's strictest settings: no implicit promotion of dtypes, no implicit axes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from cnnjax import ops
from cnnjax.ops import activations
from tests.ops.examples import NAMES, WITHOUT_ARRAYS, example_of

pytestmark = pytest.mark.thorough

#: float32 takes the way of float64, float16 that of bfloat16.
DTYPES = [("bfloat16", "float64"), pytest.param(("float32", "float16"), marks=pytest.mark.slow)]


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_promoted_without_a_word(name: str, dtypes: tuple[str, str]) -> None:
    """Forward, gradients and vmap, traced and lowered: what promotes says so there."""
    each = example_of(name)

    def everything(*arrays):
        y, pull = jax.vjp(each.op, *arrays)
        many = jax.vmap(each.op)(*(jnp.stack([a, a]) for a in arrays))
        return y, pull(jnp.ones_like(y)), many

    for dtype in dtypes:
        with (
            jax.enable_x64(dtype == "float64"),
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
        ):
            traced = jax.jit(everything).trace(*(jax.ShapeDtypeStruct(s, jnp.dtype(dtype)) for s in each.shapes))
            assert {leaf.dtype for leaf in jax.tree.leaves(traced.out_info)} == {jnp.dtype(dtype)}
            if name not in activations.__all__:  # they have no primitives of ours, whose lowering might promote
                traced.lower()


def test_the_table_names_every_op() -> None:
    for name in ops.__all__:
        if name not in WITHOUT_ARRAYS:
            example_of(name)
