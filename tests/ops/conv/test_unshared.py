"""local_conv and connected_conv against their definitions, with gradients; their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import connected_conv, conv, local_conv
from cnnjax.ops.geometry import slide
from tests import oracles
from tests.cases import random_arrays, value_and_gradients
from tests.tables import in_one_case


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("padding", ["VALID", "SAME", "pairs"])
def test_local_conv_against_the_oracle(rank, padding):
    sizes, window = (6, 5, 4)[:rank], (3, 2, 2)[:rank]
    geometry = {"stride": (2, 1, 2)[:rank], "dilation": (1, 2, 1)[:rank]}
    geometry["padding"] = ((-1, 2), (1, 0), (0, 1))[:rank] if padding == "pairs" else padding
    windows = slide(sizes, window, **geometry)
    x, w, b, everywhere = random_arrays(
        rank, (2, *sizes, 2), (*windows.output, 2 * np.prod(window), 3), (3,), (*windows.output, 3)
    )
    full = {"window": window, **geometry, "padding": windows.padding}
    cols, _ = oracles.unfold(x, None, **full)
    for bias in (b, everywhere):
        with jax.enable_x64(True):
            ct, got = value_and_gradients(lambda *a: local_conv(*a, **geometry, window=window), x, w, bias)
        expected_y, dcols, dw = np.zeros(ct.shape), np.zeros(cols.shape), np.zeros(w.shape)
        for n, *o in np.ndindex(*cols.shape[:-1]):
            i, o = (n, *o), tuple(o)
            expected_y[i] = cols[i] @ w[o] + (bias if bias.ndim == 1 else bias[o])
            dcols[i] = w[o] @ ct[i]
            dw[o] += np.outer(cols[i], ct[i])
        _, dx = oracles.unfold(x, dcols, **full)
        db = ct.reshape(-1, 3).sum(0) if bias.ndim == 1 else ct.sum(0)
        for g, expected in zip(got, (expected_y, dx, dw, db), strict=True):
            np.testing.assert_allclose(g, expected, rtol=1e-12, atol=1e-12)


def test_local_conv_with_one_kernel_everywhere_is_conv():
    x, w = random_arrays(0, (2, 8, 9, 3), (3, 3, 3, 4))
    everywhere = np.broadcast_to(w.reshape(-1, 4), (6, 7, 27, 4))
    with jax.enable_x64(True):
        y = local_conv(jnp.asarray(x), jnp.asarray(everywhere))  # only a window of 3 x 3 gives 6 x 7
        np.testing.assert_allclose(y, conv(jnp.asarray(x), jnp.asarray(w)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_local_conv_accumulates_in_float32(dtype):
    y = local_conv(jnp.ones((1, 1, 4096), dtype), jnp.ones((1, 4096, 1), dtype))
    assert y.item() == 4096 and y.dtype == dtype
    assert local_conv(jnp.ones((0, 5, 4), dtype), jnp.ones((4, 8, 3), dtype)).shape == (0, 4, 3)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_connected_conv_against_the_oracle(rank):
    sizes, window = (6, 5, 4)[:rank], (3, 2, 2)[:rank]
    x, w, b = random_arrays(rank, (2, *sizes, 3), (*window, 3, 4), (4,))
    table = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]], bool)  # the last output sees nothing
    with jax.enable_x64(True):
        ct, got = value_and_gradients(
            lambda x, w, b: connected_conv(x, w, table, b, stride=2, padding=1), x, np.where(table, w, np.nan), b
        )
    ones = [1] * rank
    full = {"stride": [2] * rank, "padding": [(1, 1)] * rank, "mode": "zeros", "dilation": ones, "holes": ones}
    y, dx, dw, db = oracles.conv(x, np.where(table, w, 0), b, ct, **full, groups=1)
    for g, expected in zip(got, (y, dx, np.where(table, dw, 0), db), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-12, atol=1e-12)


X, W = jnp.ones((2, 8, 9, 4)), jnp.ones((6, 7, 36, 5))
TABLE = jnp.ones((4, 5), bool)


@in_one_case(
    ("call", "error", "words"),
    [
        (lambda: local_conv(X, W, strides=1), TypeError, "local_conv takes stride=, not strides="),
        (lambda: local_conv(X, W, kernel_size=3), TypeError, "local_conv takes window=, not kernel_size="),
        (lambda: local_conv("X", W), TypeError, "x must be an array, got str"),
        (lambda: local_conv(X, W.astype("float16")), TypeError, "x and w must share a dtype"),
        (lambda: local_conv(X[0, 0], W), ValueError, r"x must be \(N, \*S, C\)"),
        (lambda: local_conv(X, W[0]), ValueError, r"w must be \(\*S', prod\(K\) C, F\) with as many axes as x"),
        (lambda: local_conv(X, W[:, :, 1:]), ValueError, r"w must be \(\*S', prod\(K\) C, F\)"),
        (lambda: local_conv(X, W, window=2), ValueError, r"w must be \(7, 8, 16, F\) for x \(2, 8, 9, 4\) and window"),
        (lambda: local_conv(X, W[1:]), ValueError, r"window must be given where .* 9 taps .*: none does"),
        (
            lambda: local_conv(X, jnp.ones((8, 9, 16, 5)), padding="SAME"),
            ValueError,
            r"window must be given .*: any of \(1, 4\), \(2, 2\), \(4, 1\) would do",
        ),
        (lambda: local_conv(X, W, window=9), ValueError, "window must fit into the padded input"),
        (lambda: local_conv(X, W, jnp.ones(4)), ValueError, r"b must have shape \(5,\) or \(6, 7, 5\), got \(4,\)"),
        (lambda: connected_conv(X, W[:3, :3, :4], TABLE, strides=1), TypeError, "takes stride=, not strides="),
        (
            lambda: connected_conv(X, W[:3, :3, :4], TABLE.astype("int32")),
            TypeError,
            "table must be a bool array, got int32",
        ),
        (lambda: connected_conv(X, W[:3, :3, :4], [[True]]), TypeError, "table must be an array, got list"),
        (lambda: connected_conv(X, W[:3, :3, :4], TABLE.T), ValueError, r"table must be \(C, F\), the last two axes"),
        (lambda: connected_conv(X[..., :3], W[:3, :3, :4], TABLE), ValueError, "x's channels must be w's"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
