from __future__ import annotations

import json
import resource
import shutil
import signal
from dataclasses import replace
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
from cnnjax.train import checkpoint, devices, metrics, optimizers, state, step
from tests.train import tiny
from tests.train.tiny import OPTIONS, arrays, interrupt_at, same_bits

UPDATES = 4 * 6


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[train.Result, Path]:
    """The run of OPTIONS and its folder, in which no test writes."""
    folder = tmp_path_factory.mktemp("whole")
    return tiny.fit(folder, OPTIONS), folder


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch, in which no test writes."""
    folder = tmp_path_factory.mktemp("one") / "epoch"
    tiny.fit(folder, replace(OPTIONS, epochs=1))
    return folder


def test_learns_and_leaves_its_records(whole: tuple[train.Result, Path]) -> None:
    result, folder = whole
    assert result.updates == UPDATES and int(result.state.step) == UPDATES
    assert result.outputs is not None and result.outputs.shape == (37, 4)
    records = metrics.read(folder / "metrics.jsonl")
    assert [r["step"] for r in records if "train_loss" in r] == list(range(1, UPDATES + 1))
    assert [r["epoch"] for r in records if "test_loss" in r] == [1, 2, 3, 4]
    assert records[-1]["test_accuracy"] > 0.8  # chance is 0.25
    assert checkpoint.steps(folder) == [20, 24]
    assert any((folder / "events").iterdir())


def test_one_update_is_sgd_by_hand() -> None:
    """w <- w - 0.1 dL/dw with dL/dlogits = (softmax - onehot) / B, on a single dense layer."""

    class Dense(nnx.Module):
        def __init__(self) -> None:
            self.w = nnx.Param(jnp.array([[1.0, -1.0], [0.5, 2.0]]))

        def __call__(self, x: jax.Array) -> jax.Array:
            return x @ self.w[...]

    rule = optimizers.optimizer("sgd", 0.1)
    net, first = state.initial(Dense(), rule)
    x, labels = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32), np.array([0, 1], np.int32)
    after, values = jax.jit(train.make_update(net, rule))(first, x, labels)
    w = np.array([[1.0, -1.0], [0.5, 2.0]])
    logits = x.astype(np.float64) @ w
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = w - 0.1 * x.T.astype(np.float64) @ (p - np.eye(2)[labels]) / 2
    np.testing.assert_allclose(after.params["w"], expected, rtol=1e-6)
    np.testing.assert_allclose(values["loss"], -np.log(p[[0, 1], labels]).mean(), rtol=1e-6)
    assert float(values["accuracy"]) == (logits.argmax(1) == labels).mean() and int(after.step) == 1


def test_every_example_is_evaluated_once() -> None:
    """37 images are no multiple of the batch: the logits are those of one pass over all."""
    model = tiny.Tiny(rngs=nnx.Rngs(0))
    net, first = state.initial(model, optimizers.optimizer("sgd", 0.1))
    images = tiny.examples(37, 2).x
    predict = step.make_predict(net, devices.data_mesh(), lambda pixels: pixels / 255, batch_size=10)
    with pytest.raises(ValueError, match="x must have at least one example"):
        predict(first, np.zeros((0, 4, 4, 1), np.uint8))
    model.eval()
    expected = np.asarray(model(jnp.asarray(images, jnp.float32) / 255))
    np.testing.assert_allclose(predict(first, images), expected, rtol=1e-5, atol=1e-6)


def test_few_examples_are_padded_to_a_power_of_two() -> None:
    model = tiny.Tiny(rngs=nnx.Rngs(0))
    net, first = state.initial(model, optimizers.optimizer("sgd", 0.1))
    images = tiny.examples(300, 2).x
    traced: list[int] = []

    def prepare(pixels: Any) -> Any:
        traced.append(len(pixels))
        return pixels / 255

    predict = step.make_predict(net, devices.data_mesh(), prepare)
    model.eval()
    expected = np.asarray(model(jnp.asarray(images, jnp.float32) / 255))
    for count in (1, 2, 3, 37, 300):
        np.testing.assert_allclose(predict(first, images[:count]), expected[:count], rtol=1e-5, atol=1e-6)
    assert sorted(set(traced)) == [1, 2, 4, 64, 256]


def test_batch_statistics_are_carried_and_float32(one_epoch: Path) -> None:
    saved = arrays(one_epoch)
    assert saved["rest/norm/mean"].dtype == np.float32 and np.abs(saved["rest/norm/mean"]).max() > 0.01


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_next_run_ends_with_the_same_bits(
    what: signal.Signals, whole: tuple[train.Result, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(8, what, patch)
        result = tiny.fit(tmp_path / "cut", OPTIONS)
    assert result.outputs is None and 8 <= result.updates < UPDATES
    assert checkpoint.steps(tmp_path / "cut")[-1] == result.updates
    rest = tiny.fit(tmp_path / "cut", OPTIONS)
    assert rest.updates == UPDATES - result.updates
    assert same_bits(tmp_path / "cut", whole[1])
    assert (tmp_path / "cut/metrics.jsonl").read_text() == (whole[1] / "metrics.jsonl").read_text()


def test_a_finished_run_started_again_changes_nothing(whole: tuple[train.Result, Path], tmp_path: Path) -> None:
    shutil.copytree(whole[1], tmp_path / "run")
    before = (tmp_path / "run/metrics.jsonl").read_text()
    again = tiny.fit(tmp_path / "run", OPTIONS)
    assert again.updates == 0 and again.outputs is not None
    assert (tmp_path / "run/metrics.jsonl").read_text() == before


def test_epochs_may_grow(whole: tuple[train.Result, Path], one_epoch: Path, tmp_path: Path) -> None:
    shutil.copytree(one_epoch, tmp_path / "grown")
    tiny.fit(tmp_path / "grown", OPTIONS)
    assert same_bits(whole[1], tmp_path / "grown")


def test_the_best_checkpoint_is_kept_and_chosen_by_the_validation_set(tmp_path: Path) -> None:
    options = replace(OPTIONS, validation=20, epochs=8, learning_rate=3.0, optimizer="sgd")  # bounces about
    result = tiny.fit(tmp_path, options)
    losses = {r["step"]: r["validation_loss"] for r in result.records if "validation_loss" in r}
    best = min(losses, key=losses.__getitem__)
    assert best != 48, "the best is the last: this test would show nothing"
    assert checkpoint.best_step(tmp_path) == best
    assert best in checkpoint.steps(tmp_path) and {45, 48} <= set(checkpoint.steps(tmp_path))
    assert int(train.restore(tmp_path)[0]["step"]) == best


def test_early_stopping(tmp_path: Path) -> None:
    options = replace(OPTIONS, validation=20, epochs=50, learning_rate=3.0, optimizer="sgd", patience=2)
    result = tiny.fit(tmp_path, options)
    losses = [r["validation_loss"] for r in result.records if "validation_loss" in r]
    assert len(losses) < 50 and len(losses) - 1 - int(np.argmin(losses)) == 2
    assert result.outputs is not None
    assert tiny.fit(tmp_path, options).updates == 0, "started again, it must not train on"


def test_patience_needs_a_validation_set() -> None:
    with pytest.raises(UserError, match="`patience` needs `validation`"):
        train.fit(tiny.Tiny(rngs=nnx.Rngs(0)), {"train": tiny.examples(96, 1)}, None, patience=2)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    exploding = optax.sgd(lambda step: jnp.where(step < 6, 0.01, jnp.inf))
    own = {"optimizer": exploding, "epochs": 4, "batch_size": 16, "checkpoint_every": 5, "log_every": 1}
    model, data = tiny.Tiny(rngs=nnx.Rngs(0)), {"train": tiny.examples(96, 1)}
    train.fit(model, data, tmp_path, prepare=tiny.scaled, **{**own, "epochs": 1})
    with pytest.raises(UserError, match=r"the loss of update 8 became nan; the last good checkpoint is .*/6\."):
        train.fit(model, data, tmp_path, prepare=tiny.scaled, **own)
    assert checkpoint.steps(tmp_path) == [5, 6]
    assert all(np.isfinite(a).all() for a in arrays(tmp_path).values())


def test_parameters_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    model = tiny.Tiny(rngs=nnx.Rngs(0))
    _, first = state.initial(model, optimizers.optimizer("sgd", 0.1))
    keeper = checkpoint.Checkpoints(tmp_path, 2)
    keeper.save(first, {})
    bad = first._replace(params=jax.tree.map(lambda a: a * jnp.inf, first.params), step=first.step + 1)
    with pytest.raises(UserError, match=r"params/\S+ became NaN or infinite at update 1; the last good .*/0\."):
        keeper.save(bad, {})
    keeper.close()
    assert checkpoint.steps(tmp_path) == [0]


def test_another_net_s_checkpoint_is_refused(one_epoch: Path, tmp_path: Path) -> None:
    shutil.copytree(one_epoch, tmp_path, dirs_exist_ok=True)

    class Other(tiny.Tiny):
        def __init__(self) -> None:
            super().__init__(rngs=nnx.Rngs(0))
            self.conv1 = nnx.Linear(16, 5, rngs=nnx.Rngs(0))

    with pytest.raises(UserError, match=r"functions\.model: was tests\.train\.tiny\.Tiny \w+, is now \S+\.Other "):
        tiny.fit(tmp_path, OPTIONS, model=Other())
    with pytest.raises(UserError, match="optimizer: was adamw, is now momentum"):
        tiny.fit(tmp_path, replace(OPTIONS, optimizer="momentum"))
    with pytest.raises(
        UserError, match=r"another net or optimiser: params/conv1/bias is float32\[4\] there and float32\[5\]"
    ):
        state.from_arrays(arrays(tmp_path), state.initial(Other(), optimizers.optimizer("adamw", 0.1))[1])
    with pytest.raises(UserError, match="another net or optimiser: opt_state"):
        like = state.initial(tiny.Tiny(rngs=nnx.Rngs(0)), optimizers.optimizer("momentum", 0.1))[1]
        state.from_arrays(arrays(tmp_path), like)


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="97"):
        tiny.fit(tmp_path, replace(OPTIONS, batch_size=97))


def test_a_full_disk_while_saving(
    whole: tuple[train.Result, Path], one_epoch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax's write fails as a full disk makes it fail: one sentence, and the checkpoint before is there."""
    import orbax.checkpoint as ocp

    folder = tmp_path / "run"
    shutil.copytree(one_epoch, folder)
    before = arrays(folder)

    def full(*args: Any, **keywords: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(
            UserError, match=r"saving checkpoint 10 in .* No space left on device; the last good .*/6\."
        ):
            tiny.fit(folder, OPTIONS)
    assert arrays(folder).keys() == before.keys() and int(arrays(folder)["step"]) == 6
    tiny.fit(folder, OPTIONS)
    assert same_bits(folder, whole[1])


class Large(nnx.Module):
    """With 256 KB of parameters that do not compress."""

    def __init__(self) -> None:
        self.first = nnx.Linear(16, 4096, rngs=nnx.Rngs(0))
        self.second = nnx.Linear(4096, 4, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jax.nn.relu(self.first(x.reshape(len(x), -1))))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of TensorStore's other futures
def test_a_disk_that_is_full_behind_the_run(tmp_path: Path) -> None:
    """The first error is what is said, though all files are closed after it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"saving checkpoint \d+ in .*File too large.*no checkpoint was saved"):
            tiny.fit(tmp_path, OPTIONS, Large())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("SHA256SUMS*"))


def test_profile_leaves_a_trace(tmp_path: Path) -> None:
    tiny.fit(tmp_path, replace(OPTIONS, profile=True))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_metrics_survive_a_line_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + json.dumps({"step": 2}) + "\n" + '{"step": 3, "tr')
    log = metrics.MetricsLog(tmp_path, 1)
    log.write(2, 1, {"train_loss": 0.5})
    log.flush()
    log.close()
    assert path.read_text() == '{"step": 1}\n{"step": 2, "epoch": 1, "train_loss": 0.5}\n'


def test_score_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    scores = tiny.scores_of_outputs(logits.astype(np.float32), np.array([0, 1]), train.cross_entropy, None)
    assert scores == {"loss": pytest.approx((np.log(2) + np.log(10)) / 2), "accuracy": 0.5}


def test_what_is_computed_before_each_epoch_reaches_the_optimiser_and_survives_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curvature is computed of other examples each epoch; a run cut within an epoch goes on with the saved one."""

    def compute(params: Any, x: jax.Array, labels: jax.Array) -> dict[str, Any]:
        return {"curvature": jax.tree.map(lambda p: jnp.square(p) + x.mean() + labels.mean(), params)}

    options = replace(OPTIONS, optimizer="sdlm", epochs=3, learning_rate=0.02)
    before_epoch = train.BeforeEpoch(10, compute)
    whole = tiny.fit(tmp_path / "whole", options, before_epoch=before_epoch)
    with monkeypatch.context() as patch:
        interrupt_at(8, signal.SIGTERM, patch)
        cut = tiny.fit(tmp_path / "cut", options, before_epoch=before_epoch)
    assert 6 < cut.updates < 12, "in the second epoch"
    saved = arrays(tmp_path / "cut")
    assert saved["extra/curvature/conv1/kernel"].shape == (16, 4)
    tiny.fit(tmp_path / "cut", options, before_epoch=before_epoch)
    assert same_bits(tmp_path / "whole", tmp_path / "cut")
    plain = tiny.fit(tmp_path / "plain", replace(options, optimizer="sgd"))
    assert not np.array_equal(plain.state.params["conv1"]["kernel"], whole.state.params["conv1"]["kernel"])


def test_the_loss_is_the_callers(tmp_path: Path) -> None:
    def squared(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.square(logits - jax.nn.one_hot(labels, 4)).mean()

    result = tiny.fit(tmp_path, replace(OPTIONS, epochs=1), loss=squared)
    assert result.outputs is not None
    records = metrics.read(tmp_path / "metrics.jsonl")
    expected = np.square(result.outputs - np.eye(4)[tiny.examples(37, 2).y]).mean()
    assert records[-1]["test_loss"] == pytest.approx(expected, rel=1e-5)


def test_views_are_averaged_as_probabilities() -> None:
    """Of an image and its double: the logarithm of the mean of the two softmaxes, for 37 images in batches of 10."""
    model = tiny.Tiny(rngs=nnx.Rngs(0))
    net, first = state.initial(model, optimizers.optimizer("sgd", 0.1))
    images = tiny.examples(37, 2).x

    def predict(views: Any) -> np.ndarray:
        return step.make_predict(net, devices.data_mesh(), lambda x: x / 255, batch_size=10, views=views)(first, images)

    doubled = step.make_predict(net, devices.data_mesh(), lambda x: 2 * x / 255)(first, images)
    expected = (metrics.softmax(predict(None)) + metrics.softmax(doubled)) / 2
    both = predict(lambda x: jnp.stack([x.astype(jnp.float32), 2 * x.astype(jnp.float32)]))
    np.testing.assert_allclose(np.exp(both), expected, rtol=1e-4)
    assert np.abs(expected - metrics.softmax(doubled)).max() > 0.01
