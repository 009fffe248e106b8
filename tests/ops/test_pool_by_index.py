"""Adaptive, fractional and stochastic pools and unpooling against hand-computed numbers, the oracles and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import adaptive_avg_pool, adaptive_max_pool
from tests import oracles
from tests.ops.test_pool import value_and_gradient

INF, NAN = float("inf"), float("nan")


def line(*values, dtype="float32"):
    return jnp.array(values, dtype).reshape(1, -1, 1)


def channels_first(array):
    return np.moveaxis(np.asarray(array), -1, 1)


# ---- adaptive ----

ADAPTIVE = [
    ((5,), (3,)),
    ((3,), (7,)),
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


@pytest.mark.parametrize(("sizes", "output_size"), ADAPTIVE)
def test_adaptive_pools_against_the_oracle(sizes, output_size):
    x = np.random.default_rng(0).integers(0, 5, (2, *sizes, 3)).astype(float)
    x[x == 0] = -INF
    with jax.enable_x64(True):
        ct, (y, dx, index) = value_and_gradient(
            lambda x: adaptive_max_pool(x, output_size, return_indices=True), x, has_aux=True
        )
        finite = np.maximum(x, 0)
        _, (mean, mean_dx) = value_and_gradient(lambda x: adaptive_avg_pool(x, output_size), finite)
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
    t = torch.tensor(channels_first(x), requires_grad=True)
    with jax.enable_x64(True):
        ct, (y, dx, index) = value_and_gradient(
            lambda x: adaptive_max_pool(x, output_size, return_indices=True), x, has_aux=True
        )
        _, (mean, mean_dx) = value_and_gradient(lambda x: adaptive_avg_pool(x, output_size), x)
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


def test_empty_batch():
    for size in (2, 4):
        assert adaptive_avg_pool(jnp.ones((0, 6, 6, 2)), size).shape == (0, size, size, 2)
        assert adaptive_max_pool(jnp.ones((0, 6, 6, 2)), size).shape == (0, size, size, 2)
        dx = jax.grad(lambda x, size=size: adaptive_max_pool(x, size).sum())(jnp.ones((0, 6, 6, 2)))
        assert dx.shape == (0, 6, 6, 2)


X = jnp.ones((2, 8, 9, 3))


@pytest.mark.parametrize("pool", [adaptive_avg_pool, adaptive_max_pool])
@pytest.mark.parametrize(
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
