"""What `fit` takes: any loss, metrics, optimiser, data and update; small runs against plain definitions."""

from __future__ import annotations

import functools
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import data, train
from cnnjax.train import checkpoint, metrics
from tests.train import tiny
from tests.train.tiny import interrupt_at, same_bits, scores_of_outputs

SHORT = {"epochs": 2, "batch_size": 16, "seed": 3}
TRAIN, TEST = tiny.examples(96, 1), tiny.examples(37, 2)


class Dense(nnx.Module):
    """One dense layer on flattened pixels."""

    def __init__(self, inputs: int = 16, outputs: int = 4) -> None:
        self.dense = nnx.Linear(inputs, outputs, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(x.reshape(len(x), -1))


def squared(outputs: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.square(outputs - y.reshape(outputs.shape)).mean()


def run(model: nnx.Module, examples: dict[str, Any], workdir: Any = None, **keywords: Any) -> train.Result:
    return train.fit(model, examples, workdir, **{**SHORT, "prepare": tiny.scaled, **keywords})


def kernel(result: train.Result) -> np.ndarray:
    return np.asarray(result.state.params["dense"]["kernel"])


# ---- loss, metrics, outputs and labels ----


def test_an_own_optimiser_loss_and_metrics() -> None:
    """Lion; a loss with a scalar beside it; the means of 37 test examples in one record against NumPy."""

    def loss(outputs: jax.Array, y: jax.Array) -> Any:
        value = train.cross_entropy(outputs, y)
        return value + 0.01 * jnp.square(outputs).mean(), {"plain": value}

    def surest(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return jax.nn.softmax(outputs).max(-1).mean()

    model = Dense()
    before = np.array(model.dense.kernel[...])
    own = {"optimizer": optax.lion(1e-2, weight_decay=0.0), "loss": loss, "metrics": {"sure": surest}}
    result = run(model, {"train": TRAIN, "test": TEST}, log_every=4, **own)
    logits = result.outputs
    assert isinstance(logits, np.ndarray)
    shares = metrics.softmax(logits)
    plain = -np.log(shares[np.arange(37), TEST.y]).mean()
    found = result.records[-1]
    assert found["test_plain"] == pytest.approx(plain, rel=1e-5)
    assert found["test_loss"] == pytest.approx(plain + 0.01 * np.square(logits).mean(), rel=1e-5)
    assert found["test_sure"] == pytest.approx(shares.max(-1).mean(), rel=1e-5)
    assert {"train_loss", "train_plain", "train_sure"} <= set(result.records[0])
    assert "learning_rate" not in result.records[0] and "test_accuracy" not in found
    assert result.finished and result.updates == 12
    # every update of lion moves each weight by the rate, or not at all
    moved = np.abs(kernel(result) - before) / 1e-2
    np.testing.assert_allclose(moved, moved.round(), atol=1e-3)
    # the caller's model is as it was, and alive
    np.testing.assert_array_equal(model.dense.kernel[...], before)
    assert model(jnp.ones((2, 16))).shape == (2, 4)
    np.testing.assert_allclose(result.model(TEST.x / np.float32(255)), logits, rtol=1e-5, atol=1e-5)


def test_the_model_keeps_its_mode() -> None:
    model = tiny.Tiny(rngs=nnx.Rngs(0))
    model.train()
    result = run(model, {"train": TRAIN}, epochs=1)
    assert not model.norm.use_running_average and result.model.norm.use_running_average
    assert not np.asarray(model.norm.mean[...]).any() and np.asarray(result.model.norm.mean[...]).any()
    assert result.outputs is None, "there is no test set"


def test_metrics_are_means_over_all_examples_of_batches_that_differ_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """37 examples in batches of 16, 16 and 5: a mean over batches would weigh the last five too much."""
    from cnnjax.train import evaluate

    monkeypatch.setattr(evaluate, "BATCH_SIZE", 16)
    draw = np.random.default_rng(0)
    outputs, y = draw.normal(size=(37, 2)).astype(np.float32), draw.normal(size=(37, 2)).astype(np.float32)
    y[32:] += 5
    found = scores_of_outputs(outputs, y, squared, {"off": lambda outputs, y: jnp.abs(outputs - y).mean()})
    assert found == {
        "loss": pytest.approx(np.square(outputs - y).mean(), rel=1e-5),
        "off": pytest.approx(np.abs(outputs - y).mean(), rel=1e-5),
    }


def test_no_metrics_and_an_autoencoder() -> None:
    images = TRAIN.x.astype(np.float32) / 255
    autoencoder = {"train": (images, images), "test": (images[:37], images[:37])}
    result = run(Dense(16, 16), autoencoder, prepare=None, loss=squared, metrics={}, optimizer=optax.adam(1e-2))
    expected = np.square(result.outputs - images[:37].reshape(37, 16)).mean()
    assert set(result.records[-1]) == {"step", "epoch", "train_epoch_loss", "test_loss"}
    assert result.records[-1]["test_loss"] == pytest.approx(expected, rel=1e-5)
    means = [r["train_epoch_loss"] for r in result.records if "train_epoch_loss" in r]
    assert len(means) == 2 and means[1] < means[0]


def test_a_regression_finds_its_line() -> None:
    x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    line = {"train": (x, 3 * x + 1), "test": (x, 3 * x + 1)}
    result = run(Dense(1, 1), line, prepare=None, optimizer=optax.sgd(0.3), epochs=20, loss=squared)
    assert result.records[-1]["test_loss"] < 1e-4 and "test_accuracy" not in result.records[-1]
    np.testing.assert_allclose(result.model(x[:1]), [[-2.0]], atol=0.05)


def test_one_hot_and_soft_labels_train_as_classes_do() -> None:
    one_hot = np.eye(4, dtype=np.float32)[TRAIN.y]
    classes = run(Dense(), {"train": TRAIN}, metrics={"accuracy": train.accuracy})
    shares = run(Dense(), {"train": (TRAIN.x, one_hot)}, metrics={"accuracy": train.accuracy})
    np.testing.assert_allclose(kernel(shares), kernel(classes), rtol=1e-4, atol=1e-6)
    assert [r["train_epoch_accuracy"] for r in shares.records if "train_epoch_loss" in r] == [
        r["train_epoch_accuracy"] for r in classes.records if "train_epoch_loss" in r
    ]


def test_label_smoothing_against_numpy() -> None:
    draw = np.random.default_rng(0)
    logits, y = draw.normal(size=(6, 4)).astype(np.float32), np.array([0, 1, 2, 3, 0, 1], np.int32)
    log_shares = np.log(metrics.softmax(logits))
    wanted = 0.9 * np.eye(4)[y] + 0.1 / 4
    expected = -(wanted * log_shares).sum(1).mean()
    for labels in (y, np.eye(4, dtype=np.float32)[y]):
        found = train.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), label_smoothing=0.1)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_several_labels_an_image() -> None:
    """Whether the brightest quadrant is in the right half, and in the lower: two sigmoids."""
    y, y_test = (np.stack([one.y % 2, one.y // 2], 1).astype(np.float32) for one in (TRAIN, TEST))

    def loss(outputs: jax.Array, y: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(outputs, y).mean()

    examples = {"train": (TRAIN.x, y), "test": (TEST.x, y_test)}
    result = run(Dense(16, 2), examples, loss=loss, optimizer=optax.adam(0.05), epochs=6)
    assert ((result.outputs > 0) == y_test).mean() > 0.8


class Heads(nnx.Module):
    """Two outputs of two inputs, in dicts."""

    def __init__(self) -> None:
        self.kind, self.size = Dense(), Dense(16, 1)

    def __call__(self, x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"kind": self.kind(x["image"]), "size": self.size(x["image"]) + x["bias"]}


def test_inputs_outputs_and_labels_of_any_pytree() -> None:
    def of(one: train.Examples) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        bias = np.zeros((len(one), 1), np.float32)
        return {"image": one.x / np.float32(255), "bias": bias}, {"kind": one.y, "size": one.x.mean((1, 2, 3)) / 255}

    def loss(outputs: dict[str, jax.Array], y: dict[str, jax.Array]) -> Any:
        size = squared(outputs["size"][:, 0], y["size"])
        return train.cross_entropy(outputs["kind"], y["kind"]) + size, {"size": size}

    examples = {"train": of(TRAIN), "test": of(TEST)}
    result = run(Heads(), examples, prepare=None, loss=loss, optimizer=optax.sgd(0.1))
    assert result.outputs["kind"].shape == (37, 4) and result.outputs["size"].shape == (37, 1)
    expected = np.square(result.outputs["size"][:, 0] - examples["test"][1]["size"]).mean()
    assert result.records[-1]["test_size"] == pytest.approx(expected, rel=1e-4)


def test_top_k() -> None:
    outputs = jnp.array([[0.1, 0.5, 0.3, 0.1], [0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.3, 0.4]])
    y = jnp.array([2, 3, 1])
    assert [round(3 * float(train.top_k(k)(outputs, y))) for k in (1, 2, 3, 4, 9)] == [0, 1, 2, 3, 3]
    assert float(train.top_k(2)(outputs, jax.nn.one_hot(y, 4))) == pytest.approx(1 / 3)


class Pairs:
    """A source of (x, y), read one by one, as a `grain.MapDataset` is."""

    def __init__(self, examples: train.Examples) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.examples.x[index], self.examples.y[index]


def test_a_memmap_and_a_source_give_the_bits_of_the_arrays(tmp_path: Path) -> None:
    grain = pytest.importorskip("grain")
    mapped = np.memmap(tmp_path / "x", np.uint8, "w+", shape=TRAIN.x.shape)
    mapped[:] = TRAIN.x

    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        return x + 20 * jax.random.uniform(key, x.shape)

    keywords: dict[str, Any] = {"augment": augment, "validation": 20, "epochs": 1}
    plain = run(tiny.Tiny(rngs=nnx.Rngs(0)), {"train": TRAIN, "test": TEST}, tmp_path / "arrays", **keywords)
    for name, split, test in [
        ("memmap", (mapped, TRAIN.y), TEST),
        ("grain", grain.MapDataset.source(Pairs(TRAIN)), grain.MapDataset.source(Pairs(TEST))),
    ]:
        found = run(tiny.Tiny(rngs=nnx.Rngs(0)), {"train": split, "test": test}, str(tmp_path / name), **keywords)
        assert same_bits(tmp_path / name, tmp_path / "arrays"), name
        assert found.records == plain.records and "validation_loss" in found.records[-1]
        np.testing.assert_array_equal(found.outputs, plain.outputs)
    held = run(tiny.Tiny(rngs=nnx.Rngs(0)), {"train": (mapped, TRAIN.y)}, None, **keywords, stream="never")
    assert held.records[-1]["train_epoch_loss"] == plain.records[-1]["train_epoch_loss"]


def test_nothing_on_disk_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(Dense(), {"train": TRAIN, "test": None}, None, checkpoint_every=1, log_every=1)
    assert len([r for r in result.records if "train_loss" in r]) == 12
    assert not list(tmp_path.iterdir())


def test_held_out_as_data_holds_out(tmp_path: Path) -> None:
    """`validation=20` is the run whose validation set `data.hold_out` made."""
    dataset = data.Dataset("tiny", TRAIN.x, TRAIN.y, TEST.x, TEST.y, ("a", "b", "c", "d"))
    x, y, x_held, y_held = data.hold_out(dataset, 20, 3)
    option = run(Dense(), {"train": TRAIN}, validation=20)
    given = run(Dense(), {"train": (x, y), "validation": (x_held, y_held)})
    assert option.records == given.records and "validation_loss" in option.records[-1]


@pytest.mark.parametrize("mix", [data.mixup, data.cutmix])
def test_augmentation_of_images_and_labels(mix: Any) -> None:
    augment = functools.partial(mix, alpha=1.0, num_classes=4)
    result, again = (run(Dense(), {"train": TRAIN, "test": TEST}, augment=augment, epochs=1) for _ in range(2))
    assert "test_accuracy" in result.records[-1], "the test set is not mixed"
    assert not np.array_equal(kernel(result), kernel(run(Dense(), {"train": TRAIN}, epochs=1)))
    np.testing.assert_array_equal(kernel(result), kernel(again))


def saved(folder: Path, update: int) -> dict[str, np.ndarray]:
    return checkpoint.read(folder, update).arrays


def test_the_moving_average_over_the_saved_states(tmp_path: Path) -> None:
    result = run(Dense(), {"train": TRAIN, "test": TEST}, tmp_path, ema=0.7, checkpoint_every=1, keep=20)
    average = np.asarray(Dense().dense.kernel[...], np.float64)
    for update in range(1, 13):
        state = saved(tmp_path, update)
        average = 0.7 * average + 0.3 * state["params/dense/kernel"]
        np.testing.assert_allclose(state["average/dense/kernel"], average, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.model.dense.kernel[...], state["average/dense/kernel"])
    x = TEST.x.reshape(37, 16) / np.float32(255)
    logits = x @ state["average/dense/kernel"] + state["average/dense/bias"]
    np.testing.assert_allclose(result.outputs, logits, rtol=1e-4, atol=1e-5)


def test_options_against_plain_definitions(tmp_path: Path) -> None:
    """Accumulation, loss scaling and a matching transformation change nothing; freezing and decay what they say."""
    given = {"train": TRAIN}
    plain = run(Dense(), given, optimizer="momentum", learning_rate=0.1)
    for options in ({"accumulate": 4}, {"loss_scale": "dynamic"}, {"loss_scale": 8.0}):
        other = run(Dense(), given, optimizer="momentum", learning_rate=0.1, **options)
        np.testing.assert_allclose(kernel(other), kernel(plain), atol=1e-6, err_msg=str(options))
        assert [r["step"] for r in other.records] == [r["step"] for r in plain.records]
        assert other.records[-1]["train_epoch_loss"] == pytest.approx(plain.records[-1]["train_epoch_loss"], rel=1e-5)
    nesterov = run(Dense(), given, optimizer="momentum", learning_rate=0.1, nesterov=True)
    own = run(Dense(), given, optimizer=optax.sgd(0.1, momentum=0.9, nesterov=True))
    np.testing.assert_array_equal(kernel(nesterov), kernel(own))
    assert not np.array_equal(kernel(nesterov), kernel(plain))
    frozen = run(Dense(), given, freeze="kernel")
    np.testing.assert_array_equal(kernel(frozen), Dense().dense.kernel[...])
    assert np.asarray(frozen.state.params["dense"]["bias"]).any()
    warm = run(Dense(), given, warmup=3, learning_rate=0.4, log_every=1)
    rates = [r["learning_rate"] for r in warm.records if "learning_rate" in r]
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, *[0.4] * 9], rtol=1e-6)
    decays = {decay: run(Dense(), given, weight_decay=0.1, decay=decay, learning_rate=0.1, epochs=1, batch_size=96)
              for decay in ("all", "kernels")}  # fmt: skip
    np.testing.assert_array_equal(kernel(decays["all"]), kernel(decays["kernels"]))


# ---- an update of one's own ----


class Gan(nnx.Module):
    """Makes digits of noise, and tells them from real ones; called as the latter."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.generator = nnx.Sequential(nnx.Linear(8, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 64, rngs=rngs))
        self.critic = nnx.Sequential(nnx.Linear(64, 32, rngs=rngs), nnx.relu, nnx.Linear(32, 1, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.critic(x.reshape(len(x), -1))[:, 0]

    def make(self, noise: jax.Array) -> jax.Array:
        return nnx.sigmoid(self.generator(noise))


TWO = optax.partition(
    {"generator": optax.adam(2e-3), "critic": optax.sgd(0.1)},
    lambda params: {name: jax.tree.map(lambda _, name=name: name, tree) for name, tree in params.items()},
)


def make_gan_update(net: Any, optimizer: Any) -> Any:
    """Each half steps down its own loss, by its own optimiser."""

    def update(state: train.TrainState, x: jax.Array, y: jax.Array) -> Any:
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), state.step), (len(x), 8))

        def losses(params: Any) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(net.training, params, state.rest)
            made = model.make(noise)
            critic = jax.nn.softplus(-model(x)).mean() + jax.nn.softplus(model(jax.lax.stop_gradient(made))).mean()
            return jax.nn.softplus(-model(made)).mean(), critic

        values, back = jax.vjp(losses, state.params)
        (of_generator,), (of_critic,) = back((1.0, 0.0)), back((0.0, 1.0))
        grads = {"generator": of_generator["generator"], "critic": of_critic["critic"]}
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        after = state._replace(params=params, opt_state=opt_state, step=state.step + 1)
        return after, {"generator": values[0], "critic": values[1]}

    return update


@pytest.mark.thorough
def test_two_optimisers_in_the_same_loop_resume_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.digits()
    real = digits.train_images[:160].reshape(160, -1) / np.float32(255)
    examples = {"train": (real, real), "test": (real[:37], real[:37])}
    keywords = {
        "prepare": None, "optimizer": TWO, "make_update": make_gan_update, "epochs": 3, "checkpoint_every": 4,
        "loss": lambda outputs, y: jax.nn.softplus(-outputs).mean(), "metrics": {}, "log_every": 5,
    }  # fmt: skip
    assert real.shape[1] == 64
    whole = run(Gan(), examples, tmp_path / "whole", **keywords)
    first, last = whole.records[0], whole.records[-1]
    assert {"train_generator", "train_critic"} <= set(first) and last["train_epoch_critic"] < 1.38, "2 log 2: chance"
    assert "test_loss" in last
    with monkeypatch.context() as patch:
        interrupt_at(13, signal.SIGTERM, patch)
        cut = run(Gan(), examples, tmp_path / "cut", **keywords)
    assert not cut.finished and 13 <= cut.updates < 30
    run(Gan(), examples, tmp_path / "cut", **keywords)
    assert same_bits(tmp_path / "cut", tmp_path / "whole")
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("cut", "whole")]
    assert lines[0] == lines[1], "the means of the interval survive"
    before = jax.tree.leaves(train.split(Gan())[1]["generator"])
    after = jax.tree.leaves(whole.state.params["generator"])
    assert all((np.asarray(a) != np.asarray(b)).any() for a, b in zip(after, before, strict=True))


def test_a_metric_may_be_infinite_but_not_the_loss() -> None:
    result = run(Dense(), {"train": TRAIN}, epochs=1, metrics={"psnr": lambda outputs, y: jnp.float32(jnp.inf)})
    assert result.records[-1]["train_epoch_psnr"] == np.inf


def test_train_records_are_means_over_the_interval_and_the_epoch(tmp_path: Path) -> None:
    each = run(Dense(), {"train": TRAIN}, log_every=1)
    losses = [r["train_loss"] for r in each.records if "train_loss" in r]
    coarse = run(Dense(), {"train": TRAIN}, log_every=4)
    found = [(r["step"], r["train_loss"]) for r in coarse.records if "train_loss" in r]
    assert found == [(at, pytest.approx(np.mean(losses[at - 4 : at]), rel=1e-6)) for at in (4, 8, 12)]
    epochs = [(r["step"], r["train_epoch_loss"]) for r in coarse.records if "train_epoch_loss" in r]
    assert epochs == [(at, pytest.approx(np.mean(losses[at - 6 : at]), rel=1e-6)) for at in (6, 12)]


def test_a_run_shorter_than_an_interval_leaves_a_train_record() -> None:
    result = run(Dense(), {"train": TRAIN}, epochs=1, log_every=100)
    assert [set(r) for r in result.records] == [{"step", "epoch", "train_epoch_loss", "train_epoch_accuracy"}]


def test_a_cut_within_an_interval_leaves_the_same_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"train": TRAIN, "test": TEST}
    run(Dense(), given, tmp_path / "whole", log_every=5)
    with monkeypatch.context() as patch:
        interrupt_at(8, signal.SIGTERM, patch)
        cut = run(Dense(), given, tmp_path / "cut", log_every=5)
    assert 8 <= cut.updates < 10
    run(Dense(), given, tmp_path / "cut", log_every=5)
    assert (tmp_path / "cut/metrics.jsonl").read_text() == (tmp_path / "whole/metrics.jsonl").read_text()
