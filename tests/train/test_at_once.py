"""Nets that are trained at once, beside the same ones one after the other."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import layers, train
from cnnjax.errors import UserError
from cnnjax.train import run_dir
from tests import processes
from tests.train import tiny
from tests.train.tiny import Tiny, arrays, examples, fit, scaled

OPTIONS = dataclasses.replace(tiny.OPTIONS, optimizer="momentum")
SEEDS = (3, 4, 9)


class Conv(nnx.Module):
    """Convolution, batch norm, dropout: what a vmap over kernels, statistics and keys must keep apart."""

    def __init__(self, *, rngs: nnx.Rngs):
        # without a bias: batch norm takes it away again, and its gradient is rounding alone
        self.conv = layers.Conv(1, 8, (3, 3), padding="SAME", use_bias=False, rngs=rngs)
        self.norm = layers.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.dense = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.norm(self.conv(x)).mean((1, 2)) * 10
        return self.dense(self.dropout(jax.nn.relu(x)))


def shifted(key: jax.Array, x: jax.Array) -> jax.Array:
    return x + jax.random.uniform(key, (len(x), 1, 1, 1), maxval=9.0)


def at_once(folder: Path | None, make: Any = Tiny, seeds: Sequence[int] = SEEDS, **changes: Any) -> list[train.Result]:
    settings = dataclasses.asdict(OPTIONS)
    del settings["seed"]
    data = {"train": examples(96, 1), "test": examples(37, 2)}
    folders = [None if folder is None else folder / f"seed{seed}" for seed in seeds]
    models = [make(rngs=nnx.Rngs(seed)) for seed in seeds]
    arguments = {"data": data, "prepare": scaled, **settings, **changes}
    return train.fit_at_once(models, arguments.pop("data"), folders, seeds, **arguments)


@pytest.mark.thorough
@pytest.mark.parametrize("updates_per_call", [1, 4])
def test_each_net_computes_what_it_would_alone(tmp_path: Path, updates_per_call: int) -> None:
    """Parameters, statistics, records and outputs of a net with dropout, under augmentation, EMA and lookahead."""
    changes = {"updates_per_call": updates_per_call, "augment": shifted, "ema": 0.9, "lookahead": 3}
    together = at_once(tmp_path / "together", Conv, **changes)
    for seed, one in zip(SEEDS, together, strict=True):
        options = dataclasses.replace(OPTIONS, seed=seed)
        alone = fit(tmp_path / f"alone{seed}", options, Conv(rngs=nnx.Rngs(seed)), **changes)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one.state, alone.state)
        np.testing.assert_allclose(one.outputs, alone.outputs, rtol=1e-3, atol=2e-4)
        assert len(one.records) == len(alone.records)
        for own, other in zip(one.records, alone.records, strict=True):
            assert own == pytest.approx(other, rel=1e-4)
        assert one.finished and one.updates == alone.updates == 24
        assert arrays(tmp_path / "together" / f"seed{seed}").keys() == arrays(tmp_path / f"alone{seed}").keys()
    first, second = (one.state.params["dense"]["kernel"] for one in together[:2])
    assert np.abs(first - second).max() > 0.1


def test_a_single_net_is_that_of_fit(tmp_path: Path) -> None:
    """To the bit."""
    one = at_once(tmp_path, seeds=[3])[0]
    alone = fit(tmp_path / "alone", dataclasses.replace(OPTIONS, seed=3))
    jax.tree.map(np.testing.assert_array_equal, one.state, alone.state)


@pytest.mark.thorough
def test_a_net_behind_the_others_changes_no_bit(tmp_path: Path) -> None:
    """Where a kill comes between the checkpoints of two nets, the one behind makes its updates again."""
    at_once(tmp_path / "cut", epochs=2, schedule="constant")
    at_once(tmp_path / "through", schedule="constant")
    newest = tmp_path / "cut" / "seed4" / "checkpoints" / "12"
    assert newest.exists()
    shutil.rmtree(newest)
    went_on = at_once(tmp_path / "cut", schedule="constant")
    assert [one.updates for one in went_on] == [12, 14, 12]
    for seed in SEEDS:
        there, here = (arrays(tmp_path / name / f"seed{seed}") for name in ("through", "cut"))
        assert all(np.array_equal(there[name], here[name]) for name in there)
    assert all(one.finished for one in went_on)


@pytest.mark.thorough
def test_one_that_stops_early_leaves_the_others_alone(tmp_path: Path) -> None:
    changes = {"validation": 24, "patience": 1, "learning_rate": 0.3, "epochs": 12}
    together = at_once(tmp_path, **changes)
    steps = [int(one.state.step) for one in together]
    assert len(set(steps)) > 1 and all(one.finished for one in together), steps
    for seed, one in zip(SEEDS, together, strict=True):
        data = {"train": examples(96, 1), "test": examples(37, 2)}
        options = {**dataclasses.asdict(OPTIONS), **changes, "seed": seed}
        alone = train.fit(Tiny(rngs=nnx.Rngs(seed)), data, None, prepare=scaled, **options)
        assert int(one.state.step) == int(alone.state.step)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one.state, alone.state)


def test_data_may_be_of_each_its_own() -> None:
    data = [{"train": examples(96, seed)} for seed in SEEDS]
    for seed, own, one in zip(SEEDS, data, at_once(None, data=data), strict=True):
        alone = fit(None, dataclasses.replace(OPTIONS, seed=seed), data=own)  # type: ignore[arg-type]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one.state, alone.state)


def test_a_run_says_that_it_was_not_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In its config, and where it goes on alone."""
    at_once(tmp_path, epochs=2, schedule="constant")
    assert run_dir.read_config(tmp_path / "seed4")["environment"]["at_once"] == 3
    fit(tmp_path / "seed4", dataclasses.replace(OPTIONS, seed=4, schedule="constant"))
    assert "at_once: was 3, is now 1: from here on the bits may differ" in caplog.text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": []}, "`models` must be the nets to train, was empty."),
        ({"data": [{"train": examples(8, 0)}]}, "`data` must have one entry for each of the 3 nets, had 1."),
        ({"seeds": (1, 1)}, "`workdirs` must be folders of their own for each net, were"),
        ({"seed": 1}, "`seed=1` is one seed for all nets: give `seeds`, one for each."),
        ({"profile": True}, "`profile=True` traces one run: leave it out, or train the nets one after the other."),
        ({"shard": "params"}, "`shard=params` splits one net over the devices"),
        ({"make_update": lambda net, optimizer: None}, "knows one seed"),
        ({"batch_size": 0}, "`batch_size=0`"),
        ({"colour": 1}, "colour"),
    ],
)
def test_it_refuses(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence.replace("(", r"\(")):
        at_once(tmp_path / "runs", **changes)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").rglob("*.json"))


def test_it_refuses_nets_that_differ() -> None:
    models = [Tiny(rngs=nnx.Rngs(0)), Tiny(4, rngs=nnx.Rngs(0))]
    data = [{"train": examples(96, 1)}, {"train": examples(64, 1)}, {"train": examples(96, 1)}]
    with pytest.raises(UserError, match=r"must be alike: net 1 has .* in 4 updates an epoch, and net 0 .* in 6"):
        at_once(None, data=data)
    with pytest.raises(UserError, match="`models` must be of one structure, but net 1 is not as net 0"):
        train.fit_at_once(models, {"train": examples(8, 0)}, [None, None], [0, 1])


def test_a_loss_that_is_not_finite_ends_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"became (nan|inf)"):
        at_once(tmp_path, learning_rate=1e38, optimizer="sgd")


PROGRAM = """
import numpy as np
from flax import nnx
from cnnjax import train
from tests.train.tiny import Tiny, examples, scaled

before_epoch = train.BeforeEpoch(8, lambda params, x, y: {})  # on each device by itself
arguments = {"prepare": scaled, "epochs": 2, "batch_size": 16, "learning_rate": 0.05, "before_epoch": before_epoch}
data = {"train": examples(96, 1)}

def kernels(seeds):
    models = [Tiny(rngs=nnx.Rngs(seed)) for seed in seeds]
    results = train.fit_at_once(models, data, [None] * len(seeds), seeds, **arguments)
    return [result.state.params["conv1"]["kernel"] for result in results]

many = kernels(range(3))
print([[device.id for device in kernel.devices()] for kernel in many])
for seed, kernel in enumerate(many):
    np.testing.assert_allclose(kernel, kernels([seed])[0], rtol=1e-4, atol=1e-5)
np.testing.assert_array_equal(many[1], kernels([1])[0])
"""


@pytest.mark.thorough
def test_nets_are_dealt_out_over_devices() -> None:
    """Of two devices and three nets the first has two; each is what it is alone, that on the second to the bit."""
    assert processes.program(PROGRAM, devices=2) == "[[0], [1], [0]]\n"
