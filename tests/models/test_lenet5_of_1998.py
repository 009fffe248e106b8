"""The net of 1998 against its paper: counts, squashing, outputs, loss, and the recursion of the curvature."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import describe, layers, models
from cnnjax.errors import UserError
from cnnjax.models.lenet import LeNet5Of1998, bitmaps, curvature, map_loss
from cnnjax.train.optimizers import optimizer, scale_by_curvature, schedule


@functools.cache
def published(**options: object) -> nnx.Module:
    return models.build({"model": {"name": "lenet5-1998", **options}, "seed": 1})


def test_counts_as_published() -> None:
    table = describe(published(), (32, 32, 1))
    assert [row.params for row in table] == [156, 12, 1_516, 32, 48_120, 10_164, 0]
    assert [row.connections for row in table] == [122_304, 5_880, 151_600, 2_000, 48_120, 10_164, 840]
    assert table.total[:2] == (60_000, 340_908)


def test_the_bitmaps_are_the_digits() -> None:
    codes = bitmaps()
    assert codes.shape == (10, 84) and set(np.unique(codes)) == {-1, 1}
    one = codes[1].reshape(12, 7)
    assert "".join("+" if v > 0 else "-" for v in one[2]) == "-++++--"
    assert len({tuple(code) for code in codes}) == 10


def test_weights_of_the_published_bound() -> None:
    net = published()
    bounds = {"c1": 2.4 / 25, "s2": 2.4, "c5": 2.4 / 400, "f6": 2.4 / 120}
    for name, bound in bounds.items():
        for param in vars(getattr(net, name)).values():
            if isinstance(param, nnx.Param):
                largest = float(np.abs(param[...]).max())
                assert 0.4 * bound < largest <= bound
    kernel = np.asarray(net.c3.kernel[...])
    inputs = (np.abs(kernel).max((0, 1)) > 0).sum(0)
    assert inputs.tolist() == [3] * 6 + [4] * 9 + [6]  # Table I
    assert np.abs(kernel[..., 15]).max() <= 2.4 / 150 < np.abs(kernel[..., 0]).max() <= 2.4 / 75
    lecun = published(init="lecun")
    assert 0.9 / math.sqrt(400) < np.abs(lecun.c5.kernel[...]).max() <= 1 / math.sqrt(400)


def test_loss_is_equation_9() -> None:
    y = np.array([[3.0, 1.0, 2.5], [0.5, 4.0, 9.0]])
    labels = np.array([1, 2])
    j = 0.7
    expected = [y[p, d] + math.log(math.exp(-j) + np.exp(-y[p]).sum()) for p, d in enumerate(labels)]
    assert map_loss(jnp.asarray(-y), jnp.asarray(labels), j) == pytest.approx(np.mean(expected), rel=1e-6)


def test_the_nearest_bitmap_is_the_answer() -> None:
    net = published()
    code = net.features(jax.random.uniform(jax.random.key(0), (3, 32, 32, 1)))
    distances = ((np.asarray(code)[:, None] - bitmaps()) ** 2).sum(-1)
    np.testing.assert_allclose(-net.output(code), -distances, rtol=1e-5)
    assert np.abs(code).max() < 1.7159


class Tiny(LeNet5Of1998):
    """The same layers for 10x10 images, small enough to write every connection down."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.c1 = layers.Conv(1, 2, (3, 3), rngs=rngs)  #                                 8x8x2
        self.s2 = layers.Subsample(2, (2, 2), rngs=rngs)  #                               4x4x2
        self.c3 = layers.ConnectedConv([[True, True, False], [False, True, True]], (3, 3), rngs=rngs)  # 2x2x3
        self.s4 = layers.Subsample(3, (2, 2), rngs=rngs)  #                               1x1x3
        self.c5 = layers.Conv(3, 4, (1, 1), rngs=rngs)  #                                 1x1x4
        self.f6 = nnx.Linear(4, 5, rngs=rngs)
        self.output = layers.RBF(np.sign(np.random.default_rng(0).normal(size=(3, 5))))


def connections(name: str, layer: nnx.Module, shape: tuple[int, ...]):
    """Every connection of a layer over an input (H, W, C): which output, which input, which weight; None: the bias."""
    if name == "f6":
        for out in range(5):
            yield from (((out,), (i,), ("kernel", (i, out))) for i in range(4))
            yield (out,), None, ("bias", (out,))
        return
    height, width, channels = shape
    if name in ("s2", "s4"):
        for r, q, c in np.ndindex(height // 2, width // 2, channels):
            yield from (((r, q, c), (2 * r + i, 2 * q + k, c), ("factor", (c,))) for i, k in np.ndindex(2, 2))
            yield (r, q, c), None, ("bias", (c,))
        return
    k, _, _, features = layer.kernel.shape
    table = np.asarray(layer.table[...]) if name == "c3" else np.ones((channels, features), bool)
    for r, q, f in np.ndindex(height - k + 1, width - k + 1, features):
        for i, m, c in np.ndindex(k, k, channels):
            if table[c, f]:
                yield (r, q, f), (r + i, q + m, c), ("kernel", (i, m, c, f))
        yield (r, q, f), None, ("bias", (f,))


def brute_force(net: Tiny, params: dict, x: np.ndarray, label: int, j: float) -> dict:
    """The recursion of Efficient BackProp for one image, connection by connection; the last layer by differences."""
    shapes = {"c1": (8, 8, 2), "s2": (4, 4, 2), "c3": (2, 2, 3), "s4": (1, 1, 3), "c5": (1, 1, 4), "f6": (5,)}
    found = {name: {kind: np.zeros(a.shape) for kind, a in arrays.items()} for name, arrays in params.items()}
    met = []
    for name, shape in shapes.items():
        x = x.reshape(-1) if name == "f6" else x
        a = np.zeros(shape)
        links = list(connections(name, getattr(net, name), x.shape))
        for out, into, (kind, k) in links:
            a[out] += params[name][kind][k] * (1 if into is None else x[into])
        met.append((name, x, a, links))
        x = 1.7159 * np.tanh(2 / 3 * a)

    def loss(code: np.ndarray) -> float:
        y = ((code - np.asarray(net.output.centres[...])) ** 2).sum(1)
        return y[label] + math.log(math.exp(-j) + np.exp(-y).sum())

    eps = 1e-4
    steps = eps * np.eye(5)
    second = np.array([(loss(x + s) - 2 * loss(x) + loss(x - s)) / eps**2 for s in steps])
    for name, below, a, links in reversed(met):
        slope = 1.7159 * 2 / 3 * (1 - np.tanh(2 / 3 * a) ** 2)
        of_sums = slope**2 * second.reshape(a.shape)
        second = np.zeros(below.shape)
        for out, into, (kind, k) in links:
            found[name][kind][k] += of_sums[out] * (1 if into is None else below[into] ** 2)
            if into is not None:
                second[into] += params[name][kind][k] ** 2 * of_sums[out]
    return found


def test_curvature_against_the_recursion_over_connections() -> None:
    with jax.enable_x64(True):
        net = Tiny()
        draw = np.random.default_rng(1)
        params = {
            name: {k: draw.normal(size=p.shape) * 0.5 for k, p in vars(getattr(net, name)).items()
                   if isinstance(p, nnx.Param)}
            for name in ("c1", "s2", "c3", "s4", "c5", "f6")
        }  # fmt: skip
        x, labels = draw.normal(size=(3, 10, 10, 1)), np.array([0, 2, 1])
        got = jax.jit(lambda *a: curvature(net, *a, 0.3))(jax.tree.map(jnp.asarray, params), x, labels)
        each = [brute_force(net, params, image, label, 0.3) for image, label in zip(x, labels, strict=True)]
        for name, arrays in params.items():
            for kind in arrays:
                expected = sum(one[name][kind] for one in each) / 3
                np.testing.assert_allclose(got[name][kind], expected, rtol=1e-5, atol=1e-9, err_msg=f"{name} {kind}")
                assert (np.asarray(got[name][kind]) >= 0).all()


def test_rates_are_over_mu_plus_curvature() -> None:
    grads, h = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([0.0, 0.18])}
    rule = scale_by_curvature(mu=0.02)
    updates, _ = rule.update(grads, rule.init(grads), grads, curvature=h)
    np.testing.assert_allclose(updates["w"], [50, 10], rtol=1e-6)
    rule = optimizer("sdlm", 0.1)
    updates, _ = rule.update(grads, rule.init(grads), grads, curvature=h)
    np.testing.assert_allclose(updates["w"], [-5, -1], rtol=1e-6)
    adam = optimizer("adam", 0.1)  # takes what it has no use for
    with jax.numpy_dtype_promotion("standard"):  # optax's own
        assert optax.tree.norm(adam.update(grads, adam.init(grads), grads, curvature=h)[0]) > 0


def test_the_published_schedule() -> None:
    rate = schedule("lenet5", 5e-4, 20 * 60_000)
    by_pass = [float(rate(60_000 * p + 30_000)) for p in range(20)]
    assert by_pass == pytest.approx([5e-4] * 2 + [2e-4] * 3 + [1e-4] * 3 + [5e-5] * 4 + [1e-5] * 8)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="num_classes and channels must be 10 and 1"):
        published(num_classes=4)
    with pytest.raises(UserError, match="init must be one of published, lecun, was 'he'"):
        published(init="he")
    with pytest.raises(ValueError, match=r"x must be \(N, 32, 32, 1\), was \(2, 28, 28, 1\)"):
        published()(jnp.ones((2, 28, 28, 1)))
