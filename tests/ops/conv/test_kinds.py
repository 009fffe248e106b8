"""The kinds of convolution beside conv, against hand-computed numbers, conv's oracle, SciPy and PyTorch."""

import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import conv, conv_transpose, depthwise_conv, separable_conv, true_conv
from cnnjax.ops.geometry import slide
from tests import oracles
from tests.cases import line, random_arrays, transposed_case, value_and_gradients
from tests.tables import draws, in_one_case

# ---- conv_transpose ----


def test_conv_transpose_by_hand():
    y, w = line(1, 2), jnp.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)

    def x(**keywords):
        return conv_transpose(y, w, **keywords).ravel().tolist()

    assert x() == [1, 12, 120, 200]
    assert x(stride=2) == x(stride=2, output_shape=(5,)) == [1, 10, 102, 20, 200]
    assert x(stride=2, output_padding=1) == x(stride=2, output_shape=(6,)) == [1, 10, 102, 20, 200, 0]
    assert x(stride=2, padding=1) == [10, 102, 20]
    assert x(stride=2, padding=1, output_padding=1) == [10, 102, 20, 200]
    assert x(stride=2, padding="SAME") == [1, 10, 102, 20]  # conv pads four by (0, 1)
    assert x(stride=2, padding="SAME_LOWER") == [10, 102, 20, 200]
    assert x(stride=2, padding="SAME", output_shape=(3,)) == [10, 102, 20]
    assert x(stride=3) == [1, 10, 100, 2, 20, 200]
    assert x(dilation=2) == [1, 2, 10, 20, 100, 200]
    assert x(padding=((-1, 0),)) == [0, 1, 12, 120, 200]
    assert x(padding="CAUSAL") == [120, 200]
    assert conv_transpose(line(1, 2, 3), w, padding="FULL").ravel().tolist() == [123]
    assert conv_transpose(y, w, jnp.array([1000.0])).ravel().tolist() == [1001, 1012, 1120, 1200]


def test_conv_transpose_of_windows_that_read_no_pixel_is_zero():
    """conv of 4 pixels with padding (3, -3) and one window of dilation 2 reads places -3 and -1 alone."""
    y, w = jnp.ones((2, 1, 3)), jnp.ones((2, 5, 3))
    keywords = {"stride": 5, "padding": ((3, -3),), "dilation": 2, "output_shape": (4,)}
    x, pull = jax.vjp(lambda y, w: conv_transpose(y, w, **keywords), y, w)
    np.testing.assert_array_equal(x, np.zeros((2, 4, 5)))
    assert all(not np.any(grad) for grad in pull(jnp.ones_like(x)))


@pytest.mark.parametrize("seed", draws(12, 45))
def test_conv_transpose_is_the_adjoint(seed):
    x_shape, w_shape, keywords, full, output = transposed_case(seed)
    rank = len(output)
    y, w, b = random_arrays(seed, (x_shape[0], *output, w_shape[-1]), w_shape, x_shape[-1:])
    with jax.enable_x64(True):
        ct, (x, dy, dw, db) = value_and_gradients(
            lambda *a: conv_transpose(*a, **keywords, output_shape=x_shape[1:-1]), y, w, b
        )
    # <conv(ct, w), y> == <ct, x - b>: x - b is the oracle's dx, and so on
    forward = {"mode": "zeros", "holes": [1] * rank, **full}
    _, expected, _, _ = oracles.conv(np.zeros(x_shape), w, None, y, **forward)
    np.testing.assert_allclose(x, expected + b, rtol=1e-12, atol=1e-12)
    expected_dy, _, expected_dw, _ = oracles.conv(ct, w, None, y, **forward)
    np.testing.assert_allclose(dy, expected_dy, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dw, expected_dw, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(db, ct.sum(tuple(range(rank + 1))), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose((expected_dy * y).sum(), (ct * (np.asarray(x) - b)).sum(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("seed", draws(7, 24))
def test_conv_transpose_against_pytorch(seed):
    torch = pytest.importorskip("torch")
    draw = random.Random(seed)
    rank, groups = 1 + seed % 3, draw.choice([1, 2])
    window, stride, dilation = ([draw.randint(1, 3) for _ in range(rank)] for _ in range(3))
    padding = tuple(draw.randint(0, 1) for _ in range(rank))
    further = [draw.randint(0, max(pair) - 1) for pair in zip(stride, dilation, strict=True)]
    sizes = [draw.randint(3, 4) for _ in range(rank)]
    y, w, b = random_arrays(seed, (2, *sizes, 2 * groups), (*window, 3, 2 * groups), (3 * groups,))
    common = {"stride": stride, "padding": padding, "output_padding": further, "dilation": dilation, "groups": groups}
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda *a: conv_transpose(*a, **common), y, w, b)
    ty, tw, tb = (torch.tensor(a, requires_grad=True) for a in (y, w, b))
    f = getattr(torch.nn.functional, f"conv_transpose{rank}d")
    x = torch.movedim(f(torch.movedim(ty, -1, 1), tw.permute(-1, -2, *range(rank)), tb, **common), 1, -1)
    x.backward(torch.tensor(ct))
    for g, expected in zip(got, (x.detach(), ty.grad, tw.grad, tb.grad), strict=True):
        np.testing.assert_allclose(g, expected.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("groups", [1, 2])
def test_derivatives_of_conv_transpose_do_not_end_the_process(groups):
    # jax.lax.conv_transpose does on this one: issue in the kernel gradient
    y, w = (jnp.asarray(a, "float32") for a in random_arrays(0, (2, 3, 4, 2, 4), (2, 3, 3, 6 // groups, 4)))

    def gradients(y, w):
        def loss(y, w):
            x = conv_transpose(y, w, stride=2, padding=1, output_shape=(4, 7, 3), groups=groups)
            return (x**2).sum()

        return jax.grad(loss, (0, 1))(y, w)

    @jax.jit
    def all_three(*a):
        penalty = jax.grad(lambda *a: sum((g**2).sum() for g in gradients(*a)), (0, 1))
        return gradients(*a), jax.jvp(gradients, a, a)[1], penalty(*a)

    first, forward, reverse = all_three(y, w)
    assert all(np.isfinite(g).all() for g in reverse)
    np.testing.assert_allclose(forward[0], 3 * first[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_conv_transpose_accumulates_in_float32(dtype):
    y, w = jnp.ones((1, 1, 1, 4096), dtype), jnp.ones((1, 1, 1, 4096), dtype)
    x = conv_transpose(y, w)
    assert x.item() == 4096 and x.dtype == dtype


# ---- true, depthwise and separable convolution ----


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_true_conv_against_scipy(rank):
    signal = pytest.importorskip("scipy.signal")
    modes = {"FULL": "full", "VALID": "valid", "SAME_LOWER": "same"}
    for k in (2, 3):
        x, w = random_arrays(rank, (5, 6, 4)[:rank], (k,) * rank)
        with jax.enable_x64(True):
            found = jax.jit(lambda x, w: {padding: true_conv(x, w, padding=padding) for padding in modes})(
                x[None, ..., None], w[..., None, None]
            )
        for padding, mode in modes.items():
            expected = signal.convolve(x, w, mode, method="direct")
            np.testing.assert_allclose(found[padding][0, ..., 0], expected, rtol=1e-12, atol=1e-12)


def test_true_conv_turns_the_kernel_and_nothing_else():
    x, w, b = random_arrays(0, (2, 7, 8, 4), (3, 2, 2, 6), (6,))
    keywords = {"stride": 2, "padding": "SAME", "padding_mode": "reflect", "groups": 2}
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda *a: true_conv(*a, **keywords), x, w, b)
    pads = slide((7, 8), (3, 2), stride=2, padding="SAME").padding
    full = {"stride": [2, 2], "padding": pads, "mode": "reflect", "dilation": [1, 1], "holes": [1, 1], "groups": 2}
    y, dx, dw, db = oracles.conv(x, w[::-1, ::-1], b, ct, **full)
    for g, expected in zip(got, (y, dx, dw[::-1, ::-1], db), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_and_separable_conv_against_the_oracle(rank, multiplier):
    sizes, window, channels = (7, 5, 4)[:rank], (3, 2, 2)[:rank], 3
    geometry = {"stride": (2, 1, 1)[:rank], "padding": ((1, 2),) * rank, "dilation": (1, 2, 1)[:rank]}
    x, w, b, point, last = random_arrays(
        rank, (2, *sizes, channels), (*window, channels, multiplier), (channels * multiplier,),
        (channels * multiplier, 4), (4,),
    )  # fmt: skip
    full = geometry | {"mode": "zeros", "holes": (1,) * rank}
    grouped = w.reshape(*window, 1, -1)
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda *a: depthwise_conv(*a, **geometry), x, w, b)
        y, dx, dw, db = oracles.conv(x, grouped, b, ct, **full, groups=channels)
        for g, expected in zip(got, (y, dx, dw.reshape(w.shape), db), strict=True):
            np.testing.assert_allclose(g, expected, rtol=1e-12, atol=1e-12)
        # separable: the product of a depthwise kernel and a matrix is one dense kernel
        ct, got = value_and_gradients(lambda *a: separable_conv(*a, **geometry), x, w, point, last)
    dense = np.einsum("...cm,cmf->...cf", w, point.reshape(channels, multiplier, 4))
    y, dx, dw, db = oracles.conv(x, dense, last, ct, **full, groups=1)
    d_depth = np.einsum("...cf,cmf->...cm", dw, point.reshape(channels, multiplier, 4))
    d_point = np.einsum("tcf,tcm->cmf", dw.reshape(-1, 3, 4), w.reshape(-1, 3, multiplier)).reshape(point.shape)
    for g, expected in zip(got, (y, dx, d_depth, d_point, db), strict=True):
        np.testing.assert_allclose(g, expected, rtol=1e-11, atol=1e-11)
    ones = point.reshape(*(1,) * rank, *point.shape)
    with jax.enable_x64(True):
        again = jax.jit(partial(separable_conv, **geometry))(x, w, ones, last)
    np.testing.assert_allclose(again, y, rtol=1e-11, atol=1e-11)


def test_empty_batches():
    x, w = jnp.ones((0, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
    assert conv_transpose(jnp.ones((0, 2, 2, 4)), w, stride=2).shape == (0, 5, 5, 2)
    assert depthwise_conv(x, w).shape == (0, 4, 4, 8)
    assert separable_conv(x, w, jnp.ones((8, 3))).shape == (0, 4, 4, 3)
    assert true_conv(x, w).shape == (0, 4, 4, 4)


# ---- errors ----

X, W, Y = jnp.ones((2, 8, 9, 4)), jnp.ones((3, 3, 4, 5)), jnp.ones((2, 6, 7, 5))


@in_one_case(
    ("call", "error", "words"),
    [
        (lambda: conv_transpose(Y, W, strides=2), TypeError, "conv_transpose takes stride=, not strides="),
        (lambda: conv_transpose(Y, W, transpose_kernel=True), TypeError, "takes no transpose_kernel=: it wants w as"),
        (lambda: conv_transpose("Y", W), TypeError, "y must be an array, got str"),
        (lambda: conv_transpose(Y, W.astype("float16")), TypeError, "y and w must share a dtype"),
        (lambda: conv_transpose(Y, W, groups=1.0), TypeError, "groups must be an int, got 1.0"),
        (lambda: conv_transpose(Y, W, groups=0), ValueError, "groups must be at least 1, got 0"),
        (lambda: conv_transpose(Y, W, groups=2), ValueError, "groups must divide y's channels"),
        (lambda: conv_transpose(Y, W[0, 0]), ValueError, r"w must be \(\*K, C // groups, F\)"),
        (lambda: conv_transpose(Y[0], W), ValueError, r"exactly one batch axis, as y\[None\]"),
        (lambda: conv_transpose(Y[None], W), ValueError, "must have the same number of axes"),
        (lambda: conv_transpose(Y[:, :0], W), ValueError, "no empty axis but y's batch"),
        (lambda: conv_transpose(X, W), ValueError, r"y's channels must be w's last axis.*w.swapaxes\(-1, -2\)"),
        (lambda: conv_transpose(jnp.moveaxis(Y, -1, 1), W), ValueError, "y looks channels-first"),
        (lambda: conv_transpose(Y, jnp.ones((5, 4, 3, 3))), ValueError, "w looks like PyTorch's"),
        (lambda: conv_transpose(Y[..., :2], W), ValueError, r"y's channels must be w's last axis, F, got y"),
        (lambda: conv_transpose(Y, W, jnp.ones(5)), ValueError, r"b must have shape \(4,\).* got \(5,\)"),
        (lambda: conv_transpose(Y, W, output_padding=1), ValueError, r"must be below max\(stride, dilation\) = \(1, 1"),
        (lambda: conv_transpose(Y, W, output_padding=-1), ValueError, "output_padding must be at least 0"),
        (
            lambda: conv_transpose(Y, W, stride=2, output_padding=1, padding="SAME"),
            ValueError,
            "output_padding must be 0 where padding is 'SAME'",
        ),
        (
            lambda: conv_transpose(Y, W, stride=2, output_padding=1, output_shape=(13, 15)),
            ValueError,
            "output_padding must be 0 where output_shape is given",
        ),
        (lambda: conv_transpose(Y, W, output_shape=(8,)), ValueError, "output_shape must have one size per spatial"),
        (lambda: conv_transpose(Y, W, output_shape=8), TypeError, "output_shape must be a sequence of ints"),
        (
            lambda: conv_transpose(Y, W, output_shape=(8, 8)),
            ValueError,
            r"output_shape must be one of which conv gives y's spatial shape \(6, 7\), got \(8, 8\), .*\(6, 6\)",
        ),
        (lambda: conv_transpose(Y, W, padding=4), ValueError, "padding must leave something"),
        (lambda: conv_transpose(Y, W, padding="same"), ValueError, 'did you mean "SAME"'),
        (lambda: conv_transpose(Y, W, precision="best"), ValueError, "precision must be None"),
        (lambda: true_conv(X, W, strides=2), TypeError, "true_conv takes stride=, not strides="),
        (lambda: true_conv(X, W[:, :, :2]), ValueError, "x's channels must be w's input channels"),
        (lambda: true_conv(X, "W"), TypeError, "w must be an array, got str"),
        (lambda: depthwise_conv(X, W[:, :, :1]), ValueError, r"w must be \(\*K, C, M\) and x .*, got x \(2, 8, 9, 4\)"),
        (lambda: depthwise_conv(X, W.astype("float16")), TypeError, "x and w must share a dtype"),
        (lambda: depthwise_conv(X, W, jnp.ones(5)), ValueError, r"b must have shape \(20,\)"),
        (lambda: depthwise_conv(X, W, groups=4), TypeError, "depthwise_conv takes no groups="),
        (lambda: separable_conv(X[0], W, W), ValueError, r"w_depth must be \(\*K, C, M\)"),
        (
            lambda: separable_conv(X, W, W),
            ValueError,
            r"w_point must be \(C M, F\) or \(1, 1, C M, F\), C M = 20 of w_depth \(3, 3, 4, 5\), got",
        ),
        (lambda: separable_conv(X, W, jnp.ones((20, 3), "float16")), TypeError, "w_depth and w_point must share"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_conv_itself_is_the_adjoint_of_conv_transpose():
    x, w, y = random_arrays(7, (2, 8, 9, 4), (3, 3, 2, 6), (2, 4, 5, 6))
    keywords = {"stride": 2, "padding": "SAME", "groups": 2}
    with jax.enable_x64(True):
        x, w, y = map(jnp.asarray, (x, w, y))
        back = conv_transpose(y, w, **keywords, output_shape=(8, 9))
        np.testing.assert_allclose((conv(x, w, **keywords) * y).sum(), (x * back).sum(), rtol=1e-12)
