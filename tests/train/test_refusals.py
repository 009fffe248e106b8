"""What `fit` refuses: other settings at a resume, and arguments that are not what they must be, each by its name."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import train
from cnnjax.errors import UserError
from cnnjax.train import run_dir, state
from tests import processes
from tests.train import tiny

X, Y = tiny.examples(32, 1)
ONE_PIXEL = X.copy()
ONE_PIXEL[7, 1, 2, 0] ^= 1


class Dense(nnx.Module):
    def __init__(self) -> None:
        self.dense = nnx.Linear(16, 4, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(x.reshape(len(x), -1))


def weighted(weight: float) -> Callable[..., jax.Array]:
    def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return weight * train.cross_entropy(outputs, y)

    return loss


def other(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return train.cross_entropy(outputs, y) + jnp.square(outputs).mean()


def shifted(key: jax.Array, x: jax.Array, *, by: float) -> jax.Array:
    return x + by * jax.random.uniform(key, x.shape)


BASE: dict[str, Any] = {
    "prepare": tiny.scaled, "loss": weighted(0.5), "metrics": {"accuracy": train.accuracy}, "epochs": 1,
    "augment": functools.partial(shifted, by=2.0), "optimizer": "sgd", "batch_size": 16, "learning_rate": 0.1,
}  # fmt: skip
OWN = {name: value for name, value in BASE.items() if name != "learning_rate"} | {"optimizer": optax.sgd(0.1)}


def fit(workdir: Any, base: dict[str, Any] = BASE, **changes: Any) -> train.Result:
    given = {**base, **changes}
    return train.fit(given.pop("model", Dense()), given.pop("data", {"train": (X, Y)}), workdir, **given)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, by a named optimiser and by one's own."""
    folder = tmp_path_factory.mktemp("runs")
    for name, base in (("named", BASE), ("own", OWN)):
        assert fit(folder / name, base).updates == 2
    return folder


# ---- at a resume ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.2}, "learning_rate: was 0.1, is now 0.2"),
        ({"seed": 1}, "seed: was 0, is now 1"),
        ({"batch_size": 8}, "batch_size: was 16, is now 8"),
        ({"optimizer": "momentum"}, "optimizer: was sgd, is now momentum"),
        ({"freeze": "bias"}, "freeze: was None, is now bias"),
        ({"data": {"train": (ONE_PIXEL, Y)}}, r"data\.train\.crc32: was \d+, is now \d+"),
        ({"data": {"train": (X[:31], Y[:31])}}, r"data\.train\.examples: was 32, is now 31"),
        ({"loss": weighted(0.25)}, r"functions\.loss: was \S+loss \w+, is now \S+loss "),
        ({"loss": other}, r"functions\.loss: was .*is now tests.train.test_refusals.other"),
        ({"metrics": {"accuracy": train.top_k(2)}}, r"functions\.metric accuracy: was"),
        ({"metrics": {}}, r"functions\.metric accuracy: was .*, is now None"),
        ({"augment": functools.partial(shifted, by=3.0)}, r"functions\.augment: was"),
        ({"augment": None}, r"functions\.augment: was .*, is now None"),
        ({"prepare": lambda x: x / 254}, r"functions\.prepare: was"),
        ({"views": lambda x: x[None]}, r"functions\.views: was None, is now"),
        ({"model": tiny.Tiny(rngs=nnx.Rngs(0))}, r"functions\.model: was \S+Dense \w+, is now \S+Tiny "),
    ],
)
def test_another_run_is_refused_by_name(changes: dict[str, Any], message: str, runs: Path) -> None:
    before = (runs / "named/config.json").read_bytes()
    with pytest.raises(UserError, match=message):
        fit(runs / "named", **changes)
    assert (runs / "named/config.json").read_bytes() == before


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(0.2), optax.sgd(0.1, momentum=0.0), optax.sgd(optax.constant_schedule(0.1)), optax.sgd]
)
def test_another_own_optimiser_is_refused(optimizer: Any, runs: Path) -> None:
    with pytest.raises(UserError, match=r"functions\.optimizer: was|`optimizer` must be"):
        fit(runs / "own", OWN, optimizer=optimizer)
    with pytest.raises(UserError, match=r"optimizer: was None, is now sgd"):
        fit(runs / "own", OWN, optimizer="sgd")


def test_the_same_goes_on_and_another_environment_is_told(
    runs: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit(runs / "own", OWN, optimizer=optax.sgd(0.1), loss=weighted(0.5), keep=3, log_every=1).updates == 0
    assert not caplog.records
    config = json.loads((runs / "own/config.json").read_text())
    found = config["environment"]
    assert {"cnnjax", "commit", "jax", "jaxlib", "CNNJAX_ONEDNN", "XLA_FLAGS", "cores", "device"} <= set(found)
    config["environment"] |= {"cnnjax": "0.0.1", "commit": "abc"}
    (runs / "own/config.json").write_text(json.dumps(config))
    monkeypatch.setenv("CNNJAX_ONEDNN", "0")
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_enable_fast_math=true")
    assert fit(runs / "own", OWN, keep=3).updates == 0
    for told in ("cnnjax: was 0.0.1", "commit: was abc", "CNNJAX_ONEDNN: was None, is now 0", "XLA_FLAGS: was"):
        assert told in caplog.text
    assert caplog.text.count("the bits may differ") == 4


def test_an_own_optimiser_takes_more_epochs(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "own", tmp_path / "grown")
    assert fit(tmp_path / "grown", OWN, epochs=2).updates == 2
    with pytest.raises(UserError, match="epochs: was 2, is now 1"):
        fit(tmp_path / "grown", OWN, epochs=1)


def test_evaluations_decide_the_end_where_there_is_patience(tmp_path: Path) -> None:
    for patience in (None, 2):
        config = {"epochs": 3, "schedule": "cosine", "patience": patience, "eval_every": 1}
        folder = tmp_path / str(patience)
        folder.mkdir()
        run_dir.settle_config(folder, config)
        if patience is None:
            run_dir.settle_config(folder, {**config, "eval_every": 2})
        else:
            with pytest.raises(UserError, match="eval_every: was 1, is now 2"):
                run_dir.settle_config(folder, {**config, "eval_every": 2})


SCRIPT = """
import sys
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from cnnjax import train
from cnnjax.errors import UserError

STRENGTH = 0.1


class Net(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(2, 1, rngs=rngs)

    def __call__(self, x):
        return self.dense(x)


def penalty(outputs):
    return STRENGTH * jnp.abs(outputs).mean()


x = np.linspace(0, 1, 32, dtype=np.float32).reshape(16, 2)
try:
    result = train.fit(
        Net(nnx.Rngs(0)), {"train": (x, x.sum(1, keepdims=True))}, sys.argv[1], epochs=1, batch_size=16,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, 10)), prepare=lambda x: 2 * x,
        loss=lambda outputs, y: ((outputs - y) ** 2).mean() + penalty(outputs),
        metrics={"off": lambda outputs, y: abs(outputs - y).mean()},
    )
    print(result.updates)
except UserError as error:
    print(error)
"""


@pytest.mark.thorough
def test_a_script_run_again_goes_on_and_an_edited_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.py"

    def run(text: str) -> str:
        path.write_text(text)
        done = processes.Forked(path, (tmp_path / "run",)).end()
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert run(SCRIPT) == "1"
    assert run(SCRIPT) == "0"
    assert run("# The same, with a comment.\n" + SCRIPT) == "0"
    for old, new, what in [("STRENGTH = 0.1", "STRENGTH = 0.2", "loss"), ("self.dense(x)", "-self.dense(x)", "model")]:
        assert f"functions.{what}: was " in run(SCRIPT.replace(old, new)), new


# ---- arguments ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "'epoch' is no option of a training run: did you mean epochs"),
        ({"lr": 3}, "'lr' is no option of a training run: it must be one of epochs, batch_size"),
        ({"dtype": "float16"}, "'dtype' is no option of a training run"),
        ({"workdir": 5}, "`workdir` must be a path as str or Path, or None for nothing on disk, was int"),
        ({"optimizer": "adan"}, "`optimizer=adan` must be one of sgd, momentum"),
        ({"optimizer_options": 0.9}, "`optimizer_options=0.9` must be a dict, such as"),
        ({"optimizer_options": {"b2": 0.9}}, "`optimizer_options` must be empty where the optimizer is 'sgd'"),
        ({"optimizer": 3}, "`optimizer` must be an optax transformation, .* was 3"),
        ({"optimizer": optax.sgd(0.1)}, "`learning_rate=0.1` has no use where `optimizer` is your own"),
        ({"loss": 3}, "`loss` must be a function, was 3"),
        ({"loss": lambda outputs, y: outputs[:, 0]}, r"`loss` must return a scalar, .*; returned float32\[16\]"),
        ({"loss": lambda outputs, y: (outputs.mean(), 3)}, "`loss` must return a scalar, .* dict of scalars; returned"),
        ({"loss": lambda outputs, y: (outputs.mean(), {"loss": 0.0})}, "name a scalar twice: loss, loss, accuracy"),
        ({"metrics": [train.accuracy]}, "`metrics` must be functions by name"),
        ({"metrics": {"loss": train.accuracy}}, "`metrics` has a function named 'loss'"),
        ({"metrics": {"wide": lambda outputs, y: outputs}}, r"the metric 'wide' must be a scalar, .* float32\[16, 4\]"),
        ({"prepare": 1.0}, "`prepare` must be a function, was 1.0"),
        ({"augment": True}, "`augment` must be a function, was True"),
        ({"model": lambda x: x}, "`model` must be a flax.nnx.Module, was function"),
        ({"loss_scale": 0.5}, "`loss_scale=0.5` must be a finite number of at least 1"),
        ({"nesterov": "no"}, "`nesterov='no'` must be True or False"),
        ({"before_epoch": tiny.scaled}, r"`before_epoch` must be a train\.BeforeEpoch"),
        ({"watch": print}, r"`watch` must be a train\.Watch, was <built-in"),
        ({"config": {"a": np.float32(1)}}, "`config` must hold JSON values alone: .* float32"),
        ({"data": (X, Y)}, "`data` must be a dict such as .*, was tuple"),
        ({"data": {"test": (X, Y)}}, "`data` must be a dict such as .*, was a dict of 'test'"),
        ({"data": {"train": (X, Y), "val": (X, Y)}}, "`data` has a split 'val': it must be one of train, validation"),
        ({"data": {"train": X}}, r"`data\['train'\]` must be \(x, y\).* was ndarray"),
        ({"data": {"train": (X, Y[:-1])}}, r"`data\['train'\]` must have as many inputs as labels.*32 in .*31 in"),
        ({"data": {"train": (X[:0], Y[:0])}}, r"`data\['train'\]` must have .*at least one"),
        ({"data": {"train": (X, [str(y) for y in Y])}}, r"`data\['train'\]`: train y is <U1"),
        ({"data": {"train": (X, [[1, 2], [3]])}}, "`data` holds list, which is no array"),
        ({"data": {"train": (X, Y + 1)}, "loss": train.cross_entropy}, "go from 1 to 4; with 4 outputs they must be"),
        ({"data": {"train": (X, X)}, "loss": train.cross_entropy}, r"the labels of `data\['train'\]` are uint8"),
        ({"batch_size": 33}, "33"),
        ({"seed": 2**32}, "`seed=4294967296` must be below 2..32"),
        ({"batch_size": 0}, "`batch_size=0` must be an int of at least 1"),
        ({"learning_rate": "fast"}, "`learning_rate=fast` must be a finite number above 0"),
        ({"accumulate": 3}, "`batch_size=16` cannot be split into `accumulate=3` equal parts"),
        ({"warmup": 2}, "`warmup` must be from 0 to 1"),
        ({"nesterov": True}, "`nesterov` must be False where the optimizer is 'sgd'"),
        ({"freeze": "conv9"}, "'conv9' is found in no path of a parameter"),
        ({"validation": 32}, "`validation=32` must leave something of the 32 training examples"),
        ({"patience": 2}, "`patience` needs `validation`"),
        ({"profile": True}, "`profile` writes its traces into `workdir`, which was None"),
        *[({"make_update": lambda net, optimizer: None, name: value}, f"`{name}={value}` has no use where `make_up")
          for name, value in (("ema", 0.9), ("accumulate", 2), ("loss_scale", 8.0))],
    ],
)  # fmt: skip
def test_an_argument_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        fit(changes.get("workdir"), **{name: value for name, value in changes.items() if name != "workdir"})
    assert re.search(r"[.?]$", str(error.value)) and "--" not in str(error.value)


def test_a_new_folder_lists_and_a_test_set_that_is_none(tmp_path: Path) -> None:
    result = fit(str(tmp_path / "a/b/c"), data={"train": (X.tolist(), Y.tolist()), "test": None})
    assert result.outputs is None and (tmp_path / "a/b/c/config.json").exists()


def test_shares_of_any_kind_of_number() -> None:
    """One-hot labels as ints are what the same ones as floats are."""
    one_hot = np.eye(4)[Y]
    losses = [
        fit(None, data={"train": (X, one_hot.astype(dtype))}, loss=train.cross_entropy).records[-1]["train_epoch_loss"]
        for dtype in (np.float32, np.int32, np.uint8, bool)
    ]
    assert len(set(losses)) == 1


def test_an_update_without_values(tmp_path: Path) -> None:
    def own(net: Any, optimizer: Any) -> Any:
        update = train.make_update(net, optimizer)
        return lambda state, x, y: (update(state, x, y)[0], {})

    result = fit(tmp_path, make_update=own)
    assert result.finished and int(result.state.step) == result.updates > 0


def test_lookahead_needs_the_length_of_the_run() -> None:
    net, _ = state.initial(Dense(), optax.sgd(0.1), lookahead=True)
    with pytest.raises(ValueError, match="lookahead_every=5 needs total, the updates of the whole run"):
        train.make_update(net, optax.sgd(0.1), lookahead_every=5)


# ---- no option is ignored ----

#: Options whose effect a test shows: test_fit.py, test_loop.py, test_calls.py, test_feed.py and test_hosts.py.
ELSEWHERE = {
    "warmup", "decay", "nesterov", "optimizer_options", "freeze", "accumulate", "loss_scale", "ema", "validation",
    "patience", "eval_every", "checkpoint_every", "log_every", "keep", "updates_per_call", "profile",
    "stream", "workers", "skip_corrupt", "shard",
}  # fmt: skip
CHANGES: dict[str, Any] = {
    "epochs": 3, "batch_size": 8, "learning_rate": 0.3, "optimizer": "adam", "schedule": "cosine",
    "weight_decay": 0.1, "grad_clip": 0.01, "seed": 5, "lookahead": 2,
}  # fmt: skip


def test_options_of_the_optimiser_act(tmp_path: Path) -> None:
    kernels = [
        fit(None, epochs=2, optimizer="momentum", optimizer_options=own).state.params["dense"]["kernel"]
        for own in ({}, {"momentum": 0.9}, {"momentum": 0.5}, {"momentum": 0.0})
    ]
    plain = fit(tmp_path / "run", epochs=2).state.params["dense"]["kernel"]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[1], kernels[2])
    np.testing.assert_array_equal(kernels[3], plain)  # SGD
    fit(tmp_path / "with", epochs=2, optimizer="momentum", optimizer_options={"momentum": 0.5})
    with pytest.raises(UserError, match=r"optimizer_options\.momentum: was 0\.5, is now 0\.6"):
        fit(tmp_path / "with", epochs=2, optimizer="momentum", optimizer_options={"momentum": 0.6})


@pytest.mark.thorough
def test_every_option_acts() -> None:
    assert ELSEWHERE | set(CHANGES) == {field.name for field in dataclasses.fields(train.Options)}
    base = fit(None, epochs=2)
    for name, value in CHANGES.items():
        changed = fit(None, **{"epochs": 2, name: value})
        assert not np.array_equal(changed.state.params["dense"]["kernel"], base.state.params["dense"]["kernel"]), (
            f"{name} is ignored"
        )
