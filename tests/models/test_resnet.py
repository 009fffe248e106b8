"""ResNets against the published counts and shapes; their logits are PyTorch's in tests/interop/test_weights.py."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError
from tests import nets


@pytest.mark.parametrize(
    ("depth", "params", "macs"),
    [
        (18, 11_689_512, 1_814_073_344),
        (34, 21_797_672, 3_663_761_408),
        (50, 25_557_032, 4_089_184_256),
        pytest.param(101, 44_549_160, 7_801_405_440, marks=pytest.mark.slow),
    ],
)
def test_parameters_and_work_are_as_torchvision_has_them(depth: int, params: int, macs: int) -> None:
    torchvision = {"name": f"resnet{depth}", "stem": "imagenet", "num_classes": 1000}
    assert nets.count(nets.shapes(**torchvision)) == params
    table = nets.rows((224, 224, 3), **torchvision)
    assert sum(row.macs for row in table if "Conv" in row.layer or "Linear" in row.layer) == macs  # 4.09 G of 50
    assert sum("conv" in row.layer and "shortcut" not in row.layer for row in table) + 1 == depth
    outputs = [row.output for row in table]
    assert outputs[0] == (112, 112, 64) and outputs[2] == (56, 56, 64)
    widening = 1 if depth < 50 else 4
    assert {(56, 56, 64), (28, 28, 128), (14, 14, 256), (7, 7, 512)} < set(outputs)
    assert outputs[-3:] == [(7, 7, 512 * widening), (512 * widening,), (1000,)]


def test_resnet18_starts_for_small_images_and_the_others_for_large_ones() -> None:
    assert nets.count(nets.shapes(name="resnet18")) == 11_173_962  # as every CIFAR ResNet-18
    assert nets.rows((32, 32, 3), name="resnet18")[0].output == (32, 32, 64)
    assert nets.rows((32, 32, 3), name="resnet34")[0].output == (16, 16, 64)
    assert nets.rows((32, 32, 3), name="resnet34", stem="cifar")[-2].output == (512,)


def test_the_stride_of_a_bottleneck_is_on_its_3x3() -> None:
    table = {row.layer.split(" ")[0]: row.output for row in nets.rows((224, 224, 3), name="resnet50")}
    assert table["blocks.3.first.conv"] == (56, 56, 128) and table["blocks.3.second.conv"] == (28, 28, 128)


@pytest.mark.thorough
def test_blocks_that_start_at_zero_start_as_the_identity() -> None:
    zero = models.build({"model": {"name": "resnet50", "width": 2, "zero_init_residual": True}})
    block = zero.blocks[1]
    np.testing.assert_array_equal(block.third.norm.scale[...], np.zeros(8))
    np.testing.assert_array_equal(block.second.norm.scale[...], np.ones(2))
    x = jax.random.uniform(jax.random.key(0), (2, 4, 4, 8), jnp.float32)
    np.testing.assert_array_equal(jax.jit(lambda block, x: block(x))(block, x), x)


@pytest.mark.thorough
def test_blocks_start_as_torchvisions_do_by_default() -> None:
    plain = models.build({"model": {"name": "resnet18", "width": 2}})
    assert all((block.last.norm.scale[...] == 1).all() for block in plain.blocks)


def test_bad_options_are_named() -> None:
    for options, message in [
        ({"name": "resnet18", "stem": "vgg"}, "stem must be one of cifar, imagenet, was 'vgg'"),
        ({"name": "resnet50", "width": 0}, "width must be at least 1, was 0"),
        ({"name": "resnet20"}, "no model 'resnet20'"),
    ]:
        with pytest.raises(UserError, match=message):
            nets.shapes(**options)


def test_a_net_of_another_width_keeps_its_kind() -> None:
    net = nets.shapes(name="resnet34", width=8)
    assert isinstance(net, models.ResNet) and isinstance(net, nnx.Module) and net.dense.in_features == 64
