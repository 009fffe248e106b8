"""The algorithms that serve some arguments only, and the explicit matrix, against the oracle; their errors."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import conv, conv_transpose, toeplitz_matrix
from cnnjax.ops.conv.winograd import winograd_matrices
from tests import oracles
from tests.cases import random_arrays, transposed_case, value_and_gradients
from tests.tables import draws, in_one_case


def test_winograd_matrices_are_those_of_the_paper():
    # F(2, 3) by Lavin and Gray, up to the signs and the factors that a row of B^T may hand to one of G
    of_input, of_kernel, of_output = winograd_matrices(2, 3)
    np.testing.assert_array_equal(of_output, [[1, 1, 1, 0], [0, 1, -1, 1]])
    np.testing.assert_array_equal(of_input, [[-1, 0, 1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]])
    np.testing.assert_array_equal(of_kernel, [[-1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("r", [3, 5])
def test_minimal_filtering(m, r):
    of_input, of_kernel, of_output = winograd_matrices(m, r)
    d, g = random_arrays(0, (m + r - 1,), (r,))
    expected = np.correlate(d, g, "valid")
    np.testing.assert_allclose(of_output @ ((of_kernel @ g) * (of_input @ d)), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", draws(4, 12))
@pytest.mark.parametrize("algorithm", ["winograd", "winograd4"])
def test_winograd_against_the_oracle(seed, algorithm):
    draw = random.Random(seed)
    rank, groups = 1 + seed % 3, draw.choice([1, 2])
    window = [draw.choice([3, 5] if rank < 3 or axis == 0 else [3]) for axis in range(rank)]
    sizes = [draw.randint(k, k + 4 if rank < 3 else k) for k in window]
    pads = tuple((draw.randint(-1, 2), draw.randint(0, 2)) for _ in range(rank))
    pads = tuple((max(low, k - size), high) for (low, high), k, size in zip(pads, window, sizes, strict=True))
    x, w, b = random_arrays(seed, (2, *sizes, 2 * groups), (*window, 2, 2 * groups), (2 * groups,))
    mode = draw.choice(["zeros", "replicate"])
    with jax.enable_x64(True):
        ct, got = value_and_gradients(
            lambda *a: conv(*a, padding=pads, padding_mode=mode, groups=groups, algorithm=algorithm), x, w, b
        )
    ones = [1] * rank
    full = {"stride": ones, "dilation": ones, "holes": ones, "padding": pads, "mode": mode, "groups": groups}
    for g, expected in zip(got, oracles.conv(x, w, b, ct, **full), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("algorithm", "k", "bound"),
    [("winograd", 3, 2e-6), ("winograd", 5, 4e-5), ("winograd4", 3, 4e-5), ("winograd4", 5, 4e-5)],
)
def test_error_bound_of_winograd(algorithm, k, bound):
    x, w = (a.astype("float32") for a in random_arrays(k, (4, 20, 20, 64), (k, k, 64, 16)))
    y = np.asarray(conv(x, w, algorithm=algorithm))
    with jax.enable_x64(True):
        exact = np.asarray(conv(x.astype(float), w.astype(float)))
    assert np.abs(y - exact).max() <= bound * np.abs(exact).max()


# ---- the explicit matrix ----


@pytest.mark.parametrize("seed", draws(4, 15, start=300))
def test_toeplitz_matrix_against_the_oracle(seed):
    x_shape, w_shape, keywords, full, output = transposed_case(seed)
    x, w = random_arrays(seed, x_shape, w_shape)
    with jax.enable_x64(True):
        ct, (matrix, dw) = value_and_gradients(lambda w: toeplitz_matrix(w, x_shape[1:-1], **keywords), w)
        y, v = np.ones((1, *output, w_shape[-1])), np.random.default_rng(seed + 1).normal(size=w_shape)
        back, of_v = jax.jit(
            lambda y, w, v: (
                conv_transpose(y, w, **keywords, output_shape=x_shape[1:-1]),  # the matrix's transpose
                toeplitz_matrix(v, x_shape[1:-1], **keywords),
            )
        )(y, w, v)
    matrix, dw, back, of_v = map(np.asarray, (matrix, dw, back, of_v))
    full |= {"mode": "zeros", "holes": [1] * len(output)}
    expected, *_ = oracles.conv(x, w, None, None, **full)
    assert matrix.shape == (expected[0].size, x[0].size)
    np.testing.assert_allclose(x.reshape(len(x), -1) @ matrix.T, expected.reshape(len(x), -1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(y.ravel() @ matrix, back.ravel(), rtol=1e-12, atol=1e-12)
    # the matrix is linear in w, so its gradient's product with v is the cotangent's with the matrix of v
    np.testing.assert_allclose((dw * v).sum(), (ct * of_v).sum(), rtol=1e-10, atol=1e-10)


def test_toeplitz_matrix_by_hand():
    w = jnp.array([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    expected = [[2, 3, 0, 0], [1, 2, 3, 0], [0, 1, 2, 3], [0, 0, 1, 2]]
    same, strided = jax.jit(
        lambda w: (toeplitz_matrix(w, (4,), padding="SAME"), toeplitz_matrix(w, (4,), stride=2, padding=1))
    )(w)
    np.testing.assert_array_equal(same, expected)
    np.testing.assert_array_equal(strided, expected[::2])


def test_singular_values_are_those_of_the_operator():
    """A circular convolution of one channel has the moduli of the kernel's spectrum; a padded one, its norm."""
    w = np.random.default_rng(0).normal(size=(3, 3))
    with jax.enable_x64(True):
        # circular padding by hand: the matrix of the padded conv, after the matrix that pads
        wide = jax.jit(lambda w: toeplitz_matrix(w, (8, 9)))(w[..., None, None])
        circle = np.pad(np.arange(6 * 7).reshape(6, 7), 1, mode="wrap").ravel()
        circular = np.asarray(wide) @ np.eye(42)[circle]
        spectrum = np.abs(np.fft.fft2(w, (6, 7)))
        np.testing.assert_allclose(np.linalg.svd(circular)[1], np.sort(spectrum.ravel())[::-1], rtol=1e-10)
        # power iteration with conv and its adjoint
        geometry = {"stride": (2, 1), "padding": "SAME"}

        @jax.jit
        def matrix_and_norm(kernel):
            def again(x, _):
                x = conv_transpose(conv(x, kernel, **geometry), kernel, **geometry, output_shape=(6, 5))
                norm = jnp.sqrt((x**2).sum())
                return x / norm, norm

            norms = jax.lax.scan(again, jnp.ones((1, 6, 5, 2)), length=300)[1]
            return toeplitz_matrix(kernel, (6, 5), **geometry), jnp.sqrt(norms[-1])

        matrix, norm = matrix_and_norm(np.random.default_rng(1).normal(size=(3, 2, 2, 3)))
        np.testing.assert_allclose(norm, np.linalg.svd(matrix)[1][0], rtol=1e-5)


X, W = jnp.ones((2, 8, 9, 4)), jnp.ones((3, 3, 4, 5))


@in_one_case(
    ("call", "words"),
    [
        (lambda: conv(X, W, algorithm="winograd", stride=2), r"algorithm='winograd' needs stride 1, got \(2, 2\)"),
        (lambda: conv(X, W, algorithm="winograd4", dilation=2), "algorithm='winograd4' needs dilation 1"),
        (lambda: conv(X, W[:2], algorithm="winograd"), r"needs a window of 3 or 5 in each dimension, got \(2, 3\)"),
        (lambda: conv(X[:0], W, algorithm="winograd", stride=2), "algorithm='winograd' needs stride 1"),
        (
            lambda: conv(jnp.ones((1, 100, 100, 1)), W[:, :, :1], algorithm="toeplitz"),
            "algorithm='toeplitz' makes a matrix of 48020 x 10000, 1832 MiB, and is refused above 256 MiB",
        ),
        (lambda: toeplitz_matrix(W[:, :, :1], (100, 100)), "toeplitz_matrix makes a matrix of 48020 x 10000, 1832 MiB"),
        (lambda: toeplitz_matrix(W, (8,)), "spatial_shape must have one size per spatial dimension of w"),
        (lambda: toeplitz_matrix(W, (8, 9), groups=2), "groups must divide w's output channels"),
        (lambda: toeplitz_matrix(W, (2, 9)), "window must fit into the padded input"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_errors_of_kind():
    with pytest.raises(TypeError, match="spatial_shape must be a sequence of ints"):
        toeplitz_matrix(W, 8)
    with pytest.raises(TypeError, match="toeplitz_matrix takes stride=, not strides="):
        toeplitz_matrix(W, (8, 9), strides=2)
    with pytest.raises(TypeError, match=r"w must be float32.* got int32"):
        toeplitz_matrix(W.astype("int32"), (8, 9))
    with pytest.raises(TypeError, match=r"groups must be an int, got 1\.0"):
        toeplitz_matrix(W, (8, 9), groups=1.0)
