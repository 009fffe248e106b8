"""AlexNet against the published counts and shapes, and its one-tower form against the same net in PyTorch."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, ops
from cnnjax.errors import UserError
from cnnjax.models.alexnet import SMALLEST, last_side
from tests import nets

SMALL = {"name": "alexnet", "width": 48, "dense": 64, "size": 127}  # 3x3 places before the dense layers


@functools.cache
def drawn(form: str) -> nnx.Module:
    return nets.filled(lambda: models.build({"model": {**SMALL, "form": form}, "dtype": None}))


def build(form: str) -> nnx.Module:
    """A small net of the test's own."""
    return nnx.clone(drawn(form))


IMAGENET = {"name": "alexnet", "num_classes": 1000}


@pytest.mark.parametrize("size", [224, 227])
def test_parameters_as_published(size: int) -> None:
    counts = [
        nets.count(nets.shapes(**IMAGENET, form=form, size=size)) for form in ("towers", "ungrouped", "one-tower")
    ]
    assert counts == [60_965_224, 62_378_344, 61_100_840]


def test_shapes_as_published() -> None:
    """As in the paper's figure 2: 55, 27 and 13 pixels a side."""
    rows = nets.rows((224, 224, 3), **IMAGENET)
    outputs = {row.layer.split()[0]: row.output for row in rows if "conv" in row.layer or "dense" in row.layer}
    assert outputs["conv1"] == (55, 55, 96) and outputs["conv2"] == (27, 27, 256)
    assert outputs["conv3"] == outputs["conv4"] == (13, 13, 384) and outputs["conv5"] == (13, 13, 256)
    assert [row.output for row in rows if "pool" in row.layer] == [(27, 27, 96), (13, 13, 256), (6, 6, 256)]
    assert [row.layer for row in rows if "Norm" in row.layer] == ["norm (LocalResponseNorm)"] * 2
    kernels = nnx.state(nets.shapes(**IMAGENET), nnx.Param)
    assert kernels["conv1"]["kernel"].shape == (11, 11, 3, 96)
    assert kernels["conv2"]["kernel"].shape == (5, 5, 48, 256) and kernels["conv3"]["kernel"].shape == (3, 3, 256, 384)
    assert not any("Norm" in row.layer for row in nets.rows((224, 224, 3), **IMAGENET, form="one-tower"))


def test_the_smallest_image() -> None:
    assert last_side(SMALLEST) == 1 and last_side(SMALLEST - 1) == 0
    x = jax.ShapeDtypeStruct((2, SMALLEST, SMALLEST, 3), "float32")

    def logits(x: jax.Array) -> jax.Array:
        return models.build({"model": {**SMALL, "size": SMALLEST}})(x)

    assert jax.eval_shape(logits, x).shape == (2, 10)


@pytest.mark.slow
def test_initial_weights_as_published() -> None:
    model = models.build({"model": {**SMALL, "form": "towers"}, "dtype": None})
    deviations = {name: float(getattr(model, name).kernel[...].std()) for name in ("conv1", "conv3", "dense2")}
    # half the maps below: twice the variance; a 64th of the units: 64 times
    expected = {"conv1": 0.01, "conv3": 0.01 * np.sqrt(2), "dense2": 0.08}
    assert deviations == pytest.approx(expected, rel=0.05)
    names = ("conv1", "conv2", "conv3", "conv4", "conv5", "dense1", "dense2", "dense3")
    biases = {name: set(np.asarray(getattr(model, name).bias[...])) for name in names}
    ones = ("conv2", "conv4", "conv5", "dense1", "dense2")
    assert biases == {name: {float(name in ones)} for name in names}
    model = models.build({"model": {**SMALL, "form": "one-tower"}, "dtype": None})
    bound = 1 / np.sqrt(9 * 144)
    assert 0.99 * bound < np.abs(model.conv3.kernel[...]).max() <= bound
    assert 0.9 * bound < np.abs(model.conv3.bias[...]).max() <= bound


@pytest.mark.parametrize(("form", "lost"), [("towers", True), ("one-tower", False)])
def test_dropout_is_where_each_form_has_it(form: str, lost: bool) -> None:
    """In training half of the units of dense2 are lost to dense3; of one tower none."""
    model = build(form)
    model.train()
    model.dense2.kernel[...] = jnp.zeros((64, 64))
    model.dense2.bias[...] = jnp.ones(64)
    model.dense3.kernel[...] = jnp.ones((64, 10)) / 64  # the logits are the mean of what reaches it: 1, or 0 and 2
    model.dense3.bias[...] = jnp.zeros(10)
    x = np.ones((2, 127, 127, 3), np.float32)
    logits = np.asarray(nnx.jit(lambda model, x: model(x))(model, x))[:, 0]
    if lost:
        assert logits[0] != logits[1] and np.all(np.abs(logits - 1) < 0.6)
    else:
        assert np.all(logits == 1)
    model.eval()
    np.testing.assert_allclose(nnx.jit(lambda model, x: model(x))(model, x), 1, rtol=1e-6)


def test_each_tower_sees_its_own_half() -> None:
    layer = build("towers").conv2
    layer.bias[...] = jnp.arange(128.0)
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 48))
    halves = zip(*(jnp.split(a, 2, -1) for a in (x, layer.kernel[...])), strict=True)
    expected = jnp.concatenate([ops.conv(*half, padding=2, algorithm="lax") for half in halves], -1)
    np.testing.assert_allclose(layer(x), np.asarray(expected) + np.asarray(layer.bias[...]), rtol=1e-4, atol=1e-4)


def test_the_one_tower_form_is_its_layers_in_pytorch() -> None:
    torch = pytest.importorskip("torch")
    model = build("one-tower")
    model.eval()
    x = np.random.default_rng(0).normal(size=(2, 127, 127, 3)).astype(np.float32)
    y = torch.tensor(x).permute(0, 3, 1, 2)
    nn = torch.nn
    convs = [nn.Conv2d(3, 48, 11, 4, 2), nn.Conv2d(48, 144, 5, padding=2), nn.Conv2d(144, 288, 3, padding=1),
             nn.Conv2d(288, 192, 3, padding=1), nn.Conv2d(192, 192, 3, padding=1)]  # fmt: skip
    dense = [nn.Linear(9 * 192, 64), nn.Linear(64, 64), nn.Linear(64, 10)]

    def pool() -> object:
        return nn.MaxPool2d(3, 2)

    with torch.no_grad():
        for number, layer in enumerate(convs, 1):
            ours = getattr(model, f"conv{number}")
            layer.weight.copy_(torch.tensor(np.asarray(ours.kernel[...]).transpose(3, 2, 0, 1).copy()))
            layer.bias.copy_(torch.tensor(np.asarray(ours.bias[...])))
        for number, layer in enumerate(dense, 1):
            ours = getattr(model, f"dense{number}")
            kernel = np.asarray(ours.kernel[...])
            if number == 1:  # ours flattens rows, columns, channels, PyTorch channels, rows, columns
                kernel = kernel.reshape(3, 3, 192, 64).transpose(2, 0, 1, 3).reshape(9 * 192, 64)
            layer.weight.copy_(torch.tensor(kernel.T.copy()))
            layer.bias.copy_(torch.tensor(np.asarray(ours.bias[...])))
        theirs = nn.Sequential(  # torchvision.models.AlexNet
            convs[0], nn.ReLU(), pool(), convs[1], nn.ReLU(), pool(), convs[2], nn.ReLU(), convs[3], nn.ReLU(),
            convs[4], nn.ReLU(), pool(), nn.Flatten(), nn.Dropout(), dense[0], nn.ReLU(), nn.Dropout(), dense[1],
            nn.ReLU(), dense[2],
        ).eval()  # fmt: skip
        expected = theirs(y).numpy()
    np.testing.assert_allclose(model(jnp.asarray(x)), expected, rtol=1e-4, atol=1e-5)


def test_bad_options_are_named() -> None:
    for options, message in [
        ({"form": "two"}, "form must be one of towers, ungrouped, one-tower, was 'two'"),
        ({"size": 62}, "size must be at least 63, was 62"),
        ({"width": 9}, "width must be a multiple of 6 where form is 'towers', was 9"),
        ({"width": 8, "form": "ungrouped"}, "width must be a multiple of 3 where form is 'ungrouped', was 8"),
    ]:
        with pytest.raises(UserError, match=message):
            models.build({"model": {**SMALL, **options}})
    with pytest.raises(ValueError, match=r"x must be \(N, 127, 127, channels\), was \(2, 64, 64, 3\)"):
        build("towers")(jnp.ones((2, 64, 64, 3)))
