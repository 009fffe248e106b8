"""Batch norm and max-pool in one: against the oracle, finite differences, and the two ops one after the other."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from cnnjax import layers, ops
from tests import oracles

RNG = np.random.default_rng(0)
SCALE, BIAS = np.array([0.7, -2.0, 0.0]), np.array([1.0, 0.2, -0.3])  # a channel that rises, falls, is all equal
#: Windows that tile x, of which the winners alone are normalised, and others.
WINDOWS = {
    "tiles": ((2, 3), {}),
    "overlapping": ((2, 2), {"stride": 1, "padding": ((1, 0), (0, 0))}),
    "a rest": ((3, 2), {}),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_against_the_oracles_of_both(name: str) -> None:
    window, keywords = WINDOWS[name]
    x = RNG.normal(1, 2, (3, 4, 6, 3))
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    normalized = SCALE * (x - mean) / np.sqrt(var + 1e-5) + BIAS
    shape = ops.output_shape((4, 6), window, **{"stride": window, **keywords})
    ct = RNG.normal(size=(3, *shape, 3))
    stride, padding = keywords.get("stride", window), keywords.get("padding", ((0, 0), (0, 0)))
    stride = (stride, stride) if isinstance(stride, int) else stride
    full = {"window": window, "stride": stride, "padding": padding, "dilation": (1, 1), "ceil_mode": False}
    y, _, dnormalized = oracles.max_pool(normalized, ct, **full)

    # the derivative of batch norm, Ioffe and Szegedy, section 3
    root = 1 / np.sqrt(var + 1e-5)
    centred, count = x - mean, x.size / 3
    dhat = dnormalized * SCALE
    dvar = (dhat * centred).sum((0, 1, 2)) * -0.5 * root**3
    dx = dhat * root + dvar * 2 * centred / count - (dhat * root).sum((0, 1, 2)) / count
    dscale, dbias = (dnormalized * centred * root).sum((0, 1, 2)), dnormalized.sum((0, 1, 2))

    def both(x, scale, bias):
        return ops.batch_norm_max_pool(x, scale, bias, window, **keywords)

    with jax.enable_x64(True):
        (got, *statistics), pull = jax.vjp(jax.jit(both), x, SCALE, BIAS)
        np.testing.assert_allclose(got, y, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(statistics, [mean, var], rtol=1e-11)
        grads = pull((jnp.asarray(ct), jnp.zeros(3), jnp.zeros(3)))
        for found, expected in zip(grads, (dx, dscale, dbias), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.thorough
def test_its_derivatives_by_differences() -> None:
    x = RNG.permutation(48).reshape(2, 4, 2, 3) / 7  # no two elements of a window are near
    with jax.enable_x64(True):
        check_grads(
            lambda *a: ops.batch_norm_max_pool(*a, 2), (x, np.array([0.7, -2.0, 1.0]), BIAS), order=2, rtol=1e-4
        )


def test_the_first_of_equals_wins_and_nan_spreads_over_its_channel() -> None:
    x = jnp.ones((1, 2, 2, 1)).at[0, 0].set(5.0)
    grad = jax.grad(lambda x: ops.batch_norm_max_pool(x, jnp.ones(1), jnp.zeros(1), 2)[0].sum())
    dx = grad(x).ravel()
    assert dx[0] > dx[1] and dx[2] == dx[3]
    y, *_ = ops.batch_norm_max_pool(jnp.ones((1, 2, 2, 2)).at[0, 1, 1, 0].set(jnp.nan), jnp.ones(2), jnp.zeros(2), 2)
    assert jnp.isnan(y[..., 0]).all() and not jnp.isnan(y[..., 1]).any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_layer_is_a_batch_norm_and_a_pool(dtype: str) -> None:
    one = layers.BatchNormMaxPool(5, 2, momentum=0.9, rngs=nnx.Rngs(0))
    norm = layers.BatchNorm(5, momentum=0.9, rngs=nnx.Rngs(0))
    for layer in (one, norm):
        layer.scale[...], layer.bias[...] = jnp.arange(-2.0, 3.0), jnp.arange(5.0)
    x = jnp.asarray(RNG.normal(1, 2, (4, 6, 4, 5)), dtype)
    bound = {"float32": 1e-6, "bfloat16": 1e-2, "float16": 1e-3}[dtype]
    for mode in ("train", "eval"):
        getattr(one, mode)(), getattr(norm, mode)()
        y, expected = one(x), ops.max_pool(norm(x), 2)
        assert y.dtype == expected.dtype
        np.testing.assert_allclose(y.astype("float32"), expected.astype("float32"), bound, bound)
    np.testing.assert_allclose(one.var[...], norm.var[...], rtol=1e-6)
    names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(one))}
    assert names == {"scale", "bias", "mean", "var"}


def test_the_layer_names_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match=r"BatchNormMaxPool takes no eps="):
        layers.BatchNormMaxPool(5, 2, eps=1e-3, rngs=nnx.Rngs(0))


def test_windows_that_tile_write_nothing_of_the_size_of_x_but_the_gradient() -> None:
    shape = (64, 32, 32, 16)

    def loss(x, f):
        return (f(x, jnp.ones(16), jnp.zeros(16)) ** 2).sum()

    def temporaries(f) -> int:
        program = jax.jit(jax.grad(lambda x: loss(x, f))).lower(jax.ShapeDtypeStruct(shape, "float32")).compile()
        return program.memory_analysis().temp_size_in_bytes

    in_one = temporaries(lambda *a: ops.batch_norm_max_pool(*a, 2)[0])
    in_two = temporaries(lambda *a: ops.max_pool(ops.batch_norm(*a)[0], 2))
    assert in_one < 4 * np.prod(shape) < in_two
