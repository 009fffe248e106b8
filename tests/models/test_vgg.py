"""VGG against the published counts and shapes, and against the same net in PyTorch."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError
from tests import nets
from tests.cases import array

SMALL = {"name": "vgg", "width": 16, "dense": 8, "size": 64}  # 2x2 places before the dense layers


def build(**options: object) -> nnx.Module:
    return models.build({"model": {**SMALL, **options}, "dtype": None})


IMAGENET = {"name": "vgg", "num_classes": 1000}


@pytest.mark.parametrize(
    ("depth", "plain", "normed"),
    [
        (11, 132_863_336, 132_868_840),
        (13, 133_047_848, 133_053_736),
        (16, 138_357_544, 138_365_992),
        (19, 143_667_240, 143_678_248),
    ],
)
def test_parameters_as_torchvision_has_them(depth: int, plain: int, normed: int) -> None:
    assert nets.count(nets.shapes(**IMAGENET, depth=depth)) == plain
    assert nets.count(nets.shapes(**IMAGENET, depth=depth, batch_norm=True)) == normed


def test_the_quarter_width_net_of_d2l() -> None:
    """Section 8.2 there: of 224x224 gray images the stages give 112, 56, 28, 14, 7 pixels of 16 to 128 maps."""
    options = {"name": "vgg", "depth": 11, "width": 16, "channels": 1, "num_classes": 10}
    assert [row.output for row in nets.rows((224, 224, 1), **options) if "pool" in row.layer] == [
        (112, 112, 16), (56, 56, 32), (28, 28, 64), (14, 14, 128), (7, 7, 128)
    ]  # fmt: skip
    convs = 9 * (16 + 16 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 3 * 128 * 128) + 16 + 32 + 2 * 64 + 4 * 128
    dense = 7 * 7 * 128 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 10 + 10
    assert nets.count(nets.shapes(**options)) == convs + dense


@pytest.mark.thorough
@pytest.mark.parametrize(("depth", "batch_norm"), [(11, True), pytest.param(16, False, marks=pytest.mark.slow)])
def test_vgg_is_its_layers_in_pytorch(depth: int, batch_norm: bool) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    model = build(depth=depth, batch_norm=batch_norm)
    kernel = np.asarray(model.convs[-1].kernel[...])  # Xavier-uniform, from 128 maps to 128
    bound = np.sqrt(6 / (9 * 128 + 9 * 128))
    assert 0.99 * bound < np.abs(kernel).max() <= bound and kernel.var() == pytest.approx(bound**2 / 3, rel=0.05)
    assert not any(layer.bias[...].any() for layer in (*model.convs, model.dense1, model.dense3))
    draw = np.random.default_rng(0)
    for norm in model.norms:
        norm.mean[...] = array(draw.normal(size=norm.mean.shape) * 0.1)
        norm.var[...] = array(draw.uniform(0.5, 2, norm.var.shape))
    model.eval()
    letters = {11: "1M2M44M88M88M", 16: "11M22M444M888M888M"}[depth]  # torchvision's table, in maps of the first
    layers, below, number = [], 3, 0

    def tensor(value: nnx.Variable) -> object:
        return torch.tensor(np.asarray(value[...]))

    with torch.no_grad():
        for letter in letters:
            if letter == "M":
                layers.append(nn.MaxPool2d(2, 2))
                continue
            layer = nn.Conv2d(below, 16 * int(letter), 3, padding=1)
            below = layer.out_channels
            layer.weight.copy_(tensor(model.convs[number].kernel).permute(3, 2, 0, 1))
            layer.bias.copy_(tensor(model.convs[number].bias))
            layers.append(layer)
            if batch_norm:
                norm, ours = nn.BatchNorm2d(below), model.norms[number]
                names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
                for name, own in names.items():
                    getattr(norm, name).copy_(tensor(getattr(ours, own)))
                layers.append(norm)
            layers.append(nn.ReLU())
            number += 1
        layers.append(nn.Flatten())
        for name, inputs in (("dense1", 4 * 128), ("dense2", 8), ("dense3", 8)):
            ours = getattr(model, name)
            layer, kernel = nn.Linear(inputs, ours.kernel.shape[1]), tensor(ours.kernel)
            if name == "dense1":  # ours flattens rows, columns, channels, PyTorch channels, rows, columns
                kernel = kernel.reshape(2, 2, 128, 8).permute(2, 0, 1, 3).reshape(512, 8)
            layer.weight.copy_(kernel.T)
            layer.bias.copy_(tensor(ours.bias))
            layers += [layer, nn.ReLU(), nn.Dropout()] if name != "dense3" else [layer]
        x = draw.normal(size=(2, 64, 64, 3)).astype(np.float32)
        expected = nn.Sequential(*layers).eval()(torch.tensor(x).permute(0, 3, 1, 2)).numpy()
    assert number == len(model.convs) and expected.std() > 0
    np.testing.assert_allclose(nnx.jit(lambda model, x: model(x))(model, x), expected, rtol=1e-3, atol=1e-5)


def test_bad_options_are_named() -> None:
    for options, message in [
        ({"depth": 12}, "depth must be one of 11, 13, 16, 19, was 12"),
        ({"size": 31}, "size must be at least 32, was 31"),
        ({"width": 0}, "width must be at least 1, was 0"),
    ]:
        with pytest.raises(UserError, match=message):
            build(**options)
    with pytest.raises(ValueError, match=r"x must be \(N, 224, 224, channels\), was \(2, 64, 64, 3\)"):
        nets.shapes(**IMAGENET)(jnp.ones((2, 64, 64, 3)))
