"""Every op over eight devices: on the explicit meshes that jax.make_mesh makes, on automatic ones, in shard_map."""

from __future__ import annotations

import json

import pytest

from tests import processes
from tests.ops.examples import NAMES


def on_eight_devices(module: str, *arguments: str) -> dict:
    """What a module prints, line by line, in a process of its own."""
    return dict(map(json.loads, processes.module(module, *arguments, devices=8).splitlines()))


@pytest.mark.thorough
@pytest.mark.parametrize("everything", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ops_and_gradients_are_those_of_one_device(everything: bool) -> None:
    found = on_eight_devices("tests.ops.on_meshes", *NAMES, *["--everything"] * everything)
    assert list(found) == NAMES
    wrong = {
        name: result
        for name, result in found.items()
        if isinstance(result, str) or not all(difference < 1e-9 for difference in result.values())
    }
    assert not wrong, "\n".join(map(str, wrong.items()))


BATCH, WHOLE = ("data", None, None, None), (None, None, None, None)
FEATURES = (None, None, None, "model")

#: The sharding of each result, as cnnjax.ops.public.on_any_mesh promises.
EXPECTED = {
    "batch": [BATCH],
    "batch and rows": [("data", "model", None, None)],
    "both mesh axes on the batch": [(("data", "model"), None, None, None)],
    "rows that the devices do not divide": [WHOLE],
    "channels that stay": [FEATURES],
    "channels of another number": [BATCH],
    "features of the kernel": [("data", None, None, "model")],
    "features on the batch's devices": [BATCH],
    "a keyword for every array": [("data", None, None, "model")],
    "a NumPy kernel": [BATCH],
    "a NumPy input beside a sharded kernel": [FEATURES],
    "a module's variables": [("data", None, None, "model")],
    "a kernel on one device": [BATCH],
    "another rank": [("data", None)],
    "values and indices": [BATCH, BATCH],
    "statistics": [BATCH, (None,), (None,)],
    "statistics of sharded channels": [("data", None, None, "model"), ("model",), ("model",)],
    "no batch": [WHOLE],
    "gradients": [BATCH, FEATURES],
    "gradients of gradients": [BATCH],
    "jvp": [BATCH, BATCH],
    "vmap": [("data", None, None, None, None)],
    "vmap over a whole axis": [(None, "data", None, None, None)],
    "scan": [BATCH],
    "checkpoint": [BATCH],
    "shard_map over one axis": [BATCH, FEATURES],
}


@pytest.mark.thorough
def test_results_keep_their_sharding_axis_by_axis() -> None:
    found = on_eight_devices("tests.ops.result_shardings")
    assert found == {name: [str(spec) for spec in specs] for name, specs in EXPECTED.items()}
