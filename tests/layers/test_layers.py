"""The modules give what their ops give of their own parameters, and draw these with the fan-in they say."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import layers, ops


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


X = jax.random.normal(jax.random.key(1), (2, 8, 9, 4))
TABLE = np.arange(24).reshape(4, 6) % 5 < 3


def with_parameters(module: nnx.Module, op, *middle, **keywords) -> tuple[jax.Array, jax.Array]:
    module.bias[...] = jnp.arange(module.bias.size, dtype="float32").reshape(module.bias.shape)
    return module(X), op(X, module.kernel[...], *middle, module.bias[...], **keywords)


def test_weighted_layers_are_their_ops() -> None:
    def check(module, op, *middle, **keywords):
        got, expected = with_parameters(module, op, *middle, **keywords)
        np.testing.assert_array_equal(got, expected)

    how = {"stride": 2, "padding": 1}
    check(layers.Conv(4, 6, (3, 3), groups=2, rngs=rngs(), **how), ops.conv, groups=2, **how)
    check(layers.TrueConv(4, 6, (3, 3), rngs=rngs()), ops.true_conv)
    check(layers.ConvTranspose(4, 6, (3, 2), groups=2, rngs=rngs(), **how), ops.conv_transpose, groups=2, **how)
    check(layers.DepthwiseConv(4, (3, 3), multiplier=2, rngs=rngs(), **how), ops.depthwise_conv, **how)
    check(layers.LocalConv((8, 9), 4, 3, (2, 3), stride=2, rngs=rngs()), ops.local_conv, stride=2, window=(2, 3))
    check(layers.ConnectedConv(TABLE, (3, 3), rngs=rngs()), ops.connected_conv, jnp.asarray(TABLE))
    separable = layers.SeparableConv(4, 6, (3, 3), multiplier=2, rngs=rngs(), **how)
    depth, point = separable.depth.kernel[...], separable.point.kernel[...]
    np.testing.assert_allclose(separable(X), ops.separable_conv(X, depth, point, **how), rtol=1e-6)


def test_deform_conv() -> None:
    module = layers.DeformConv(4, 6, (3, 3), padding=1, rngs=rngs())
    offset = jnp.full((2, 8, 9, 18), 0.25)
    mask = jnp.full((2, 8, 9, 9), 0.5)
    expected = ops.deform_conv(X, module.kernel[...], offset, mask, module.bias[...], padding=1)
    np.testing.assert_array_equal(module(X, offset, mask), expected)


def test_subsample_and_rbf_by_hand() -> None:
    module = layers.Subsample(1, (2, 2), rngs=rngs())
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(module(x)[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    module.factor[...], module.bias[...] = jnp.array([2.0]), jnp.array([1.0])
    np.testing.assert_array_equal(module(x)[0, ..., 0], [[21, 37], [85, 101]])
    rbf = layers.RBF([[1.0, -1.0, 1.0], [0.0, 0.0, 3.0]])
    np.testing.assert_array_equal(rbf(jnp.array([[1.0, 1.0, 1.0]])), [[4, 6]])
    assert not jax.tree.leaves(nnx.state(rbf, nnx.Param))


@pytest.mark.parametrize(
    ("module", "op"),
    [
        (layers.MaxPool(2, stride=1), lambda x: ops.max_pool(x, 2, stride=1)),
        (layers.MinPool(window=2), lambda x: ops.min_pool(x, 2)),
        (
            layers.AvgPool(2, padding=1, count_include_pad=True),
            lambda x: ops.avg_pool(x, 2, padding=1, count_include_pad=True),
        ),
        (layers.LpPool(2, p=3), lambda x: ops.lp_pool(x, 2, p=3)),
        (layers.Pool(2, jnp.median), lambda x: ops.pool(x, 2, jnp.median)),
        (layers.AdaptiveAvgPool((3, 2)), lambda x: ops.adaptive_avg_pool(x, (3, 2))),
        (layers.AdaptiveMaxPool(3), lambda x: ops.adaptive_max_pool(x, 3)),
        (layers.GlobalAvgPool(), ops.global_avg_pool),
        (layers.GlobalMaxPool(), ops.global_max_pool),
        (layers.LocalResponseNorm(size=3), lambda x: ops.local_response_norm(x, size=3)),
        (layers.Pad(1, mode="reflect"), lambda x: ops.pad(x, 1, mode="reflect")),
        (layers.Unfold(2), lambda x: ops.unfold(x, 2)),
        (layers.Fold((9, 10), 2), None),
        (layers.PixelShuffle(2), lambda x: ops.pixel_shuffle(x, 2)),
        (layers.PixelUnshuffle((2, 3)), lambda x: ops.pixel_unshuffle(x, (2, 3))),
        (layers.ChannelShuffle(2), lambda x: ops.channel_shuffle(x, 2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nnx.Module) else "",
)
def test_layers_without_weights_are_their_ops(module, op) -> None:
    op = op or (lambda x: ops.fold(x, (9, 10), 2))
    np.testing.assert_array_equal(module(X), op(X))


def test_random_pools_draw_anew_and_eval_gives_the_mean() -> None:
    x = jnp.abs(X)
    pool = layers.StochasticPool(2, rngs=rngs())
    first, second = pool(x), pool(x)
    assert (first != second).any()
    np.testing.assert_array_equal(layers.StochasticPool(2, rngs=rngs())(x), first)
    pool.eval()
    np.testing.assert_array_equal(pool(x), ops.stochastic_pool(x, 2, key=None, deterministic=True))
    fractional = layers.FractionalMaxPool(2, output_size=5, rngs=rngs())
    assert (fractional(x) != fractional(x)).any()
    assert fractional(x).shape == (2, 5, 5, 4)


def test_kernels_are_drawn_with_the_variance_of_their_fan_in() -> None:
    def variance(module: layers.KernelLayer) -> float:
        return float(module.kernel[...].var())

    assert variance(layers.Conv(32, 64, (3, 3), groups=2, rngs=rngs())) == pytest.approx(1 / (9 * 16), rel=0.1)
    assert variance(layers.ConvTranspose(32, 64, (3, 3), rngs=rngs())) == pytest.approx(1 / (9 * 32), rel=0.1)
    assert variance(layers.DepthwiseConv(512, (3, 3), rngs=rngs())) == pytest.approx(1 / 9, rel=0.1)
    assert variance(layers.LocalConv((9, 9), 8, 16, (3, 3), rngs=rngs())) == pytest.approx(1 / 72, rel=0.1)
    table = np.zeros((8, 200), bool)
    table[:2] = True
    linked = layers.ConnectedConv(table, (5, 5), rngs=rngs()).kernel[...]
    assert not linked[:, :, 2:].any()
    assert linked[:, :, :2].var() == pytest.approx(1 / 50, rel=0.1)


def test_half_precision_keeps_float32_parameters() -> None:
    module = layers.Conv(4, 6, (3, 3), dtype="bfloat16", rngs=rngs())
    assert module(X).dtype == "bfloat16"
    assert module.kernel.dtype == "float32"
    assert layers.Conv(4, 6, (3, 3), use_bias=False, rngs=rngs())(X.astype("float16")).dtype == "float16"


def test_under_nnx_jit_and_grad() -> None:
    model = nnx.Sequential(layers.Conv(4, 6, (3, 3), padding=[(1, 1), (0, 0)], rngs=rngs()), layers.MaxPool(2))
    np.testing.assert_allclose(nnx.jit(lambda m, x: m(x))(model, X), model(X), rtol=1e-5, atol=1e-6)
    grads = nnx.grad(lambda m: m(X).sum())(model)
    assert {leaf.shape for leaf in jax.tree.leaves(grads)} == {(3, 3, 4, 6), (6,)}


def test_errors() -> None:
    for make, message in [
        (lambda: layers.Conv(1, 6, (5, 5), strides=2, rngs=rngs()), "Conv takes stride=, not strides="),
        (lambda: layers.Conv(1, 6, kernel_size=(5, 5), rngs=rngs()), "missing|kernel_size"),
        (lambda: layers.Conv(1, 6, (5, 5), bias=False, rngs=rngs()), "Conv takes use_bias=, not bias="),
        (
            lambda: layers.Conv(1, 6, 5, rngs=rngs()),
            r"window must be one int per .*, as \(5, 5\), got 5",
        ),
        (lambda: layers.Conv(3, 6, (5, 5), groups=2, rngs=rngs()), "groups must be an int that divides the 3 channels"),
        (lambda: layers.MaxPool(kernel_size=2), "MaxPool takes window=, not kernel_size="),
        (lambda: layers.MaxPool(), "missing a required argument: 'window'"),
        (lambda: layers.StochasticPool(2, strides=1, rngs=rngs()), "StochasticPool takes stride=, not strides="),
        (
            lambda: layers.LocalConv((8, 8), 1, 2, (3, 3), strides=2, rngs=rngs()),
            "LocalConv takes stride=, not strides=",
        ),
        (
            lambda: layers.FractionalMaxPool(2, output_size=3, key=jax.random.key(0), rngs=rngs()),
            "FractionalMaxPool takes no key=: it draws by rngs",
        ),
        (lambda: layers.ConnectedConv(np.zeros((3, 4), bool), (3, 3), rngs=rngs()), "a link for each output"),
        (lambda: layers.ConnectedConv(np.ones((3, 4)), (3, 3), rngs=rngs()), "table must be a .* bool array"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            make()
