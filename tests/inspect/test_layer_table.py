from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import describe, layers, models, ops
from cnnjax.inspect import Row, activations, receptive_regions

# the maps of S2 that each map of C3 reads
TABLE_I = "012 123 234 345 045 015 0123 1234 2345 0345 0145 0125 0134 1245 0235 012345"


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


class LeNet1998(nnx.Module):
    """The published net, in its shapes alone."""

    def __init__(self) -> None:
        table = np.array([[str(c) in column for column in TABLE_I.split(" ")] for c in range(6)])
        self.c1, self.s2 = layers.Conv(1, 6, (5, 5), rngs=rngs()), layers.Subsample(6, (2, 2), rngs=rngs())
        self.c3, self.s4 = layers.ConnectedConv(table, (5, 5), rngs=rngs()), layers.Subsample(16, (2, 2), rngs=rngs())
        self.c5, self.f6 = layers.Conv(16, 120, (5, 5), rngs=rngs()), nnx.Linear(120, 84, rngs=rngs())
        self.rbf = layers.RBF(jnp.ones((10, 84)))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.c5(self.s4(self.c3(self.s2(self.c1(x)))))
        return self.rbf(self.f6(x.reshape(len(x), 120)))


def test_lenet5_as_published(capsys: pytest.CaptureFixture[str]) -> None:
    table = describe(LeNet1998(), (32, 32, 1))
    assert table == [  # LeCun et al. 1998, section II.B
        Row("c1 (Conv)", (28, 28, 6), 156, 122_304, 117_600, (5, 5)),
        Row("s2 (Subsample)", (14, 14, 6), 12, 5_880, 1_176, (6, 6)),
        Row("c3 (ConnectedConv)", (10, 10, 16), 1_516, 151_600, 150_000, (14, 14)),
        Row("s4 (Subsample)", (5, 5, 16), 32, 2_000, 400, (16, 16)),
        Row("c5 (Conv)", (1, 1, 120), 48_120, 48_120, 48_000, (32, 32)),
        Row("f6 (Linear)", (84,), 10_164, 10_164, 10_080, (32, 32)),
        Row("rbf (RBF)", (10,), 0, 840, 840, (32, 32)),
    ]
    assert table.total[:2] == (60_000, 340_908)
    printed = capsys.readouterr().out
    assert printed == f"{table}\n"
    assert "c3 (ConnectedConv)  10 x 10 x 16   1,516      151,600  150,000  14 x 14\n" in printed
    assert printed.splitlines()[-1].split() == ["total", "60,000", "340,908", "328,096"]


def test_a_layer_called_twice_has_its_parameters_once() -> None:
    model = models.build({"model": {"name": "lenet5"}})
    table = describe(model, (4, 32, 32, 1))  # a batch serves too
    assert [row.layer for row in table] == [
        *("conv1 (Conv)", "pool (MaxPool)", "conv2 (Conv)", "pool (MaxPool)"),
        *("dense1 (Linear)", "dense2 (Linear)", "dense3 (Linear)"),
    ]
    assert table.total.params == 61_706 == sum(p.size for p in jax.tree.leaves(nnx.state(model, nnx.Param)))
    assert table[4].receptive_field == (32, 32)
    conv = layers.Conv(3, 3, (3, 3), padding=1, rngs=rngs())
    twice = describe(nnx.Sequential(conv, conv), (5, 5, 3))
    assert [row.params for row in twice] == [84, 0]
    assert [row.receptive_field for row in twice] == [(3, 3), (5, 5)]


class Residual(nnx.Module):
    """Two 3x3 convolutions beside a 1x1 one, all with stride: the sum sees what the longer way sees."""

    def __init__(self) -> None:
        self.first = layers.Conv(4, 8, (3, 3), stride=2, padding=1, use_bias=False, rngs=rngs())
        self.norm = nnx.BatchNorm(8, rngs=rngs())
        self.second = nnx.Conv(8, 8, (3, 3), rngs=rngs())
        self.shortcut = layers.Conv(4, 8, (1, 1), stride=2, rngs=rngs())
        self.pool = layers.GlobalAvgPool()
        self.drop = nnx.Dropout(0.5, rngs=rngs())
        self.scale = nnx.Param(jnp.ones(8))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.second(jax.nn.relu(self.norm(self.first(x))))
        return self.drop(self.pool(self.shortcut(x) + y) * self.scale[...][None])


def test_branches_norms_flax_layers_and_lone_parameters() -> None:
    model = Residual()
    table = describe(model, (9, 9, 4))
    assert [(row.layer.split()[0], row.params, row.connections, row.macs, row.receptive_field) for row in table] == [
        ("first", 288, 288 * 25, 288 * 25, (3, 3)),
        ("norm", 16, 2 * 200, 200, (3, 3)),
        ("second", 584, 584 * 25, 576 * 25, (7, 7)),
        ("shortcut", 40, 40 * 25, 32 * 25, (1, 1)),
        ("pool", 0, 0, 0, (15, 15)),  # 7 + 4 steps of 2
        ("drop", 0, 0, 0, (15, 15)),
        ("Residual", 8, 0, 0, ()),
    ]
    assert model.norm.use_running_average is not True  # left as it was


def test_every_kind_of_window() -> None:
    model = nnx.Sequential(
        layers.DepthwiseConv(2, (3,), multiplier=2, dilation=2, rngs=rngs()),  # 20 -> 16, sees 5
        layers.SeparableConv(4, 6, (3,), stride=2, padding=1, rngs=rngs()),  #    -> 8, sees 7, steps of 2
        layers.LpPool((2,), stride=1),  #                                         -> 7, sees 9
        layers.ConvTranspose(6, 2, (4,), stride=2, rngs=rngs()),  #               -> 16, two inputs each: sees 11
        layers.LocalConv((16,), 2, 3, (2,), rngs=rngs()),  #                      -> 15, three inputs: sees 13
        layers.AdaptiveMaxPool((5,)),  #                                          -> 5, windows of 3: sees 15
    )
    table = describe(model, (20, 2))
    assert [(row.output, row.params, row.macs, row.receptive_field) for row in table] == [
        ((16, 4), 16, 16 * 12, (5,)),
        ((8, 4), 12, 8 * 12, (7,)),
        ((8, 6), 30, 8 * 24, (7,)),
        ((7, 6), 0, 0, (9,)),
        ((16, 2), 50, 7 * 48, (11,)),
        ((15, 3), 15 * 15, 15 * 12, (13,)),
        ((5, 3), 0, 0, (15,)),
    ]


def test_what_is_no_layer_leaves_the_field_unknown() -> None:
    model = nnx.Sequential(
        lambda x: jax.image.resize(x, (1, 4, 4, 1), "bilinear"), layers.Conv(1, 1, (3, 3), rngs=rngs())
    )
    table = describe(model, (8, 8, 1))
    assert table[0].receptive_field is None
    assert "?" in str(table)


def test_random_layers_are_traced_as_in_evaluation_and_left_alone() -> None:
    model = nnx.Sequential(
        layers.StochasticPool(2, rngs=rngs()), layers.FractionalMaxPool(2, output_size=3, rngs=rngs())
    )
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.RngCount)))
    table = describe(model, (8, 8, 1))
    assert [row.receptive_field for row in table] == [(2, 2), (4, 4)]
    assert model.layers[0].deterministic is False
    assert jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.RngCount))) == before


def test_activations_are_the_outputs_by_hand() -> None:
    model = models.build({"model": {"name": "lenet5"}})
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 1)), jnp.float32)
    conv1 = ops.conv(x, model.conv1.kernel[...], model.conv1.bias[...])
    pool1 = ops.max_pool(conv1, 2)
    conv2 = ops.conv(jax.nn.relu(pool1), model.conv2.kernel[...], model.conv2.bias[...])
    pool2 = ops.max_pool(conv2, 2)
    dense = [jax.nn.relu(pool2).reshape(2, 400)]
    for layer in (model.dense1, model.dense2, model.dense3):
        dense.append(jax.nn.relu(dense[-1]) @ layer.kernel[...] + layer.bias[...][None])
    seen = activations(model, x)
    assert [one.name for one in seen] == [row.layer for row in describe(model, x.shape)]
    for one, by_hand in zip(seen, [conv1, pool1, conv2, pool2, *dense[1:]], strict=True):
        np.testing.assert_allclose(one.output, by_hand, rtol=1e-5, atol=1e-5, err_msg=one.name)
    np.testing.assert_array_equal(seen[0].layer.kernel[...], model.conv1.kernel[...])


def test_activations_are_those_of_evaluation_and_leave_the_model_alone() -> None:
    model = Residual()
    model.train()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 9, 9, 4)), jnp.float32)
    seen = activations(model, x)
    assert [one.name.split()[0] for one in seen] == ["first", "norm", "second", "shortcut", "pool", "drop"]
    np.testing.assert_array_equal(seen[4].output * model.scale[...][None], seen[5].output)  # nothing is dropped
    np.testing.assert_allclose(seen[1].output, seen[0].output / np.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_array_equal(model.norm.mean[...], 0)
    assert model.norm.use_running_average is False and model.drop.deterministic is False
    assert len(activations(model, x)) == 6, "the interception of the first call is gone"


def test_sights_of_lenet5() -> None:
    assert [(region.name, region.unit, region.pixels) for region in receptive_regions(LeNet1998(), (32, 32, 1))] == [
        ("c1 (Conv)", (14, 14), ((14, 19),) * 2),  # 5
        ("s2 (Subsample)", (7, 7), ((14, 20),) * 2),  # 6
        ("c3 (ConnectedConv)", (5, 5), ((10, 24),) * 2),  # 14
        ("s4 (Subsample)", (2, 2), ((8, 24),) * 2),  # 16
        ("c5 (Conv)", (0, 0), ((0, 32),) * 2),  # 32
    ]


def test_behind_an_upsampling() -> None:
    repeated = nnx.Sequential(lambda x: jnp.repeat(x, 2, axis=1), layers.Conv(1, 1, (1,), rngs=rngs()))
    (region,) = receptive_regions(repeated, (48, 1))
    assert (region.unit, region.pixels) == ((48,), ((24, 25),))


def test_a_net_that_asserts_its_rank_takes_a_batch() -> None:
    class Strict(nnx.Module):
        def __init__(self) -> None:
            self.conv = layers.Conv(1, 2, (3, 3), rngs=rngs())

        def __call__(self, x: jax.Array) -> jax.Array:
            assert x.ndim == 4
            return self.conv(x)

    assert describe(Strict(), (8, 12, 12, 1)).total.params == describe(Strict(), (12, 12, 1)).total.params == 20


@pytest.mark.parametrize("mode", ["CIRCULAR", "REFLECT"])
@pytest.mark.parametrize(("size", "dilation", "stride"), [(3, 1, 2), (4, 1, 1), (3, 2, 3), (5, 1, 2)])
def test_what_flax_pads_by_itself(mode: str, size: int, dilation: int, stride: int) -> None:
    """The pixels in the middle that a unit sees, by its gradient."""
    layer = nnx.Conv(1, 1, (size,), strides=stride, kernel_dilation=dilation, padding=mode, rngs=rngs())
    layer.kernel[...] = jnp.ones_like(layer.kernel[...])
    (region,) = receptive_regions(layer, (28, 1))
    gradient = jax.grad(lambda x: layer(x)[0, region.unit[0], 0])(jnp.ones((1, 28, 1)))
    seen = np.flatnonzero(gradient[0, :, 0])
    assert region.pixels == ((seen[0], seen[-1] + 1),)


def conv(window: tuple[int, int], **keywords) -> layers.Conv:
    return layers.Conv(1, 1, window, rngs=rngs(), **keywords)


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [conv((3, 5), stride=2, padding=((1, 1), (0, 3))), layers.AvgPool(3, padding=1)],
        lambda: [
            nnx.Conv(1, 1, (3, 3), strides=2, rngs=rngs()),
            nnx.Conv(1, 1, (4, 3), kernel_dilation=2, rngs=rngs()),
        ],
        lambda: [layers.LpPool(2, p=1.0), conv((3, 3), padding="SAME_LOWER", stride=2)],
        lambda: [layers.ConvTranspose(1, 1, (4, 4), stride=2, padding=1, rngs=rngs()), conv((3, 3), padding=1)],
        lambda: [conv((3, 3), padding=1), layers.AdaptiveAvgPool((6, 3))],
    ],
    ids=["pads", "flax", "same_lower", "transpose", "adaptive"],
)
def test_sights_are_where_the_gradient_is(stack) -> None:
    """With positive weights the centre unit's gradient is positive where it looks, and 0 elsewhere."""
    model = nnx.Sequential(*stack())
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            layer.kernel[...] = jax.device_put(np.ones(layer.kernel.shape, np.float32))
    x = np.ones((1, 18, 24, 1), np.float32)
    *_, region = receptive_regions(model, x.shape[1:])
    gradient = np.asarray(jax.jit(jax.grad(lambda x: model(x)[(0, *region.unit, 0)]))(x))[0, :, :, 0]
    for axis, (first, past) in enumerate(region.pixels):
        seen = np.flatnonzero(gradient.any(1 - axis))
        assert (seen[0], seen[-1] + 1) == (max(first, 0), min(past, gradient.shape[axis]))


def test_errors() -> None:
    model = layers.Conv(1, 6, (5, 5), rngs=rngs())
    with pytest.raises(ValueError, match=r"input_shape must be one that the model takes, got \(32, 32, 3\): x's chann"):
        describe(model, (32, 32, 3))
    with pytest.raises(TypeError, match=r"model must be an nnx\.Module, got function"):
        describe(lambda x: x, (32, 32, 3))  # type: ignore[arg-type]
    for shape, error, sentence in (
        ((), ValueError, "input_shape must have at least one dimension"),
        (3, TypeError, "input_shape must be a sequence of ints"),
    ):
        with pytest.raises(error, match=sentence):
            describe(model, shape)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="input_shape must be made of ints"):
        describe(model, (32.0, 32, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model must be an nnx\.Module, got function"):
        activations(lambda x: x, jnp.ones((1, 4)))  # type: ignore[arg-type]
    unknown = nnx.Sequential(lambda x: jax.image.resize(x, (1, 16, 16, 1), "bilinear"), model)
    assert receptive_regions(unknown, (32, 32, 1)) == [], "no telling where behind an interpolation"


def test_holes_in_the_input() -> None:
    """Of 5 pixels with a zero between neighbours, a window of 3 sees 2, and the next one is half a pixel on."""
    model = nnx.Sequential(
        layers.Conv(1, 1, (3,), input_dilation=2, padding=1, rngs=rngs()), layers.MaxPool((3,), stride=1)
    )
    assert [(row.output, row.receptive_field) for row in describe(model, (5, 1))] == [((9, 1), (2,)), ((7, 1), (3,))]


def test_a_batch_of_a_flax_net() -> None:
    model = nnx.Sequential(nnx.Conv(1, 2, (3, 3), rngs=rngs()), layers.MaxPool(2))
    assert describe(model, (8, 8, 1)) == describe(model, (5, 8, 8, 1))
