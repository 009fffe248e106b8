"""Convolutions of random arguments by the hundred against the nested-loop definitions; slow."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.ops.geometry import slide
from tests import oracles
from tests.cases import UNIVERSAL, value_and_gradients
from tests.conformance.random_arguments import MODES, close, geometry, setting

pytestmark = pytest.mark.slow


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
