"""Adaptive, fractional and stochastic pools and unpooling against hand-computed numbers, the oracles and PyTorch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import (
    adaptive_avg_pool,
    adaptive_max_pool,
    fractional_max_pool,
    max_pool,
    max_unpool,
    stochastic_pool,
)
from tests import oracles
from tests.cases import INF, NAN, cotangent, line, value_and_gradients
from tests.tables import in_one_case


def channels_first(array):
    return np.moveaxis(np.asarray(array), -1, 1)


# ---- adaptive ----

ADAPTIVE = [
    ((5,), (3,)),
    ((3,), (7,)),
    ((1, 4), (3, 2)),
    ((8,), (1,)),
    ((300,), (2,)),
    ((7, 9), (3, 4)),
    ((6, 8), (3, 2)),
    ((13, 5), (6, 5)),
    ((2, 3), (5, 4)),
    ((100, 3), (1, 1)),
    ((4, 5, 6), (3, 2, 4)),
    ((3, 4, 2), (1, 2, 3)),
]


def test_adaptive_pools_by_hand():
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    np.testing.assert_array_equal(adaptive_avg_pool(x, (2, 3))[0, ..., 0], [[2.5, 3.5, 4.5], [6.5, 7.5, 8.5]])
    y, index = adaptive_max_pool(x, (2, 3), return_indices=True)
    np.testing.assert_array_equal(y[0, ..., 0], [[5, 6, 7], [9, 10, 11]])
    np.testing.assert_array_equal(index[0, ..., 0], [[5, 6, 7], [9, 10, 11]])
    assert index.dtype == jnp.int32
    assert adaptive_avg_pool(x, (None, 1)).ravel().tolist() == [1.5, 5.5, 9.5]
    assert adaptive_max_pool(x, 1).ravel().tolist() == [11]


@functools.cache
def adaptive(output_size):
    """Value, gradient and indices of the maxima, value and gradient of the means, from one program."""

    @jax.jit
    def run(x, finite, ct):
        y, pull, index = jax.vjp(lambda x: adaptive_max_pool(x, output_size, return_indices=True), x, has_aux=True)
        mean, pull_mean = jax.vjp(lambda x: adaptive_avg_pool(x, output_size), finite)
        return y, *pull(ct), index, mean, *pull_mean(ct)

    return run


@pytest.mark.parametrize(("sizes", "output_size"), ADAPTIVE)
def test_adaptive_pools_against_the_oracle(sizes, output_size):
    x = np.random.default_rng(0).integers(0, 5, (2, *sizes, 3)).astype(float)
    x[x == 0] = -INF
    finite, ct = np.maximum(x, 0), cotangent((2, *output_size, 3))
    with jax.enable_x64(True):
        y, dx, index, mean, mean_dx = adaptive(output_size)(x, finite, ct)
    expected, expected_index, expected_dx = oracles.adaptive_pool(x, ct, output_size=output_size, kind="max")
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(index, expected_index)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12, atol=1e-12)
    expected, _, expected_dx = oracles.adaptive_pool(finite, ct, output_size=output_size, kind="mean")
    np.testing.assert_allclose(mean, expected, rtol=1e-12)
    np.testing.assert_allclose(mean_dx, expected_dx, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("sizes", "output_size"), ADAPTIVE)
def test_adaptive_pools_against_pytorch(sizes, output_size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(2, *sizes, 3)).round(1)
    t, ct = torch.tensor(channels_first(x), requires_grad=True), cotangent((2, *output_size, 3))
    with jax.enable_x64(True):
        y, dx, index, mean, mean_dx = adaptive(output_size)(x, x, ct)
    for kind, ours, gradient in (("max", y, dx), ("avg", mean, mean_dx)):
        keywords = {"return_indices": True} if kind == "max" else {}
        op = getattr(torch.nn.functional, f"adaptive_{kind}_pool{len(sizes)}d")
        result = op(t, output_size if len(sizes) > 1 else output_size[0], **keywords)
        if kind == "max":
            result, their_index = result
            np.testing.assert_array_equal(channels_first(index), their_index)
        t.grad = None
        result.backward(torch.tensor(channels_first(ct)))
        np.testing.assert_allclose(channels_first(ours), result.detach(), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(channels_first(gradient), t.grad, rtol=1e-12, atol=1e-14)


def test_adaptive_pools_of_special_values():
    y, index = adaptive_max_pool(line(-INF, -INF, NAN, 2, NAN), (2,), return_indices=True)
    assert np.isnan(y).all() and index.ravel().tolist() == [2, 2]
    assert adaptive_max_pool(line(-INF, -INF, -INF, 1), (3,), return_indices=True)[1].ravel().tolist() == [0, 1, 3]
    assert adaptive_max_pool(line(3, 250, 7, dtype="uint8"), (2,)).ravel().tolist() == [250, 250]
    # an infinity reaches the windows that see it, and no others
    assert adaptive_avg_pool(line(INF, 1, 3, 5, 7), (3,)).ravel().tolist() == [INF, 3, 6]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_adaptive_mean_is_summed_in_float32(dtype):
    y = adaptive_avg_pool(jnp.ones((1, 99, 99, 1), dtype) * 3, 2)
    assert y.dtype == dtype and (y == 3).all()


# ---- fractional ----

FRACTIONAL = [
    ((9,), (2,), (5,)),
    ((7,), (7,), (1,)),
    ((6, 9), (2, 3), (4, 5)),
    ((5, 5), (1, 2), (5, 4)),
    ((8, 7), (3, 2), (1, 4)),
    ((4, 5, 6), (2, 2, 3), (2, 3, 3)),
]


@functools.cache
def fractional_program(window, output_size):
    """Value, gradient and indices: one program for the oracle's arrays and for PyTorch's."""

    @jax.jit
    def run(x, samples, ct):
        y, pull, index = jax.vjp(
            lambda x: fractional_max_pool(x, window, output_size=output_size, samples=samples, return_indices=True),
            x,
            has_aux=True,
        )
        return y, *pull(ct), index

    return run


def fractional(x, samples, window, output_size):
    ct = cotangent((2, *output_size, 3))
    with jax.enable_x64(True):
        return ct, fractional_program(window, output_size)(x, samples, ct)


@pytest.mark.parametrize(("sizes", "window", "output_size"), FRACTIONAL)
def test_fractional_max_pool_against_the_oracle(sizes, window, output_size):
    rng = np.random.default_rng(0)
    x, samples = rng.integers(0, 4, (2, *sizes, 3)).astype(float), rng.random((2, 3, len(sizes)))
    x[x == 0] = -INF
    ct, (y, dx, index) = fractional(x, samples, window, output_size)
    expected = oracles.fractional_max_pool(x, ct, window=window, output_size=output_size, samples=samples)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(index, expected[1])
    np.testing.assert_allclose(dx, expected[2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("sizes", "window", "output_size"), [case for case in FRACTIONAL if len(case[0]) > 1])
def test_fractional_max_pool_against_pytorch(sizes, window, output_size):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    x, samples = rng.normal(size=(2, *sizes, 3)), rng.random((2, 3, len(sizes)))
    ct, (y, dx, index) = fractional(x, samples, window, output_size)
    t = torch.tensor(channels_first(x), requires_grad=True)
    # PyTorch's two-dimensional samples hold the column's first
    theirs = torch.tensor(samples[..., ::-1].copy() if len(sizes) == 2 else samples)
    op = getattr(torch.nn.functional, f"fractional_max_pool{len(sizes)}d")
    result, their_index = op(t, window, output_size, _random_samples=theirs, return_indices=True)
    result.backward(torch.tensor(channels_first(ct)))
    np.testing.assert_array_equal(channels_first(y), result.detach())
    np.testing.assert_array_equal(channels_first(index), their_index)
    np.testing.assert_allclose(channels_first(dx), t.grad, rtol=1e-12, atol=1e-14)


def test_fractional_max_pool_draws_per_channel_from_the_key():
    x = jnp.tile(jnp.arange(30.0).reshape(1, 30, 1), (2, 1, 8))
    y = fractional_max_pool(x, (2,), output_size=(19,), key=jax.random.key(0))
    steps = np.diff(np.asarray(y), axis=1)
    assert set(steps[:, :-1].ravel()) == {1, 2} and (y[:, -1] == 29).all()
    assert len({tuple(row) for row in steps.transpose(0, 2, 1).reshape(16, -1)}) > 4
    again = fractional_max_pool(x, (2,), output_size=(19,), key=jax.random.key(0))
    np.testing.assert_array_equal(y, again)
    assert np.isnan(fractional_max_pool(line(1, NAN), (2,), output_size=(1,), key=jax.random.PRNGKey(0))).all()


# ---- stochastic ----


def test_stochastic_pool_draws_by_value():
    x = jnp.tile(line(0, 1, 3, 4), (4000, 1, 1))
    y = stochastic_pool(x, (4,), key=jax.random.key(1)).ravel()
    for value, chance in ((0, 0), (1, 1 / 8), (3, 3 / 8), (4, 1 / 2)):
        assert abs(float((y == value).mean()) - chance) < 4 * (chance * (1 - chance) / 4000) ** 0.5 + 1e-9
    np.testing.assert_allclose(stochastic_pool(x[:1], (4,), key=None, deterministic=True).ravel(), [26 / 8], rtol=1e-6)


def test_stochastic_pool_of_special_values():
    x = line(0, 0, 0, 2, NAN, 1, 5)
    pools = (
        lambda x: stochastic_pool(x, (2,), key=jax.random.key(0), padding=((1, 0),)),
        lambda x: stochastic_pool(x, (2,), key=None, padding=((1, 0),), deterministic=True),
    )
    for pool in pools:
        y = pool(x).ravel()
        assert y[:2].tolist() == [0, 0] and np.isnan(y[2])
        # nothing from the windows of zeros
        dx = jax.grad(lambda x, pool=pool: pool(x).sum())(line(0, 0, 0, 2, 0)).ravel()
        assert dx[:3].tolist() == [0, 0, 0]
    assert pools[0](line(0, 0, 0, 2, 0)).ravel().tolist() == [0, 0, 2]
    for dtype in ("bfloat16", "float16"):
        y = stochastic_pool(jnp.ones((1, 64, 64, 1), dtype), 64, key=None, deterministic=True)
        assert y.dtype == dtype and y.item() == 1


@pytest.mark.parametrize("sizes", [(6,), (5, 4), (3, 4, 2)])
def test_mean_by_value_against_its_formula(sizes):
    x = abs(np.random.default_rng(0).normal(size=(2, *sizes, 3)))
    full = {"window": (2,) * len(sizes), "stride": (1,) * len(sizes), "padding": ((1, 0),) * len(sizes)}
    rest = {"dilation": (1,) * len(sizes), "ceil_mode": False, "pad_value": 0}

    def expected(x):
        return oracles.pool(x, lambda a: np.sum(np.square(a)) / np.sum(a), **full, **rest)

    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(lambda x: stochastic_pool(x, **full, key=None, deterministic=True), x)
    np.testing.assert_allclose(y, expected(x), rtol=1e-12)
    v = np.random.default_rng(1).normal(size=x.shape)
    slope = ((expected(x + 1e-6 * v) - expected(x - 1e-6 * v)) / 2e-6 * ct).sum()
    np.testing.assert_allclose((np.asarray(dx) * v).sum(), slope, rtol=1e-6)


# ---- unpooling ----


@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 1), pytest.param(3, 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sizes", [(7,), (6, 7), (4, 5, 5)])
def test_max_unpool_against_the_oracle_and_pytorch(sizes, window, stride):
    x = np.random.default_rng(0).normal(size=(2, *sizes, 3))
    y, indices = max_pool(x, (window,) * len(sizes), stride=stride, return_indices=True)
    # other values than the maxima, so that repeated indices carry different ones
    y = np.random.default_rng(1).normal(size=y.shape)
    with jax.enable_x64(True):
        ct, (back, dy) = value_and_gradients(lambda y: max_unpool(y, indices, sizes), y)
    expected, expected_dy = oracles.max_unpool(y, np.asarray(indices), sizes, ct)
    np.testing.assert_array_equal(back, expected)
    np.testing.assert_array_equal(dy, expected_dy)
    torch = pytest.importorskip("torch")
    t = torch.tensor(channels_first(y), requires_grad=True)
    op = getattr(torch.nn.functional, f"max_unpool{len(sizes)}d")
    result = op(t, torch.tensor(channels_first(indices).astype("int64")), window, stride, output_size=sizes)
    result.backward(torch.tensor(channels_first(ct)))
    if stride == window:  # PyTorch leaves the order of repeated indices open
        np.testing.assert_array_equal(channels_first(back), result.detach())
    np.testing.assert_array_equal(channels_first(dy), t.grad)


def test_max_unpool_by_hand():
    y, indices = line(1, 2, 3), jnp.array([4, 0, 4]).reshape(1, 3, 1)
    assert max_unpool(y, indices, (5,)).ravel().tolist() == [2, 0, 0, 0, 3]
    assert max_unpool(y.astype("int8"), indices, [5]).ravel().tolist() == [2, 0, 0, 0, 3]
    assert jax.jit(max_unpool, static_argnums=2)(y, indices * 2 - 1, (5,)).ravel().tolist() == [0, 0, 0, 0, 0]


def test_derivative_of_max_unpool_is_that_of_the_sum():
    """Where an index is repeated the last value wins, but all of them count in both derivatives."""
    y, indices = line(1, 2, 3), jnp.array([4, 0, 4]).reshape(1, 3, 1)
    x, dx = jax.jvp(lambda y: max_unpool(y, indices, (5,)), (y,), (line(10, 20, 30),))
    assert x.ravel().tolist() == [2, 0, 0, 0, 3] and dx.ravel().tolist() == [20, 0, 0, 0, 40]
    _, pull = jax.vjp(lambda y: max_unpool(y, indices, (5,)), y)
    assert pull(line(1, 2, 3, 4, 5))[0].ravel().tolist() == [5, 1, 5]


def test_empty_batch_of_the_others():
    x, key = jnp.ones((0, 6, 6, 2)), jax.random.key(0)
    assert fractional_max_pool(x, 2, output_size=4, key=key).shape == (0, 4, 4, 2)
    for deterministic in (True, False):
        assert stochastic_pool(x, 2, key=key, deterministic=deterministic).shape == (0, 3, 3, 2)
    assert max_unpool(x, x.astype(int), (9, 9)).shape == (0, 9, 9, 2)
    assert jax.grad(lambda x: max_unpool(x, x.astype(int), (9, 9)).sum())(x).shape == x.shape


def test_empty_batch():
    for size in (2, 4):

        @jax.jit
        def all_three(x, size=size):
            gradient = jax.grad(lambda x: adaptive_max_pool(x, size).sum())
            return adaptive_avg_pool(x, size), adaptive_max_pool(x, size), gradient(x)

        *results, dx = all_three(jnp.ones((0, 6, 6, 2)))
        assert all(y.shape == (0, size, size, 2) for y in results) and dx.shape == (0, 6, 6, 2)


X = jnp.ones((2, 8, 9, 3))


@pytest.mark.parametrize("pool", [adaptive_avg_pool, adaptive_max_pool])
@in_one_case(
    ("x", "output_size", "keywords", "error", "words"),
    [
        (X[0], 2, {}, ValueError, r"output_size must be \(2,\) where x has one spatial dimension"),
        (X[0, 0], 2, {}, ValueError, r"x must be \(N, \*S, C\) with one to three"),
        (X, (2, 2, 2), {}, ValueError, "output_size must be an int or one int per spatial dimension"),
        (X, 0, {}, ValueError, "output_size must be at least 1, got 0"),
        (X, 2.0, {}, TypeError, r"output_size must be an int or 2 ints, got 2\.0"),
        (X, 2, {"stride": 2}, TypeError, "takes no stride=; its arguments are x, output_size"),
        (X.astype(bool), 2, {}, TypeError, "x must be float32.* got bool"),
    ],
)
def test_errors_of_adaptive_pools(pool, x, output_size, keywords, error, words):
    with pytest.raises(error, match=words):
        pool(x, output_size, **keywords)


def test_error_of_the_flag():
    with pytest.raises(TypeError, match="return_indices must be True or False, got 1"):
        adaptive_max_pool(X, 2, return_indices=1)


KEY = jax.random.key(0)


@in_one_case(
    ("keywords", "error", "words"),
    [
        ({"output_size": 4}, TypeError, "exactly one of key and samples must be given, got key=None and samples=None"),
        ({"output_size": 4, "key": KEY, "samples": jnp.ones((2, 3, 2))}, TypeError, "exactly one of key and samples"),
        ({"output_size": 4, "key": 0}, TypeError, r"key must be one random key, as jax.random.key\(0\) gives, got 0"),
        ({"output_size": 4, "key": jax.random.split(KEY)}, TypeError, "key must be one random key"),
        ({"output_size": 4, "samples": jnp.ones((2, 2, 3))}, ValueError, r"samples must be .* = \(2, 3, 2\), got"),
        ({"output_size": 8, "key": KEY}, ValueError, "output_size must be at most S - k [+] 1 = 7 in spatial dim"),
        ({"output_size": 4, "window": 9, "key": KEY}, ValueError, "window must fit into the input, got 9 for size 8"),
        ({"output_size": 4, "key": KEY, "return_indices": 1}, TypeError, "return_indices must be True or False"),
        ({"output_size": 4, "key": KEY, "kernel_size": 1}, TypeError, "takes window=, not kernel_size="),
    ],
)
def test_errors_of_fractional_max_pool(keywords, error, words):
    with pytest.raises(error, match=words):
        fractional_max_pool(X, **({"window": 2} | keywords))


@in_one_case(
    ("x", "keywords", "error", "words"),
    [
        (X, {"key": None}, TypeError, "key must be one random key, .* got None"),
        (X, {"key": KEY, "deterministic": 0}, TypeError, "deterministic must be True or False, got 0"),
        (X.astype(int), {"key": KEY}, TypeError, "x must be float32.* got int32: convert it first"),
        (X, {"key": KEY, "padding": 2}, ValueError, "lies wholly in the padding"),
        (X, {"key": KEY, "strides": 2}, TypeError, "takes stride=, not strides="),
    ],
)
def test_errors_of_stochastic_pool(x, keywords, error, words):
    with pytest.raises(error, match=words):
        stochastic_pool(x, 2, **keywords)


@in_one_case(
    ("indices", "spatial_shape", "error", "words"),
    [
        (X, (9, 9), TypeError, "indices must be integers, got float32"),
        (X[:, :2].astype(int), (9, 9), ValueError, r"indices must have y's shape \(2, 8, 9, 3\), got \(2, 2, 9, 3\)"),
        (X.astype(int), (9,), ValueError, "y must be .* and spatial_shape as long as S', got"),
        (X.astype(int), 9, TypeError, "spatial_shape must be a sequence of ints"),
        (X.astype(int) * 81, (9, 9), ValueError, r"indices must be from 0 to 80 .* got 81 to 81"),
        (-X.astype(int), (9, 9), ValueError, "indices must be from 0 to 80 .* got -1 to -1"),
    ],
)
def test_errors_of_max_unpool(indices, spatial_shape, error, words):
    with pytest.raises(error, match=words):
        max_unpool(X, indices, spatial_shape)
