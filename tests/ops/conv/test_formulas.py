"""The written-out backward formulas against autodiff and the oracle; their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import conv, conv_input_grad, conv_kernel_grad
from tests import oracles
from tests.cases import random_arrays, transposed_case, value_and_gradients
from tests.tables import draws, in_one_case


@pytest.mark.parametrize("seed", draws(12, 30, start=100))
def test_against_autodiff_and_the_oracle(seed):
    x_shape, w_shape, keywords, full, output = transposed_case(seed)
    x, w, dy = random_arrays(seed, x_shape, w_shape, (x_shape[0], *output, w_shape[-1]))

    def all_four(x, w, dy):
        by_autodiff = jax.vjp(lambda x, w: conv(x, w, **keywords), x, w)[1](dy)
        written = conv_input_grad(dy, w, x_shape, **keywords), conv_kernel_grad(x, dy, w_shape, **keywords)
        return by_autodiff, written

    with jax.enable_x64(True):
        by_autodiff, written = jax.jit(all_four)(x, w, dy)
    _, *expected, _ = oracles.conv(x, w, None, dy, mode="zeros", holes=[1] * len(output), **full)
    for mine, automatic, e in zip(written, by_autodiff, expected, strict=True):
        np.testing.assert_allclose(mine, automatic, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(mine, e, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_their_own_gradients(seed):
    """Each is bilinear, so its gradients are the other two of conv, conv_input_grad and conv_kernel_grad."""
    x_shape, w_shape, keywords, full, output = transposed_case(seed + 200)
    x, w, dy = random_arrays(seed, x_shape, w_shape, (x_shape[0], *output, w_shape[-1]))
    full |= {"mode": "zeros", "holes": [1] * len(output)}
    with jax.enable_x64(True):
        ct, (_, d_dy, d_w) = value_and_gradients(lambda dy, w: conv_input_grad(dy, w, x_shape, **keywords), dy, w)
        y, _, dw, _ = oracles.conv(ct, w, None, dy, **full)
        np.testing.assert_allclose(d_dy, y, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(d_w, dw, rtol=1e-11, atol=1e-11)
        ct, (_, d_x, d_dy) = value_and_gradients(lambda x, dy: conv_kernel_grad(x, dy, w_shape, **keywords), x, dy)
        y, dx, _, _ = oracles.conv(x, ct, None, dy, **full)
        np.testing.assert_allclose(d_x, dx, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(d_dy, y, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sums_are_accumulated_in_float32(dtype):
    dw = conv_kernel_grad(jnp.ones((1, 4096, 1), dtype), jnp.ones((1, 4096, 1), dtype), (1, 1, 1))
    assert dw.item() == 4096 and dw.dtype == dtype


def test_empty_batch():
    w = jnp.ones((3, 3, 2, 4))
    assert conv_input_grad(jnp.ones((0, 4, 4, 4)), w, (0, 6, 6, 2)).shape == (0, 6, 6, 2)
    assert not conv_kernel_grad(jnp.ones((0, 6, 6, 2)), jnp.ones((0, 4, 4, 4)), w.shape).any()


X, W, Y = jnp.ones((2, 8, 9, 4)), jnp.ones((3, 3, 4, 5)), jnp.ones((2, 6, 7, 5))


@in_one_case(
    ("call", "error", "words"),
    [
        (lambda: conv_input_grad(Y, W, X.shape, strides=2), TypeError, "takes stride=, not strides="),
        (lambda: conv_input_grad("Y", W, X.shape), TypeError, "dy must be an array, got str"),
        (lambda: conv_input_grad(Y, W.astype("float16"), X.shape), TypeError, "dy and w must share a dtype"),
        (lambda: conv_input_grad(Y, W, 8), TypeError, "x_shape must be a sequence of ints"),
        (lambda: conv_input_grad(Y, W, X.shape, groups=2), ValueError, "x's channels must be w's input channels"),
        (lambda: conv_input_grad(Y[:, 1:], W, X.shape), ValueError, r"dy must have the shape of .*\(2, 6, 7, 5\) for"),
        (lambda: conv_kernel_grad(X, Y, W.shape, rhs_dilation=2), TypeError, "takes dilation=, not rhs_dilation="),
        (lambda: conv_kernel_grad("X", Y, W.shape), TypeError, "x must be an array, got str"),
        (lambda: conv_kernel_grad(X, Y.astype("float16"), W.shape), TypeError, "x and dy must share a dtype"),
        (lambda: conv_kernel_grad(X, Y, "3345"), TypeError, "w_shape must be a sequence of ints"),
        (lambda: conv_kernel_grad(X, Y, (3, 3, 2, 5)), ValueError, "x's channels must be w's input channels"),
        (lambda: conv_kernel_grad(X, Y, (3, 2, 4, 5)), ValueError, r"dy must have the shape of .*\(2, 6, 8, 5\) for"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
