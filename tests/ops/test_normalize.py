"""Local response normalisation against hand-computed numbers, the oracle and PyTorch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import channel_sum, local_response_norm
from tests import oracles
from tests.cases import value_and_gradients
from tests.tables import in_one_case

CASES = [
    ((4,), 7, {}),
    ((3, 2), 6, {"size": 3, "alpha": 0.5, "beta": 1.0, "k": 1.0}),
    ((2, 3), 5, {"size": 4, "alpha": 2.0, "beta": 0.5}),
    ((2, 2), 3, {"size": 9, "alpha": 0.1}),
    ((3, 2), 1, {"size": 2, "alpha": 1.0}),
    ((2, 2, 2), 8, {"size": 1, "alpha": 0.3, "k": 0.5}),
    ((2, 2, 2), 9, {"size": 6, "alpha": 0.7, "beta": 2.0}),
]


def test_by_hand():
    x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 1, 3)
    y = local_response_norm(x, size=2, alpha=1.0, beta=1.0, k=1.0)  # even: the lower neighbour
    np.testing.assert_allclose(y.ravel(), [1 / 2, 2 / 6, 3 / 14], rtol=1e-6)
    np.testing.assert_allclose(local_response_norm(x).ravel(), x.ravel() / (2 + 14e-4) ** 0.75, rtol=1e-6)


@pytest.mark.parametrize(("sizes", "channels", "keywords"), CASES)
def test_against_the_oracle_and_pytorch(sizes, channels, keywords):
    x = np.random.default_rng(0).normal(size=(2, *sizes, channels))
    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(lambda x: local_response_norm(x, **keywords), x)
    full = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0} | keywords
    expected, expected_dx = oracles.local_response_norm(x, ct, **full)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12, atol=1e-14)
    torch = pytest.importorskip("torch")
    t = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    size, alpha = full["size"], full["alpha"]
    result = torch.nn.functional.local_response_norm(t, size, alpha * size, full["beta"], full["k"])
    result.backward(torch.tensor(np.moveaxis(ct, -1, 1)))
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), result.detach(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(np.moveaxis(dx, -1, 1), t.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_energy_is_summed_in_float32(dtype):
    x = jnp.full((1, 2, 2, 600), 200, dtype)  # 600 times 200 squared overflows float16
    y = local_response_norm(x, size=999, alpha=1.0, beta=0.5, k=0.0)
    assert y.dtype == dtype
    np.testing.assert_allclose(y[0, 0, 0, 300].astype("float32"), 600**-0.5, rtol=4e-3)


def test_empty_batch():
    assert local_response_norm(jnp.ones((0, 4, 4, 3))).shape == (0, 4, 4, 3)


@in_one_case(
    ("x", "keywords", "error", "words"),
    [
        (jnp.ones((2, 3)), {}, ValueError, r"x must be \(N, \*S, C\) with one to three"),
        (jnp.ones((1, 4, 4, 3), int), {}, TypeError, "x must be float32.* got int32: convert it first"),
        (jnp.ones((1, 4, 3)), {"size": 0}, ValueError, "size must be at least 1, got 0"),
        (jnp.ones((1, 4, 3)), {"size": 2.0}, TypeError, r"size must be made of ints, got 2\.0"),
        (jnp.ones((1, 4, 3)), {"alpha": "1"}, TypeError, "alpha must be a number, got '1'"),
        (jnp.ones((1, 4, 3)), {"beta": None}, TypeError, "beta must be a number, got None"),
        (jnp.ones((1, 4, 3)), {"k": -1}, ValueError, r"k must be at least 0, got -1\.0"),
        (jnp.ones((1, 4, 3)), {"depth_radius": 2}, TypeError, "takes no depth_radius=; its arguments are x, size"),
    ],
)
def test_errors(x, keywords, error, words):
    with pytest.raises(error, match=words):
        local_response_norm(x, **keywords)


@pytest.mark.parametrize(("low", "high"), [(2, 2), (0, 3), (3, 1), (9, 0)])
def test_channel_sums_as_windows_and_as_a_product(low, high):
    """The CPU's and the TPU's form, and their transposes, against a sum over slices."""
    x = np.random.default_rng(0).normal(size=(2, 3, 7)).astype("float32")
    padded = np.pad(x, ((0, 0), (0, 0), (low, high)))
    expected = sum(padded[..., i : i + 7] for i in range(low + high + 1))
    turned = np.pad(x, ((0, 0), (0, 0), (high, low)))
    transposed = sum(turned[..., i : i + 7] for i in range(low + high + 1))
    for platform in ("cpu", "gpu", "tpu"):
        of_platform = partial(channel_sum._channel_sum, low=low, high=high, platform=platform)
        np.testing.assert_allclose(of_platform(x, of="y"), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(of_platform(x, of="x"), transposed, rtol=1e-5, atol=1e-5)
