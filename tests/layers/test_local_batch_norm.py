"""Batch norm by the statistics of each device's share: on four devices what four parts are on one."""

from __future__ import annotations

import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import layers
from tests import nets, processes


class Net(nnx.Module):
    """Both layers, one after the other."""

    def __init__(self, *, rngs: nnx.Rngs, norm: Callable[..., nnx.Module] = layers.BatchNorm):
        self.conv = layers.Conv(1, 8, (3, 3), padding=1, use_bias=False, rngs=rngs)
        self.first, self.second = norm(8, rngs=rngs), layers.BatchNormMaxPool(8, 2, rngs=rngs)
        self.dense = nnx.Linear(2 * 2 * 8, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.second(jax.nn.relu(self.first(self.conv(x))))
        return self.dense(x.reshape(len(x), -1))


#: Trains with so many parts (argument) and prints the losses, the statistics, and the collectives of both passes.
RUN = """
import json, re, sys
import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from cnnjax import layers, ops, train
from tests.layers.test_local_batch_norm import Net
from tests.train import tiny
net = Net(rngs=nnx.Rngs(0))
layers.split_batch_norm(net, int(sys.argv[1]))
data = tiny.examples(64, 1)
result = train.fit(net, {"train": data, "test": tiny.examples(10, 2)}, None, prepare=tiny.scaled, epochs=5,
                   batch_size=16, learning_rate=0.05, log_every=1)
losses = [r["train_loss"] for r in result.records if "train_loss" in r]
statistics = [np.asarray(one[...]).tolist() for one in (result.model.first.mean, result.model.second.var)]
mesh = jax.make_mesh((jax.device_count(),), ("batch",), axis_types=(AxisType.Auto,))
x = jax.device_put(np.random.default_rng(0).normal(size=(16, 4, 4, 8)).astype("float32"),
                   NamedSharding(mesh, PartitionSpec("batch")))
def both(x, dy):
    ones = np.ones(8, "float32")
    y, vjp = jax.vjp(lambda x: ops.batch_norm(x, ones, ones, parts=int(sys.argv[1]))[0], x)
    return y, vjp(dy)
text = jax.jit(both).lower(x, x).compile().as_text()
names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
print(json.dumps([losses, statistics, sorted(set(re.findall(rf"\\b({names})(?:-start)?[(]", text)))]))
"""


def trained(parts: int, devices: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    losses, statistics, collectives = json.loads(processes.program(RUN, parts, devices=devices).splitlines()[-1])
    assert len(losses) == 20
    return np.array(losses), np.array(statistics), collectives


@pytest.mark.thorough
def test_shares_of_four_devices_are_four_parts_on_one() -> None:
    (one, one_stats, _), (four, four_stats, collectives) = trained(4, 1), trained(4, 4)
    np.testing.assert_allclose(four, one, atol=1e-5)
    np.testing.assert_allclose(four_stats, one_stats, rtol=1e-4)
    assert collectives == [], "each device normalises its own images, forward and backward"


@pytest.mark.thorough
def test_the_whole_batch_on_four_devices_is_that_of_one() -> None:
    (one, one_stats, _), (four, four_stats, collectives) = trained(1, 1), trained(1, 4)
    np.testing.assert_allclose(four, one, atol=1e-5)
    np.testing.assert_allclose(four_stats, one_stats, rtol=1e-4)
    assert collectives == ["all-reduce"]
    local = trained(4, 1)[0]
    assert np.abs(one - local).max() > 1e-3, "by shares it is another training"


def test_every_batch_norm_of_a_net_is_set_and_no_other_net_is() -> None:
    net = nets.shapes(name="vgg", depth=11, batch_norm=True, width=1, dense=2, size=32)
    assert layers.split_batch_norm(net, 2) == 8
    assert {norm.parts for norm in net.norms} == {2} and layers.BatchNorm.parts == 1
    assert layers.split_batch_norm(nets.shapes(name="lenet5"), 2) == 0


def test_evaluation_knows_no_parts() -> None:
    net, split = Net(rngs=nnx.Rngs(0)), Net(rngs=nnx.Rngs(0))
    layers.split_batch_norm(split, 4)
    x = jax.random.normal(jax.random.key(0), (3, 4, 4, 1), jnp.float32)
    net.eval(), split.eval()
    np.testing.assert_array_equal(net(x), split(x))


def test_what_cannot_be_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the layer first is flax's nnx\.BatchNorm, .*use cnnjax\.layers\.BatchNorm"):
        layers.split_batch_norm(Net(rngs=nnx.Rngs(0), norm=nnx.BatchNorm), 2)
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        layers.split_batch_norm(Net(rngs=nnx.Rngs(0)), 0)
    norm = layers.BatchNorm(2, parts=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="mask must be None where parts is 2"):
        norm(jnp.ones((4, 2)), mask=jnp.ones((4, 2), bool))
    with pytest.raises(ValueError, match="divide the batch, got 2 for a batch of 3"):
        norm(jnp.ones((3, 2)))
