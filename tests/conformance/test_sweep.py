"""Random arguments by the hundred against the nested-loop definitions: meaner than the everyday tests, and slow.

Strides beyond the window, paddings that crop, are lopsided or larger than the input, windows and sizes of one,
dilations of both sides, many groups, empty batches, ties, infinities and NaN, in one to three dimensions.
"""

import itertools
import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.ops.geometry import require_real_taps, slide
from tests import oracles
from tests.ops.conv.test_conv import UNIVERSAL, value_and_gradients
from tests.ops.pool.test_pool import REDUCERS, value_and_gradient

pytestmark = pytest.mark.slow

INF, NAN = float("inf"), float("nan")
MODES = ("zeros", "reflect", "replicate", "circular")


def geometry(draw, rank, *, mode="zeros", ceil_mode=False, holes=None, real=False):
    """Sizes, window and keywords that the house accepts, and the padding in full."""
    for _ in itertools.repeat(None):
        sizes = [draw.choice([1, 1, 2, 3, 4, 5, 7, 9][: {1: 8, 2: 6, 3: 5}[rank]]) for _ in range(rank)]
        window = [draw.choice([1, 2, 2, 3, 3, 4, 5][: 9 - 2 * rank]) for _ in range(rank)]
        stride = [draw.choice([1, 1, 2, 3, 5, 7]) for _ in range(rank)]
        dilation = [draw.choice([1, 1, 1, 2, 3, 5]) for _ in range(rank)]
        padding = tuple((draw.randint(-3, 5), draw.randint(-3, 5)) for _ in range(rank))
        if not ceil_mode and draw.random() < 0.25:
            padding = draw.choice(["VALID", "SAME", "SAME_LOWER", "FULL", 1, 2])
        keywords = {"stride": stride, "padding": padding, "dilation": dilation}
        spread = [(size - 1) * hole + 1 for size, hole in zip(sizes, holes or [1] * rank, strict=True)]
        try:
            windows = slide(spread, window, **keywords, ceil_mode=ceil_mode)
            if real:
                require_real_taps(windows)
            ops.pad(jnp.zeros((1, *sizes, 1)), windows.padding if holes is None else 0, mode=mode)
        except ValueError:
            continue
        if math.prod(windows.output) * math.prod(window) > 4000:
            continue
        return sizes, window, keywords, keywords | {"padding": windows.padding}, windows.output
    raise AssertionError


def close(got, expected, tolerance=1e-11):
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def setting(seed):
    draw = random.Random(f"sweep {seed}")
    return draw, np.random.default_rng(seed), 1 + seed % 3, draw.choice([0, 1, 2, 2, 3])


@pytest.mark.parametrize("seed", range(120))
def test_conv(seed):
    draw, rng, rank, batch = setting(seed)
    mode = MODES[seed // 3 % 4]
    holes = [draw.randint(1, 4) for _ in range(rank)] if mode == "zeros" and seed % 2 else None
    sizes, window, keywords, full, _ = geometry(draw, rank, mode=mode, holes=holes)
    groups, per_group, out = draw.choice([1, 1, 2, 3, 5]), draw.randint(1, 3), draw.randint(1, 3)
    holes = holes or [1] * rank
    x, w, b = (rng.normal(size=s) for s in ((batch, *sizes, per_group * groups), (*window, per_group, out * groups),
                                            (out * groups,)))  # fmt: skip
    algorithms = ["auto", UNIVERSAL[seed // 2 % len(UNIVERSAL)]]
    if set(window) <= {3, 5} and set(keywords["stride"] + keywords["dilation"]) == {1}:
        algorithms += ["winograd", "winograd4"]
    for algorithm in algorithms:
        with jax.enable_x64(True):
            ct, got = value_and_gradients(
                lambda *a, algorithm=algorithm: ops.conv(
                    *a, **keywords, padding_mode=mode, input_dilation=holes, groups=groups, algorithm=algorithm
                ), x, w, b,
            )  # fmt: skip
        expected = oracles.conv(x, w, b, ct, mode=mode, holes=holes, groups=groups, **full)
        for g, e in zip(got, expected, strict=True):
            close(g, e)


@pytest.mark.parametrize("seed", range(60))
def test_conv_transpose_and_the_backward_formulas(seed):
    draw, rng, rank, batch = setting(seed + 1000)
    sizes, window, keywords, full, output = geometry(draw, rank)
    groups, per_group, out = draw.choice([1, 1, 2, 3]), draw.randint(1, 3), draw.randint(1, 3)
    x_shape, w_shape = (batch, *sizes, per_group * groups), (*window, per_group, out * groups)
    x, w, b, y = (rng.normal(size=s) for s in (x_shape, w_shape, x_shape[-1:], (batch, *output, w_shape[-1])))
    keywords["groups"] = full["groups"] = groups
    full |= {"mode": "zeros", "holes": [1] * rank}
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda *a: ops.conv_transpose(*a, **keywords, output_shape=sizes), y, w, b)
        dx = ops.conv_input_grad(jnp.asarray(y), jnp.asarray(w), x_shape, **keywords)
        dw = ops.conv_kernel_grad(jnp.asarray(x), jnp.asarray(y), w_shape, **keywords)
    _, back, kernel, _ = oracles.conv(x, w, None, y, **full)
    dy, _, its_kernel, _ = oracles.conv(ct, w, None, y, **full)
    for g, e in zip((*got, dx, dw), (back + b, dy, its_kernel, ct.sum(tuple(range(rank + 1))), back, kernel),
                    strict=True):  # fmt: skip
        close(g, e)


@pytest.mark.parametrize("seed", range(30))
def test_toeplitz_matrix(seed):
    draw, rng, rank, _ = setting(seed + 2000)
    sizes, window, keywords, full, _ = geometry(draw, rank)
    groups = draw.choice([1, 2, 3])
    x, w = rng.normal(size=(2, *sizes, 2 * groups)), rng.normal(size=(*window, 2, groups))
    with jax.enable_x64(True):
        matrix = np.asarray(ops.toeplitz_matrix(jnp.asarray(w), sizes, groups=groups, **keywords))
    y = oracles.conv(x, w, None, None, mode="zeros", holes=[1] * rank, groups=groups, **full)[0]
    close(x.reshape(2, -1) @ matrix.T, y.reshape(2, -1))


@pytest.mark.parametrize("seed", range(30))
def test_depthwise_and_separable_conv(seed):
    draw, rng, rank, batch = setting(seed + 3000)
    mode = MODES[seed // 3 % 4]
    sizes, window, keywords, full, _ = geometry(draw, rank, mode=mode)
    channels, multiplier = draw.randint(1, 4), draw.randint(1, 3)
    middle = channels * multiplier
    x, w, point, b, last = (
        rng.normal(size=s)
        for s in ((batch, *sizes, channels), (*window, channels, multiplier), (middle, 3), (middle,), (3,))
    )
    full |= {"mode": mode, "holes": [1] * rank}
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda *a: ops.depthwise_conv(*a, **keywords, padding_mode=mode), x, w, b)
        to, again = value_and_gradients(
            lambda *a: ops.separable_conv(*a, **keywords, padding_mode=mode), x, w, point, last
        )
    y, dx, dw, db = oracles.conv(x, w.reshape(*window, 1, middle), b, ct, groups=channels, **full)
    for g, e in zip(got, (y, dx, dw.reshape(w.shape), db), strict=True):
        close(g, e)
    point = point.reshape(channels, multiplier, 3)
    y, dx, dw, db = oracles.conv(x, np.einsum("...cm,cmf->...cf", w, point), last, to, groups=1, **full)
    d_depth = np.einsum("...cf,cmf->...cm", dw, point)
    d_point = np.einsum("tcf,tcm->cmf", dw.reshape(-1, channels, 3), w.reshape(-1, channels, multiplier))
    for g, e in zip(again, (y, dx, d_depth, d_point.reshape(middle, 3), db), strict=True):
        close(g, e)


@pytest.mark.parametrize("seed", range(30))
def test_local_and_connected_conv(seed):
    draw, rng, rank, batch = setting(seed + 4000)
    sizes, window, keywords, full, output = geometry(draw, rank)
    channels, features = draw.randint(1, 3), draw.randint(1, 3)
    x, b = rng.normal(size=(batch, *sizes, channels)), rng.normal(size=(*output, features))
    w = rng.normal(size=(*output, math.prod(window) * channels, features))
    with jax.enable_x64(True):
        ct, (y, dx, dw, db) = value_and_gradients(lambda *a: ops.local_conv(*a, **keywords, window=window), x, w, b)
    cols, _ = oracles.unfold(x, None, window=window, **full)
    close(y, np.einsum("n...p,...pf->n...f", cols, w) + b)
    close(dx, oracles.unfold(x, np.einsum("n...f,...pf->n...p", ct, w), window=window, **full)[1])
    close(dw, np.einsum("n...p,n...f->...pf", cols, ct))
    close(db, ct.sum(0))

    table, w, b = rng.random((channels, features)) < 0.5, rng.normal(size=(*window, channels, features)), b.ravel()
    b = b[:features]
    try:
        windows = slide(sizes, window, stride=keywords["stride"], padding=keywords["padding"])
    except ValueError:
        return
    keywords = {"stride": keywords["stride"], "padding": keywords["padding"]}
    with jax.enable_x64(True):
        ct, got = value_and_gradients(
            lambda x, w, b: ops.connected_conv(x, w, jnp.asarray(table), b, **keywords), x, w, b
        )
    ones = [1] * rank
    full = {"stride": keywords["stride"], "padding": windows.padding, "dilation": ones, "holes": ones}
    y, dx, dw, db = oracles.conv(x, w * table, b, ct, mode="zeros", groups=1, **full)
    for g, e in zip(got, (y, dx, dw * table, db), strict=True):
        close(g, e)


@pytest.mark.parametrize("seed", range(100))
def test_max_and_min_pool(seed):
    draw, rng, rank, batch = setting(seed + 5000)
    ceil_mode = seed % 2 == 0
    sizes, window, keywords, full, _ = geometry(draw, rank, ceil_mode=ceil_mode, real=True)
    # few values, so that there are ties
    x = rng.choice([-INF, -1, -0.0, 0.0, 2, INF, NAN] if seed % 3 else [-INF, 0, 1], (batch, *sizes, 2))
    with jax.enable_x64(True):
        for pool, sign in ((ops.max_pool, 1), (ops.min_pool, -1)):
            ct, (y, dx, index) = value_and_gradient(
                lambda x, pool=pool: pool(x, window, **keywords, ceil_mode=ceil_mode, return_indices=True), x, True
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
        ct, got = value_and_gradient(lambda x: ops.avg_pool(x, window, **keywords, ceil_mode=ceil_mode, **counting), x)
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
        ct, (y, dx) = value_and_gradient(lambda x: ops.lp_pool(x, window, p=p, **keywords, ceil_mode=ceil_mode), x)
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
        ct, (y, dx) = value_and_gradient(
            lambda x: ops.pool(x, window, ours, **keywords, ceil_mode=ceil_mode, pad_value=pad_value), x
        )

    def expected(x):
        return oracles.pool(x, theirs, pad_value=pad_value, window=window, ceil_mode=ceil_mode, **full)

    close(y, expected(x))
    slope = ((expected(x + 1e-6 * v) - expected(x - 1e-6 * v)) / 2e-6 * ct).sum()
    np.testing.assert_allclose((np.asarray(dx) * v).sum(), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(60))
def test_unfold_and_fold(seed):
    draw, rng, rank, batch = setting(seed + 9000)
    sizes, window, keywords, full, _ = geometry(draw, rank)
    x = rng.normal(size=(batch, *sizes, draw.randint(1, 3)))
    with jax.enable_x64(True):
        ct, (cols, dx) = value_and_gradient(lambda x: ops.unfold(x, window, **keywords), x)
        back, (folded, dcols) = value_and_gradient(lambda cols: ops.fold(cols, sizes, window, **keywords), ct)
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
                ct, (y, dx) = value_and_gradient(
                    lambda x: ops.pad(x, padding, mode=mode, value=value),  # noqa: B023
                    x,
                )
            break
        except ValueError:
            continue
    expected, expected_dx = oracles.pad(x, ct, padding=padding, mode=mode, value=value)
    np.testing.assert_array_equal(y, expected)
    close(dx, expected_dx)


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
        ct, (y, dx, index) = value_and_gradient(
            lambda x: ops.adaptive_max_pool(x, output_size, return_indices=True), x, True
        )
        _, (mean, mean_dx) = value_and_gradient(lambda x: ops.adaptive_avg_pool(x, output_size), finite)
        its, (part, part_dx, part_index) = value_and_gradient(
            lambda x: ops.fractional_max_pool(x, window, output_size=fewer, samples=samples, return_indices=True),
            x, True,
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


@pytest.mark.parametrize("seed", range(30))
def test_max_unpool_and_local_response_norm(seed):
    draw, rng, rank, batch = setting(seed + 12000)
    sizes, inner = ([draw.randint(1, 5) for _ in range(rank)] for _ in range(2))
    y, indices = rng.normal(size=(batch, *inner, 2)), rng.integers(0, math.prod(sizes), (batch, *inner, 2))
    with jax.enable_x64(True):
        ct, got = value_and_gradient(lambda y: ops.max_unpool(y, jnp.asarray(indices), sizes), y)
    for g, e in zip(got, oracles.max_unpool(y, indices, sizes, ct), strict=True):
        np.testing.assert_array_equal(g, e)

    keywords = {"size": draw.randint(1, 12), "alpha": draw.choice([1e-4, 1.0]), "beta": draw.choice([0.5, 0.75, 2.0])}
    x = rng.normal(size=(batch, *sizes, draw.randint(1, 9)))
    with jax.enable_x64(True):
        ct, got = value_and_gradient(lambda x: ops.local_response_norm(x, **keywords), x)
    for g, e in zip(got, oracles.local_response_norm(x, ct, k=2.0, **keywords), strict=True):
        close(g, e)
