"""Pools of random arguments by the hundred against the nested-loop definitions; slow."""

import jax
import numpy as np
import pytest

from cnnjax import ops
from tests import oracles
from tests.cases import INF, NAN, REDUCERS, value_and_gradients
from tests.conformance.random_arguments import close, geometry, setting

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(100))
def test_max_and_min_pool(seed):
    draw, rng, rank, batch = setting(seed + 5000)
    ceil_mode = seed % 2 == 0
    sizes, window, keywords, full, _ = geometry(draw, rank, ceil_mode=ceil_mode, real=True)
    # few values, so that there are ties
    x = rng.choice([-INF, -1, -0.0, 0.0, 2, INF, NAN] if seed % 3 else [-INF, 0, 1], (batch, *sizes, 2))
    with jax.enable_x64(True):
        for pool, sign in ((ops.max_pool, 1), (ops.min_pool, -1)):
            ct, (y, dx, index) = value_and_gradients(
                lambda x, pool=pool: pool(x, window, **keywords, ceil_mode=ceil_mode, return_indices=True),
                x,
                has_aux=True,
            )
            ys, indices, dxs = oracles.max_pool(sign * x, ct, window=window, ceil_mode=ceil_mode, **full)
            np.testing.assert_array_equal(y, sign * ys)
            np.testing.assert_array_equal(index, indices)
            close(dx, dxs)


@pytest.mark.parametrize("seed", range(100))
def test_avg_pool(seed):
    draw, rng, rank, batch = setting(seed + 6000)
    ceil_mode = seed % 2 == 0
    sizes, window, keywords, full, _ = geometry(draw, rank, ceil_mode=ceil_mode, real=True)
    counting = {"count_include_pad": seed % 4 < 2, "divisor_override": draw.choice([None, None, None, -3, 7])}
    x = rng.normal(size=(batch, *sizes, 2))
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda x: ops.avg_pool(x, window, **keywords, ceil_mode=ceil_mode, **counting), x)
    expected = oracles.avg_pool(x, ct, window=window, ceil_mode=ceil_mode, **full, **counting)
    for g, e in zip(got, expected, strict=True):
        close(g, e)


@pytest.mark.parametrize("seed", range(60))
def test_lp_pool(seed):
    draw, rng, rank, batch = setting(seed + 7000)
    ceil_mode, p = seed % 2 == 0, (2, 1, 3, 0.5, 2.5, 7, 1.1)[seed % 7]
    sizes, window, keywords, full, _ = geometry(draw, rank, ceil_mode=ceil_mode, real=True)
    x = rng.integers(-2, 3, (batch, *sizes, 2)) * rng.choice([1e-9, 1, 1e9])  # zeros, and windows of nothing else
    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(lambda x: ops.lp_pool(x, window, p=p, **keywords, ceil_mode=ceil_mode), x)
    expected, expected_dx = oracles.lp_pool(x, ct, p=p, window=window, ceil_mode=ceil_mode, **full)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    close(dx, expected_dx)


@pytest.mark.parametrize("seed", range(40))
def test_pool(seed):
    draw, rng, rank, batch = setting(seed + 8000)
    ceil_mode = seed % 2 == 0
    ours, theirs = list(REDUCERS.values())[seed // 2 % len(REDUCERS)]
    sizes, window, keywords, full, _ = geometry(draw, rank, ceil_mode=ceil_mode, real=True)
    x, v, pad_value = rng.normal(size=(batch, *sizes, 2)), rng.normal(size=(batch, *sizes, 2)), draw.choice([0, -1.5])
    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(
            lambda x: ops.pool(x, window, ours, **keywords, ceil_mode=ceil_mode, pad_value=pad_value), x
        )

    def expected(x):
        return oracles.pool(x, theirs, pad_value=pad_value, window=window, ceil_mode=ceil_mode, **full)

    close(y, expected(x))
    slope = ((expected(x + 1e-6 * v) - expected(x - 1e-6 * v)) / 2e-6 * ct).sum()
    np.testing.assert_allclose((np.asarray(dx) * v).sum(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(45))
def test_adaptive_and_fractional_pools(seed):
    draw, rng, rank, batch = setting(seed + 11000)
    sizes = [draw.choice([1, 2, 3, 5, 8, 13][: 7 - rank]) for _ in range(rank)]
    output_size = tuple(draw.choice([1, 2, 3, 4, 7][: 6 - rank]) for _ in range(rank))
    x = rng.choice([-INF, -1.0, 0, 2, 2], (batch, *sizes, 2))
    finite = rng.normal(size=x.shape)
    window = [draw.randint(1, size) for size in sizes]
    fewer = tuple(draw.randint(1, size - k + 1) for size, k in zip(sizes, window, strict=True))
    samples = rng.random((batch, 2, rank))
    with jax.enable_x64(True):
        ct, (y, dx, index) = value_and_gradients(
            lambda x: ops.adaptive_max_pool(x, output_size, return_indices=True), x, has_aux=True
        )
        _, (mean, mean_dx) = value_and_gradients(lambda x: ops.adaptive_avg_pool(x, output_size), finite)
        its, (part, part_dx, part_index) = value_and_gradients(
            lambda x: ops.fractional_max_pool(x, window, output_size=fewer, samples=samples, return_indices=True),
            x, has_aux=True,
        )  # fmt: skip
    expected, expected_index, expected_dx = oracles.adaptive_pool(x, ct, output_size=output_size, kind="max")
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(index, expected_index)
    close(dx, expected_dx)
    expected, _, expected_dx = oracles.adaptive_pool(finite, ct, output_size=output_size, kind="mean")
    close(mean, expected)
    close(mean_dx, expected_dx)
    expected = oracles.fractional_max_pool(x, its, window=window, output_size=fewer, samples=samples)
    np.testing.assert_array_equal(part, expected[0])
    np.testing.assert_array_equal(part_index, expected[1])
    close(part_dx, expected[2])
