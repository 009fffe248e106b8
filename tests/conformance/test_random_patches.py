"""Patches, paddings, unpooling, normalisation of random arguments against the nested-loop definitions; slow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from tests import oracles
from tests.cases import INF, NAN, value_and_gradients
from tests.conformance.random_arguments import MODES, close, geometry, setting

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(60))
def test_unfold_and_fold(seed):
    draw, rng, rank, batch = setting(seed + 9000)
    sizes, window, keywords, full, _ = geometry(draw, rank)
    x = rng.normal(size=(batch, *sizes, draw.randint(1, 3)))
    with jax.enable_x64(True):
        ct, (cols, dx) = value_and_gradients(lambda x: ops.unfold(x, window, **keywords), x)
        back, (folded, dcols) = value_and_gradients(lambda cols: ops.fold(cols, sizes, window, **keywords), ct)
    expected, adjoint = oracles.unfold(x, ct, window=window, **full)
    np.testing.assert_array_equal(cols, expected)
    close(dx, adjoint)
    close(folded, adjoint)
    np.testing.assert_array_equal(dcols, oracles.unfold(back, None, window=window, **full)[0])


@pytest.mark.parametrize("seed", range(60))
def test_pad(seed):
    draw, rng, rank, batch = setting(seed + 10000)
    mode = MODES[seed // 3 % 4]
    value = draw.choice([0, -INF, NAN, 2.5]) if mode == "zeros" else 0
    while True:
        sizes = [draw.choice([1, 2, 3, 5, 7]) for _ in range(rank)]
        padding = tuple((draw.randint(-4, 6), draw.randint(-4, 6)) for _ in range(rank))
        x = rng.normal(size=(batch, *sizes, 2))
        try:
            with jax.enable_x64(True):
                ct, (y, dx) = value_and_gradients(
                    lambda x: ops.pad(x, padding, mode=mode, value=value),  # noqa: B023
                    x,
                )
            break
        except ValueError:
            continue
    expected, expected_dx = oracles.pad(x, ct, padding=padding, mode=mode, value=value)
    np.testing.assert_array_equal(y, expected)
    close(dx, expected_dx)


@pytest.mark.parametrize("seed", range(30))
def test_max_unpool_and_local_response_norm(seed):
    draw, rng, rank, batch = setting(seed + 12000)
    sizes, inner = ([draw.randint(1, 5) for _ in range(rank)] for _ in range(2))
    y, indices = rng.normal(size=(batch, *inner, 2)), rng.integers(0, math.prod(sizes), (batch, *inner, 2))
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda y: ops.max_unpool(y, jnp.asarray(indices), sizes), y)
    for g, e in zip(got, oracles.max_unpool(y, indices, sizes, ct), strict=True):
        np.testing.assert_array_equal(g, e)

    keywords = {"size": draw.randint(1, 12), "alpha": draw.choice([1e-4, 1.0]), "beta": draw.choice([0.5, 0.75, 2.0])}
    x = rng.normal(size=(batch, *sizes, draw.randint(1, 9)))
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda x: ops.local_response_norm(x, **keywords), x)
    for g, e in zip(got, oracles.local_response_norm(x, ct, k=2.0, **keywords), strict=True):
        close(g, e)
