"""deform_conv against hand-computed numbers, its definition, conv and PyTorch; its gradients and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import conv, deform_conv
from cnnjax.ops.geometry import slide
from tests import oracles
from tests.cases import random_arrays


def test_one_dimension_by_hand():
    x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)

    def y(*offset, **keywords):
        offset = jnp.array(offset).reshape(1, 3, 1)
        return deform_conv(x, jnp.full((1, 1, 1), 10.0), offset, **keywords).ravel().tolist()

    assert y(0.0, 0.0, 0.0) == [10, 20, 40]
    assert y(0.5, -0.25, -2.0) == [15, 17.5, 10]
    # outside is zero, and half way out is half
    assert y(-0.5, -2.0, 0.5) == [5, 0, 20]
    assert y(-1.0, -1e30, np.inf) == [0, 0, 0]
    assert np.isnan(y(np.nan, 0.0, 0.0)).tolist() == [True, False, False]
    assert y(1.0, 1.0, 1.0, b=jnp.ones(1), mask=jnp.array([0.5, 2.0, 1.0]).reshape(1, 3, 1)) == [11, 81, 1]
    # what a negative padding crops is outside
    assert y(0.5, 0.0, -1.0, padding=((-1, 1),)) == [30, 40, 40]
    assert y(-1.0, 0.0, 0.0, padding=((-1, 1),)) == [0, 40, 0]


def test_two_dimensions_by_hand():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    w = jnp.array([1.0, 100.0]).reshape(1, 2, 1, 1)
    # the first tap half a row down, the second a quarter of a column to the left
    offset = jnp.broadcast_to(jnp.array([0.5, 0.0, 0.0, -0.25]), (1, 2, 2, 4))
    y = deform_conv(x, w, offset)[0, :, :, 0]
    np.testing.assert_array_equal(y, [[1.5 + 75, 2.5 + 175], [1.5 + 375, 2 + 475]])


def test_offset_groups_by_hand():
    x = jnp.array([[[1.0, 10.0], [2.0, 20.0]]])
    offset = jnp.array([[[0.0, 1.0], [0.0, -1.0]]])
    assert deform_conv(x, jnp.ones((1, 2, 1)), offset, offset_groups=2).ravel().tolist() == [21, 12]
    mask = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
    assert deform_conv(x, jnp.ones((1, 2, 1)), offset, mask, offset_groups=2).ravel().tolist() == [1, 10]


def test_derivative_at_a_whole_position_is_that_towards_larger_ones():
    x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)
    slope = jax.grad(lambda offset: deform_conv(x, jnp.ones((1, 1, 1)), offset).sum())(jnp.zeros((1, 3, 1)))
    assert slope.ravel().tolist() == [1, 2, -4]


CASES = {
    "1-D": (1, {}, True),
    "2-D": (2, {"stride": (2, 1), "padding": ((2, 1), (0, 1)), "dilation": (1, 2)}, True),
    "2-D groups": (2, {"groups": 2, "offset_groups": 4, "padding": 1}, True),
    "2-D crop": (2, {"groups": 4, "offset_groups": 2, "padding": ((-1, 0), (1, -1))}, False),
    "3-D": (3, {"stride": 2, "padding": "SAME", "offset_groups": 2}, True),
}


@pytest.mark.parametrize(
    "case", [*("1-D", "2-D groups"), *(pytest.param(c, marks=pytest.mark.slow) for c in ("2-D", "2-D crop", "3-D"))]
)
def test_against_the_definition(case):
    rank, keywords, masked = CASES[case]
    groups, offset_groups = keywords.get("groups", 1), keywords.get("offset_groups", 1)
    sizes, window = (5, 4, 3)[-rank:], (2, 3, 2)[-rank:]
    windows = slide(sizes, window, **{k: v for k, v in keywords.items() if "groups" not in k})
    taps = int(np.prod(window))
    x, w, offset, mask, b = random_arrays(
        rank,
        *((2, *sizes, 4), (*window, 4 // groups, 4), (2, *windows.output, offset_groups * taps * rank)),
        *((2, *windows.output, offset_groups * taps), (4,)),
    )
    arrays = [x, w, 1.5 * offset, mask if masked else None, b]
    pads = tuple((max(low, 0), max(high, 0)) for low, high in windows.padding)
    cut = tuple(slice(max(-low, 0), min(high, 0) or None) for low, high in windows.padding)
    full = {"stride": windows.stride, "dilation": windows.dilation, "padding": pads}

    def oracle(x, *rest):
        x = x[(slice(None), *cut)]
        return oracles.deform_conv(x, *rest, **full, groups=groups, offset_groups=offset_groups)

    expected = oracle(*arrays)
    (ct,) = random_arrays(7, expected.shape)
    with jax.enable_x64(True):
        given = [a for a in arrays if a is not None]

        @jax.jit
        def value_and_gradients(*given):
            def op(x, w, offset, *rest):
                mask, b = rest if masked else (None, *rest)
                return deform_conv(x, w, offset, mask, b, **keywords)

            y, pull = jax.vjp(op, *given)
            return y, pull(jnp.asarray(ct))

        y, gradients = value_and_gradients(*map(jnp.asarray, given))
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    # the definition is piecewise linear in each argument, so that differences are exact away from the kinks
    where = [i for i, a in enumerate(arrays) if a is not None]
    for i, gradient in zip(where, gradients, strict=True):
        (v,) = random_arrays(10 + i, arrays[i].shape)
        ends = [oracle(*(a + e * v if j == i else a for j, a in enumerate(arrays))) for e in (1e-6, -1e-6)]
        slope = ((ends[0] - ends[1]) * ct).sum() / 2e-6
        np.testing.assert_allclose((np.asarray(gradient) * v).sum(), slope, rtol=1e-7)


def test_without_displacement_it_is_conv():
    x, w, b = random_arrays(0, (2, 7, 8, 4), (3, 2, 2, 6), (6,))
    x, w, b = (jnp.asarray(a, "float32") for a in (x, w, b))
    keywords = {"stride": (1, 2), "padding": ((1, 2), (-1, 0)), "dilation": (2, 1), "groups": 2}
    y = conv(x, w, b, **keywords)
    offset = jnp.zeros((*y.shape[:-1], 12))
    np.testing.assert_allclose(deform_conv(x, w, offset, b=b, **keywords), y, rtol=1e-5, atol=1e-5)


def test_one_displacement_for_all_is_conv_of_the_shifted_image():
    x, w = (jnp.asarray(a, "float32") for a in random_arrays(0, (2, 7, 8, 3), (3, 3, 3, 4)))
    offset = jnp.broadcast_to(jnp.tile(jnp.array([2.0, -1.0]), 9), (2, 5, 6, 18))
    expected = conv(x, w, padding=((-2, 2), (1, -1)))
    np.testing.assert_allclose(deform_conv(x, w, offset), expected, rtol=1e-5, atol=1e-5)


def test_against_pytorch():
    torch = pytest.importorskip("torch")
    x, w, offset, mask = random_arrays(3, (2, 6, 7, 3), (3, 3, 3, 4), (2, 6, 7, 18), (2, 6, 7, 9))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in (x, w, offset, mask)]
        y, pull = jax.vjp(lambda *a: deform_conv(*a, padding=1), *arrays)
        gradients = pull(jnp.cos(y))
    x, w, offset, mask = leaves = [torch.tensor(a, requires_grad=True) for a in (x, w, offset, mask)]
    result, row, column = 0, torch.arange(6.0)[:, None], torch.arange(7.0)
    for t in range(9):
        at = [column + t % 3 - 1 + offset[..., 2 * t + 1], row + t // 3 - 1 + offset[..., 2 * t]]
        grid = torch.stack([2 * at[0] / 6 - 1, 2 * at[1] / 5 - 1], -1)  # grid_sample's own scale, column first
        seen = torch.nn.functional.grid_sample(x.moveaxis(-1, 1), grid, align_corners=True).moveaxis(1, -1)
        result = result + (seen * mask[..., t : t + 1]) @ w[t // 3, t % 3]
    result.backward(torch.cos(result.detach()))
    np.testing.assert_allclose(y, result.detach(), rtol=1e-12, atol=1e-12)
    for mine, leaf in zip(gradients, leaves, strict=True):
        np.testing.assert_allclose(mine, leaf.grad, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_are_placed_and_added_in_float32(dtype):
    # 300.25 is no bfloat16 and 2048.5 is no float16: the position may not be rounded to them
    x = (jnp.arange(2100) % 2).astype(dtype).reshape(1, -1, 1)
    y = deform_conv(x, jnp.ones((1, 1, 1), dtype), jnp.full((1, 2100, 1), 0.25, dtype))
    assert y.dtype == dtype and y.ravel()[jnp.array([300, 2048, 2049])].tolist() == [0.25, 0.25, 0.75]
    ones = jnp.ones((1, 4096, 1), dtype)
    assert deform_conv(ones, ones.reshape(4096, 1, 1), jnp.zeros((1, 1, 4096), dtype)).item() == 4096


def test_empty_batch():
    x, w, offset = jnp.ones((0, 5, 6, 2)), jnp.ones((2, 2, 2, 3)), jnp.ones((0, 4, 5, 8))
    assert deform_conv(x, w, offset).shape == (0, 4, 5, 3)
    dw = jax.grad(lambda w: deform_conv(x, w, offset, offset[..., :4]).sum())(w)
    np.testing.assert_array_equal(dw, jnp.zeros((2, 2, 2, 3)))


X, W, OFFSET, MASK = jnp.ones((2, 8, 9, 4)), jnp.ones((3, 3, 4, 5)), jnp.ones((2, 6, 7, 18)), jnp.ones((2, 6, 7, 9))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: deform_conv(X, W, OFFSET, strides=1), TypeError, "deform_conv takes stride=, not strides="),
        (lambda: deform_conv(X, W, OFFSET, bias=W), TypeError, "deform_conv takes b=, not bias="),
        (lambda: deform_conv(X, W, "0"), TypeError, "offset must be an array, got str"),
        (lambda: deform_conv(X, W, OFFSET, [1]), TypeError, "mask must be an array, got list"),
        (lambda: deform_conv(X, W, OFFSET > 0), TypeError, "offset must be float32.* got bool"),
        (lambda: deform_conv(X, W, OFFSET.astype("float16")), TypeError, "x and w and offset must share a dtype"),
        (lambda: deform_conv(X, W, OFFSET, MASK.astype("float16")), TypeError, "share a dtype.* mask float16"),
        (lambda: deform_conv(X[0], W, OFFSET), ValueError, r"x must be \(N, \*S, C\) with exactly one batch axis"),
        (lambda: deform_conv(X[..., 1:], W, OFFSET), ValueError, "x's channels must be w's input channels"),
        (lambda: deform_conv(X, W, OFFSET, b=jnp.ones(4)), ValueError, r"b must have shape \(5,\)"),
        (lambda: deform_conv(X, W, OFFSET, groups=0), ValueError, "groups must be at least 1, got 0"),
        (
            lambda: deform_conv(X, W, OFFSET, offset_groups=3),
            ValueError,
            "offset_groups must .* divide x's channels",
        ),
        (lambda: deform_conv(X, W, OFFSET, offset_groups=0), ValueError, "offset_groups must be at least 1.* got 0"),
        (lambda: deform_conv(X, W, OFFSET, offset_groups=1.0), TypeError, "offset_groups must be made of ints"),
        (lambda: deform_conv(X[:, :2], W, OFFSET), ValueError, "window must fit into the padded input"),
        (
            lambda: deform_conv(X, W, OFFSET, padding=1),
            ValueError,
            r"offset must be \(N, \*S', offset_groups prod\(K\) rank\), here \(2, 8, 9, 18\), got \(2, 6, 7, 18\)$",
        ),
        (
            lambda: deform_conv(X, W, jnp.moveaxis(OFFSET, -1, 1)),
            ValueError,
            r"offset must be .* looks channels-first: jnp.moveaxis\(offset, 1, -1\)",
        ),
        (
            lambda: deform_conv(X, W, OFFSET, MASK[:1]),
            ValueError,
            r"mask must be \(N, \*S', offset_groups prod\(K\)\), here \(2, 6, 7, 9\), got \(1, 6, 7, 9\)",
        ),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
