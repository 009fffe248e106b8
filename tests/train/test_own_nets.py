"""Nets, losses and optimisers as users write them: what they hold beside parameters, and what cannot be trained."""

from __future__ import annotations

import importlib
import sys
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
from tests.train import tiny

X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int32)
DATA = {"train": (X, Y), "test": (X, Y)}
SETTINGS: dict[str, Any] = {"optimizer": "momentum", "learning_rate": 0.1, "batch_size": 16, "epochs": 2}


def fit(model: nnx.Module, data: Any = DATA, workdir: Path | None = None, **changes: Any) -> train.Result:
    return train.fit(model, data, workdir, **{**SETTINGS, **changes})


class Dense(nnx.Module):
    """A dense layer, and what `after` makes of its outputs."""

    def __init__(self, outputs: int = 2, after: Callable[[jax.Array], Any] | None = None):
        self.dense = nnx.Linear(4, outputs, rngs=nnx.Rngs(0))
        self.after = nnx.static(after)

    def __call__(self, x: jax.Array) -> Any:
        y = self.dense(x)
        return y if self.after is None else self.after(y)


class Standardised(Dense):
    """Holds NumPy's arrays and Python's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.scale = np.ones(4, np.float32), nnx.Variable(2.0)
        self.dense.kernel.set_value(np.ones((4, 2)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense((x - self.mean) * self.scale[...])


class Sown(Dense):
    """Keeps what is to be looked at."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.dense(x)
        self.seen = nnx.Intermediate(y)
        return y


def test_a_net_of_numpys_arrays() -> None:
    net = Standardised()
    result = fit(net)
    kernel = result.state.params["dense"]["kernel"]
    assert isinstance(kernel, jax.Array) and kernel.dtype == jnp.float32
    assert result.records[-1]["test_accuracy"] > 0.8
    np.testing.assert_array_equal(net.dense.kernel[...], np.ones((4, 2)))


def test_what_is_sown_is_no_state() -> None:
    net = Sown()
    net(jnp.asarray(X))
    plain, sown = fit(Dense()), fit(net)
    jax.tree.map(np.testing.assert_array_equal, plain.state.params, sown.state.params)
    assert sown.state.rest == {}


def test_one_logit_has_no_accuracy_by_default() -> None:
    def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(outputs[:, 0], y.astype(jnp.float32)).mean()

    record = fit(Dense(1), loss=loss).records[-1]
    assert record["test_loss"] < 0.5 and "test_accuracy" not in record
    with pytest.raises(UserError, match=r"the net has one output, of which a softmax is always 1"):
        fit(Dense(1), {"train": (X, Y[:, None].astype(np.float32))})


def test_an_optimiser_that_holds_a_random_key_resumes_to_the_bit(tmp_path: Path) -> None:
    def run(folder: Path, epochs: int) -> train.Result:
        settings = {**SETTINGS, "epochs": epochs, "optimizer": optax.noisy_sgd(0.1, key=0)}
        del settings["learning_rate"]
        return train.fit(Dense(), DATA, folder, **settings)

    run(tmp_path / "cut", 1)
    run(tmp_path / "cut", 2)
    run(tmp_path / "whole", 2)
    assert tiny.same_bits(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (Dense(after=lambda y: (y, y.mean())), {"loss": lambda o, y: train.cross_entropy(o[0], y)},
         r"its output 1 has shape \(\) for 256 examples of `data\['test'\]`"),
        (Dense(), {"data": {"train": (X, Y), "validation": (X[:, :3], Y)}},
         r"the net cannot be evaluated on the examples of `data\['validation'\]`"),
        (Dense(), {"data": {"train": {"image": X, "label": Y}}}, r"`data\['train'\]` must be \(x, y\).* was dict"),
        (Dense(), {"config": ["a"]}, "`config` must be a dict of JSON values, was list"),
        (Dense(), {"metrics": {1: train.accuracy}}, "`metrics` must be named by str, had 1"),
        (nnx.Linear(4, 2, param_dtype=jnp.bfloat16, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)), {"ema": 0.999},
         "`ema=0.999` needs parameters of float32"),
    ],
)  # fmt: skip
def test_what_is_refused_before_the_first_update(model: nnx.Module, changes: dict[str, Any], message: str) -> None:
    data = changes.pop("data", DATA)
    with pytest.raises(UserError, match=message):
        fit(model, data, **changes)


def test_numbers_of_numpy_are_numbers() -> None:
    assert fit(Dense(), optimizer_options={"momentum": np.float32(0.8)}).finished
    assert fit(Dense(), {"train": (X, Y)}, loss=lambda outputs, y: 1.5).records[-1]["train_epoch_loss"] == 1.5


def test_nets_at_once_are_sequences() -> None:
    with pytest.raises(UserError, match="`workdirs` must have one entry for each net, was None"):
        train.fit_at_once([Dense(), Dense()], DATA, None, [0, 1])  # type: ignore[arg-type]


def test_a_loss_by_a_file_of_ones_own_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What of the module a loss uses, and the weights of a net that it asks."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def written(factor: int) -> Any:
        (tmp_path / "helper.py").write_text(
            f"from cnnjax import train\ndef ce(o, y):\n    return {factor} * train.cross_entropy(o, y)\n"
        )
        sys.modules.pop("helper", None)
        importlib.invalidate_caches()
        import helper  # type: ignore[import-not-found]

        return lambda o, y: helper.ce(o, y)

    def asking(seed: int) -> Any:
        teacher = nnx.Linear(4, 2, rngs=nnx.Rngs(seed))
        return lambda o, y: ((o - teacher(jnp.ones((1, 4)))) ** 2).mean()

    for number, (one, other) in enumerate(((written(1), written(100)), (asking(0), asking(1)))):
        settings = {"loss": one, "schedule": "constant"}
        fit(Dense(), DATA, tmp_path / str(number), **settings)
        fit(Dense(), DATA, tmp_path / str(number), **settings, epochs=3)
        with pytest.raises(UserError, match=r"functions\.loss: was"):
            fit(Dense(), DATA, tmp_path / str(number), **{**settings, "loss": other}, epochs=3)
