"""Bounds by hand-computed numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cnnjax import layers
from cnnjax.inspect import Row, Table, layer_table
from cnnjax.plan import Transfers, bound, layer_costs, parse
from cnnjax.plan.roofline import bytes_sent


def test_the_slowest_resource_bounds_a_step() -> None:
    """On four v5e: 197 TFLOP/s, 819 GB/s, 200 GB/s; of an all-reduce each sends 2 * 3/4 of its bytes."""
    found = bound(parse("tpu:v5e:2x2"), "bfloat16", 197e9, 819e6, {"all-reduce": Transfers(1, 4_000_000_000)})
    assert found == pytest.approx((1e-3, 1e-3, 30e-3))
    assert (found.seconds, found.bottleneck) == (found.link, "link")
    alone = bound(parse("gpu:h100"), "float32", 989e9, 3352.32e6, {})
    assert alone == pytest.approx((2e-3, 1e-3, 0.0)) and alone.bottleneck == "arithmetic"


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 150.0), ("all-gather", 75.0), ("reduce-scatter", 300.0), ("collective-permute", 100.0)],
)
def test_what_leaves_a_device_in_a_ring_of_four(kind: str, sent: float) -> None:
    assert bytes_sent(kind, 100, 4) == sent


def test_layers_by_hand() -> None:
    """The first layer needs no gradient of its input: 2 passes, not 3."""
    table = Table(
        [Row("a (Conv)", (4, 4, 2), 20, 0, 288, (3, 3)), Row("b (Pool)", (2, 2, 2), 0, 0, 0, (4, 4)),
         Row("c (Linear)", (5,), 45, 0, 40, (4, 4)), Row("scale (Scale)", (), 7, 0, 0, ())],
        [(4, 4, 1), (4, 4, 2), (8,), ()],
    )  # fmt: skip
    first, pool, dense, rest = layer_costs(table, parse("gpu:h100"), "bfloat16", 10, state_size=12)
    assert first.operations == 2 * 2 * 288 * 10
    assert first.traffic == 2 * (16 + 32) * 10 * 2 + 20 * (12 + 24)
    assert (pool.operations, pool.traffic) == (0, 3 * (32 + 8) * 10 * 2)
    assert (dense.operations, dense.traffic) == (6 * 40 * 10, 3 * (8 + 5) * 10 * 2 + 45 * 36)
    assert (rest.operations, rest.traffic) == (0, 7 * 36)
    assert dense.seconds == dense.memory == dense.traffic / 3352.32e9 and dense.bottleneck == "memory"


def test_the_layer_table_says_what_each_layer_reads(capsys: pytest.CaptureFixture[str]) -> None:
    tables = []

    def describing() -> jax.Array:
        rngs = nnx.Rngs(0)
        net = nnx.Sequential(layers.Conv(3, 4, (3, 3), rngs=rngs), layers.MaxPool(2), layers.GlobalAvgPool(),
                             nnx.Linear(4, 2, rngs=rngs))  # fmt: skip
        tables.append(layer_table(net, (8, 8, 3)))
        return jnp.zeros(())

    jax.eval_shape(describing)
    assert tables[0].inputs == [(8, 8, 3), (6, 6, 4), (3, 3, 4), (4,)]
    assert capsys.readouterr().out == ""
