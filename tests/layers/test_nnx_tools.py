"""flax's own tools work on our layers, and options may be NumPy's."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import layers, models

X = jax.random.normal(jax.random.key(1), (2, 8, 8, 4))
TABLE = np.arange(24).reshape(4, 6) % 5 < 3


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


KINDS: dict[str, Callable[[], nnx.Module]] = {
    "Conv": lambda: layers.Conv(4, 6, (3, 3), padding=[(1, 1), (0, 2)], rngs=rngs()),
    "TrueConv": lambda: layers.TrueConv(4, 6, (3, 3), rngs=rngs()),
    "ConvTranspose": lambda: layers.ConvTranspose(4, 6, (3, 3), stride=[2, 2], rngs=rngs()),
    "DepthwiseConv": lambda: layers.DepthwiseConv(4, (3, 3), rngs=rngs()),
    "SeparableConv": lambda: layers.SeparableConv(4, 6, (3, 3), rngs=rngs()),
    "LocalConv": lambda: layers.LocalConv((8, 8), 4, 3, (3, 3), rngs=rngs()),
    "ConnectedConv": lambda: layers.ConnectedConv(TABLE, (3, 3), rngs=rngs()),
    "Subsample": lambda: layers.Subsample(4, (2, 2), rngs=rngs()),
    "BatchNorm": lambda: layers.BatchNorm(4, rngs=rngs()),
    "BatchNormMaxPool": lambda: layers.BatchNormMaxPool(4, [2, 2], rngs=rngs()),
    "MaxPool": lambda: layers.MaxPool([2, 2]),
    "MinPool": lambda: layers.MinPool(2),
    "AvgPool": lambda: layers.AvgPool(2),
    "LpPool": lambda: layers.LpPool(2),
    "Pool": lambda: layers.Pool(2, jnp.median),
    "AdaptiveAvgPool": lambda: layers.AdaptiveAvgPool([3, 2]),
    "AdaptiveMaxPool": lambda: layers.AdaptiveMaxPool(3),
    "GlobalAvgPool": lambda: layers.GlobalAvgPool(),
    "GlobalMaxPool": lambda: layers.GlobalMaxPool(),
    "LocalResponseNorm": lambda: layers.LocalResponseNorm(),
    "PReLU": lambda: layers.PReLU(4),
    "Swish": lambda: layers.Swish(),
    "ScaledSigmoid": lambda: layers.ScaledSigmoid(4),
    "Pad": lambda: layers.Pad([(1, 0), 2]),
    "Unfold": lambda: layers.Unfold(2),
    "Fold": lambda: layers.Fold([9, 9], 2),
    "PixelShuffle": lambda: layers.PixelShuffle(2),
    "PixelUnshuffle": lambda: layers.PixelUnshuffle([2, 2]),
    "ChannelShuffle": lambda: layers.ChannelShuffle(2),
    "FractionalMaxPool": lambda: layers.FractionalMaxPool(2, output_size=[5, 5], rngs=rngs()),
    "StochasticPool": lambda: layers.StochasticPool([2, 2], rngs=rngs()),
}
OTHER_INPUTS: dict[str, tuple[Callable[[], nnx.Module], tuple[jax.Array, ...]]] = {
    "DeformConv": (lambda: layers.DeformConv(4, 6, (3, 3), padding=1, rngs=rngs()), (X, jnp.zeros((2, 8, 8, 18)))),
    "RBF": (lambda: layers.RBF([[1.0, -1.0, 1.0]]), (jnp.ones((2, 3)),)),
    "Embedding": (lambda: layers.Embedding(5, 3, rngs=rngs()), (jnp.ones((2, 4), jnp.int32),)),
}
ALL = {name: (make, (jnp.abs(X),)) for name, make in KINDS.items()} | OTHER_INPUTS
NO_LAYERS = {"Buffer", "Functional", "KernelLayer", "Layer", "WindowGeometry", "split_batch_norm"}


def test_no_layer_is_forgotten_here() -> None:
    assert set(ALL) == set(layers.__all__) - NO_LAYERS


@pytest.mark.parametrize("name", ALL)
def test_tabulate_and_hash(name: str) -> None:
    make, inputs = ALL[name]
    methods = dict(vars(getattr(layers, name)))
    assert name in nnx.tabulate(make(), *inputs, console_kwargs={"width": 300})
    now = vars(getattr(layers, name))
    assert all(now[key] is value for key, value in methods.items() if callable(value)), "the class is left as it was"
    first, second = nnx.graphdef(make()), nnx.graphdef(make())
    assert first == second and hash(first) == hash(second)


def test_other_options_make_another_graph_definition() -> None:
    def graph(**keywords: object) -> object:
        return nnx.graphdef(layers.MaxPool(2, **keywords))

    assert graph() != graph(stride=1) != graph(stride=2)


def test_tabulate_of_a_model() -> None:
    model = models.build({"model": {"name": "lenet5"}})
    printed = nnx.tabulate(model, jnp.ones((1, 32, 32, 1)), console_kwargs={"width": 300})
    assert all(name in printed for name in ("conv1", "MaxPool", "dense3", "61,706"))
    assert model(jnp.ones((1, 32, 32, 1))).shape == (1, 10), "the classes still work"
    again = models.build({"model": {"name": "lenet5"}})
    assert hash(nnx.graphdef(model)) == hash(nnx.graphdef(again))


def test_options_of_numpy_mean_the_same() -> None:
    one, two = np.int64(1), np.int64(2)
    first = layers.Conv(4, 6, (3, 3), padding=1, stride=2, groups=2, rngs=rngs())
    second = layers.Conv(4, 6, np.array([3, 3]), padding=np.array([1, 1]), stride=two, groups=two, rngs=rngs())
    np.testing.assert_array_equal(first(X), second(X))
    np.testing.assert_array_equal(layers.MaxPool(2, padding=1)(X), layers.MaxPool(np.array([2, 2]), padding=one)(X))
    shapes = [np.array(pair) for pair in ((1, 1), (1, 1))]
    np.testing.assert_array_equal(layers.AvgPool(2, padding=1)(X), layers.AvgPool((2, two), padding=shapes)(X))
    local = layers.LocalConv(np.array([8, 8]), 4, 3, np.array([3, 3]), rngs=rngs())
    assert local(X).shape == (2, 6, 6, 3) and hash(nnx.graphdef(local))
    transposed = layers.ConvTranspose(4, 6, np.array([2, 2]), stride=np.array([2, 2]), groups=two, rngs=rngs())
    assert transposed(X).shape == (2, 16, 16, 6)
    with pytest.raises(ValueError, match="groups must be an int that divides the 4 channels, got True"):
        layers.Conv(4, 6, (3, 3), groups=True, rngs=rngs())


def test_parameters_are_float32_under_x64() -> None:
    nets: dict[str, Callable[[], nnx.Module]] = {
        "lenet5-1998": lambda: models.build({"model": {"name": "lenet5-1998"}}),
        "textcnn": lambda: models.TextCNN(vocabulary=5, width=4, form="multichannel", rngs=rngs()),
        "alexnet": lambda: models.AlexNet(form="one-tower", width=8, dense=8, size=63, rngs=rngs()),
        "linked": lambda: models.AlexNet(width=6, dense=8, size=63, rngs=rngs()),
        "vgg": lambda: models.VGG(depth=11, width=2, dense=4, size=32, batch_norm=True, rngs=rngs()),
        "cifar_cnn": lambda: models.CifarCNN(widths=(2,), dense=4, rngs=rngs()),
    }
    with jax.enable_x64(True):
        for name, make in {**{name: make for name, (make, _) in ALL.items()}, **nets}.items():
            shapes = nnx.eval_shape(make)
            dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(shapes, nnx.Param, layers.Buffer))}
            assert dtypes <= {"float32", "bool"}, name
