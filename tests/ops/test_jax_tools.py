"""What a JAX researcher switches on to find a mistake, and the rarer transformations, over every op."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify, jet

from cnnjax.ops import activations
from tests.ops.examples import CONV_ALONE, NAMES, Example, example_of

#: Small ones, as everything here runs primitive by primitive.
FEW = 2


def small(each: Example, dtype: str = "float32") -> list[jax.Array]:
    return [a[:FEW] if i < each.batched else a for i, a in enumerate(each.arrays(dtype))]


def value_and_pullback(each: Example, *arrays: jax.Array) -> list[jax.Array]:
    y, pull = jax.vjp(each.op, *arrays)
    return [y, *pull(jnp.cos(y))]


def everyday(names: list[str], slow: tuple[str, ...] | list[str] = CONV_ALONE) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


#: Activation functions run many primitives one by one: they are slow.
EVERY = everyday(NAMES, [*CONV_ALONE, *activations.__all__])


@pytest.mark.thorough
@pytest.mark.parametrize("name", EVERY)
def test_without_jit_and_with_a_look_at_every_number_nothing_changes(name: str) -> None:
    each = example_of(name)
    arrays = small(each)
    expected = jax.jit(lambda *arrays: value_and_pullback(each, *arrays))(*arrays)
    with jax.disable_jit(), jax.debug_nans(True):
        results = value_and_pullback(each, *arrays)
    for got, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-5, atol=2e-5)


#: Ops that move elements or select them: no arithmetic is done with a NaN.
MOVES = (
    *("channel_shuffle", "fold", "max_unpool", "pad", "pixel_shuffle", "pixel_unshuffle", "unfold"),
    *("adaptive_max_pool", "fractional_max_pool", "global_max_pool", "max_pool", "min_pool", "toeplitz_matrix"),
)
CALCULATES = [name for name in NAMES if name not in activations.__all__ and name not in MOVES]


@pytest.mark.parametrize("name", everyday(CALCULATES))
def test_a_nan_is_found_where_it_is_made(name: str) -> None:
    each = example_of(name)
    first, *others = small(each)
    bad = jnp.where(jnp.arange(first.size).reshape(first.shape) == first.size // 2, jnp.nan, first)
    found, _ = jax.jit(checkify.checkify(jax.jit(each.op), errors=checkify.float_checks))(bad, *others)
    assert "nan generated" in str(found.get())
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        jax.jit(each.op)(bad, *others)


#: Ops that jet cannot take: it fails at any `jax.custom_jvp` (also at jax.nn.relu), and has no rule for argmax, sort,
#: tile and random bits.
WITHOUT_TAYLOR = (
    *("adaptive_max_pool", "fractional_max_pool", "global_max_pool", "max_pool", "max_unpool", "min_pool"),
    *("batch_norm", "batch_norm_max_pool", "deform_conv", "stochastic_pool", "toeplitz_matrix"),
)
TAYLOR = [name for name in NAMES if name not in activations.__all__ and name not in WITHOUT_TAYLOR]


@pytest.mark.parametrize("name", everyday(TAYLOR))
def test_taylor_series(name: str) -> None:
    """jet against derivatives of derivatives, to the second order, along a curve in all arrays."""
    each = example_of(name)
    with jax.enable_x64(True):
        arrays = small(each, "float64")
        speed = [jnp.cos(3 * a) for a in arrays]
        bend = [jnp.sin(5 * a) for a in arrays]

        def along(t):
            return each.op(*(a + t * v + t**2 / 2 * b for a, v, b in zip(arrays, speed, bend, strict=True)))

        derivatives = [along]
        for _ in range(2):
            derivatives.append(lambda t, f=derivatives[-1]: jax.jvp(f, (t,), (1.0,))[1])
        expected = jax.jit(lambda t: [f(t) for f in derivatives])(0.0)
        series = [[v, b] for v, b in zip(speed, bend, strict=True)]
        value, terms = jax.jit(lambda *arrays: jet.jet(each.op, arrays, series))(*arrays)
        for got, wanted in zip([value, *terms], expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)
