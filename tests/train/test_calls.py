"""How many updates one call makes: by the platform, where nothing is given, and as the run had it, at a resume."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from flax import nnx

from cnnjax import train
from cnnjax.errors import UserError
from cnnjax.train import run_dir, task
from cnnjax.train.calls import default_updates_per_call, updates_in_call
from tests.train import tiny
from tests.train.tiny import interrupt_at, same_bits

OPTIONS = replace(tiny.OPTIONS, optimizer="momentum")  # optax promotes dtypes in the others
MNIST, CIFAR, IMAGENET = 28 * 28, 32 * 32 * 3, 224 * 224 * 3


def test_the_cpu_makes_one_update_a_call() -> None:
    assert default_updates_per_call("cpu", 64 * MNIST, 937, 10, 500) == 1


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize(
    ("values", "per_epoch", "log_every", "number"),
    [
        (64 * MNIST, 937, 10, 10),  # no number down to 6 divides 937
        (128 * CIFAR, 390, 100, 39),  # 42 would fit; 39 divides the epoch
        (256 * IMAGENET, 5004, 10, 1),  # an update takes long enough
        (16 * IMAGENET, 5004, 10, 6),
        (64 * MNIST, 22, 100, 22),
        (64 * MNIST, 22, 20, 11),
        (64 * MNIST, 937, 1, 1),
    ],
)
def test_an_accelerator_makes_as_many_as_its_inputs_allow(
    platform: str, values: int, per_epoch: int, log_every: int, number: int
) -> None:
    assert default_updates_per_call(platform, values, per_epoch, log_every, 500) == number


def test_no_checkpoint_waits_for_a_longer_call() -> None:
    assert default_updates_per_call("gpu", 64 * MNIST, 100, 50, 5) == 5


def test_group_borders() -> None:
    assert [updates_in_call(done, 4, 6) for done in (0, 4, 6, 10)] == [4, 2, 4, 2]
    assert [updates_in_call(done, 4, 6) for done in (1, 5, 13)] == [3, 1, 3]
    assert updates_in_call(123, 1, 6) == 1
    assert [updates_in_call(done, 4, 6, total=9) for done in (4, 6)] == [2, 3], "the last call ends with the run"


@pytest.mark.thorough
def test_a_run_goes_on_at_the_border_of_a_call_with_the_number_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = replace(OPTIONS, updates_per_call=4)  # of 6 updates an epoch: calls of 4 and 2
    tiny.fit(tmp_path / "whole", four)
    with monkeypatch.context() as patch:
        interrupt_at(7, signal.SIGTERM, patch)
        assert tiny.fit(tmp_path / "cut", four).updates in {10, 12}
    with pytest.raises(UserError, match="updates_per_call: was 4, is now 1"):
        tiny.fit(tmp_path / "cut", replace(OPTIONS, updates_per_call=1))
    assert OPTIONS.updates_per_call is None
    tiny.fit(tmp_path / "cut", OPTIONS)
    assert same_bits(tmp_path / "cut", tmp_path / "whole")
    assert run_dir.read_config(tmp_path / "cut")["updates_per_call"] == 4


def test_the_number_of_the_platform_is_written_into_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = tiny.Tiny(rngs=nnx.Rngs(0)), {"train": tiny.examples(96, 1)}
    functions = dict.fromkeys(("metrics", "prepare", "augment", "views", "before_epoch", "make_update"))

    def written() -> int:
        made = task.make_task(model, data, None, None, {"batch_size": 16}, config=None, watch=None,
                              loss=train.cross_entropy, **functions)  # fmt: skip
        assert made.config["updates_per_call"] == made.updates_per_call
        return made.updates_per_call

    assert written() == 1
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform="gpu", device_kind="H100")])
    assert written() == 6, "an epoch"


@pytest.mark.parametrize("wrong", [0, 2.5, True])
def test_a_wrong_number_is_named(wrong: object) -> None:
    with pytest.raises(UserError, match=f"`updates_per_call={wrong}` must be an int of at least 1"):
        replace(OPTIONS, updates_per_call=wrong)  # type: ignore[arg-type]
