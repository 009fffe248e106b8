"""Random layers in training: what they draw is a function of (seed, step), and nothing of it is carried."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import data, layers, train
from cnnjax.data import rng
from cnnjax.train import checkpoint, devices, optimizers, state, step
from tests.train import tiny
from tests.train.tiny import OPTIONS, arrays, interrupt_at, same_bits


class Masked(nnx.Module):
    """Two dropouts of the same input, each times its own weights: their gradients show what was drawn."""

    def __init__(self) -> None:
        self.first, self.second = (nnx.Dropout(0.5, rngs=nnx.Rngs(0)) for _ in range(2))
        self.w = nnx.Param(jnp.zeros((2, 64)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return (self.first(x) * self.w[0] + self.second(x) * self.w[1]).sum(1)


def drawn(number: int, seed: int) -> np.ndarray:
    """The factors (2, 64), 0 or 2, by which the dropouts of `Masked` take their input in update `number`."""
    rule = optimizers.optimizer("sgd", 1.0)
    net, first = state.initial(Masked(), rule)
    update = jax.jit(train.make_update(net, rule, lambda logits, labels: -logits.sum(), seed))
    x = np.ones((1, 64), np.float32)
    return np.asarray(update(first._replace(step=jnp.int32(number)), x, np.zeros(1, np.float32))[0].params["w"])


def test_what_is_dropped_is_a_function_of_seed_step_and_layer() -> None:
    masks = drawn(0, 0)
    assert set(masks.ravel()) == {0.0, 2.0} and 40 < (masks == 0).sum() < 88
    assert (masks[0] != masks[1]).any(), "the two layers draw the same"
    np.testing.assert_array_equal(drawn(0, 0), masks)
    assert (drawn(1, 0) != masks).any() and (drawn(0, 1) != masks).any()


def test_the_keys_are_those_that_are_documented() -> None:
    key = rng.key(3, rng.DROPOUT, 7)
    for number, mask in enumerate(drawn(7, 3)):
        own = jax.random.fold_in(jax.random.fold_in(key, number), 0)  # the first draw of the layer's stream
        np.testing.assert_array_equal(mask, 2.0 * jax.random.bernoulli(own, 0.5, (1, 64))[0])


class Dropping(tiny.Tiny):
    """`tiny.Tiny` that loses half of its pixels in training."""

    def __init__(self) -> None:
        super().__init__(rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(self.dropout(x))


@pytest.mark.thorough
def test_a_run_with_dropout_that_was_cut_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, epochs=3, updates_per_call=4)  # of 6 updates an epoch: groups of 4 and 2
    whole = tiny.fit(tmp_path / "whole", options, Dropping())
    with monkeypatch.context() as patch:
        interrupt_at(8, signal.SIGTERM, patch)
        cut = tiny.fit(tmp_path / "cut", options, Dropping())
    assert 8 <= cut.updates < whole.updates
    tiny.fit(tmp_path / "cut", options, Dropping())
    assert same_bits(tmp_path / "cut", tmp_path / "whole")


def test_a_checkpoint_holds_no_keys(tmp_path: Path) -> None:
    tiny.fit(tmp_path / "dropping", replace(OPTIONS, epochs=1), Dropping())
    tiny.fit(tmp_path / "plain", replace(OPTIONS, epochs=1))
    assert arrays(tmp_path / "dropping").keys() == arrays(tmp_path / "plain").keys()
    state_there, _ = checkpoint.restore(tmp_path / "dropping")
    model = state.load_state(Dropping(), state_there["params"], state_there["rest"])
    x = jnp.ones((2, 16))
    np.testing.assert_array_equal(model(x), model(x))


def test_evaluation_drops_nothing() -> None:
    model, plain = Dropping(), tiny.Tiny(rngs=nnx.Rngs(0))
    net, first = state.initial(model, optimizers.optimizer("sgd", 0.1))
    images = tiny.examples(37, 2).x
    predict = step.make_predict(net, devices.data_mesh(), lambda pixels: pixels / 255, batch_size=10)
    plain.eval()
    expected = np.asarray(plain(jnp.asarray(images, jnp.float32) / 255))
    np.testing.assert_allclose(predict(first, images), expected, rtol=1e-5, atol=1e-6)


class Pooling(nnx.Module):
    """A random pooling of 4x4 images, and a dense layer."""

    def __init__(self, kind: str) -> None:
        self.pool: nnx.Module
        if kind == "stochastic":
            self.pool = layers.StochasticPool(2, rngs=nnx.Rngs(0))
        else:  # steps of 3/2: the second of three places is drawn
            self.pool = layers.FractionalMaxPool(1, output_size=3, rngs=nnx.Rngs(0))
        self.dense = nnx.Linear(4 if kind == "stochastic" else 9, 4, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dense(self.pool(x).reshape(len(x), -1))


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["stochastic", "fractional"])
def test_random_pools_train_and_are_evaluated_alike_each_time(kind: str, tmp_path: Path) -> None:
    result = tiny.fit(tmp_path, replace(OPTIONS, epochs=6), Pooling(kind))
    losses = [r["train_loss"] for r in result.records if "train_loss" in r]
    assert np.mean(losses[-6:]) < 0.8 * np.mean(losses[:6])
    net, *_ = state.split(Pooling(kind))
    images = tiny.examples(37, 2).x
    predict = step.make_predict(net, devices.data_mesh(), lambda pixels: pixels / 255, batch_size=256)
    np.testing.assert_array_equal(predict(result.state, images), result.outputs)
    rule = optimizers.optimizer("sgd", 0.0)  # the parameters stay: only the draws differ from update to update
    net, first = state.initial(Pooling(kind), rule)
    update = jax.jit(train.make_update(net, rule))
    x = images.astype(np.float32) / 255
    second, one = update(first, x, tiny.examples(37, 2).y)
    _, other = update(second, x, tiny.examples(37, 2).y)
    assert float(one["loss"]) != float(other["loss"])


def test_a_net_without_random_layers_draws_nothing() -> None:
    def program(model: nnx.Module) -> str:
        rule = optimizers.optimizer("sgd", 0.1)
        net, first = state.initial(model, rule)
        arguments = (first, jnp.ones((2, 4, 4, 1)), jnp.zeros(2, jnp.int32))
        return str(jax.make_jaxpr(train.make_update(net, rule))(*arguments))

    assert "random_" in program(Dropping())
    assert "random_" not in program(tiny.Tiny(rngs=nnx.Rngs(0)))


def test_a_vmapped_stack_of_random_layers_has_a_key_each() -> None:
    class Stack(nnx.Module):
        def __init__(self) -> None:
            @nnx.split_rngs(splits=3)
            @nnx.vmap
            def three(rngs: nnx.Rngs) -> nnx.Dropout:
                return nnx.Dropout(0.5, rngs=rngs)

            self.three = three(nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return nnx.vmap(lambda layer, x: layer(x), in_axes=(0, None))(self.three, x)

    net, params, rest = state.split(Stack())
    masks, _ = state.apply_training(net, params, rest, jnp.ones((64,)), jax.random.key(0))
    assert len({mask.tobytes() for mask in np.asarray(masks)}) == 3


def test_a_missing_key_is_named() -> None:
    net, params, rest = state.split(Dropping())
    with pytest.raises(ValueError, match="key must be a random key, was None: the net has random layers"):
        state.apply_training(net, params, rest, jnp.ones((2, 16)))


def told(key: jax.Array, x: jax.Array, *, info: data.BatchInfo) -> jax.Array:
    """Which example each is, and in which epoch it is seen."""
    return jnp.stack([info.numbers, jnp.full_like(info.numbers, info.epoch)], axis=1).astype(jnp.float32)


def test_an_augmentation_may_ask_which_examples_it_gets_and_when() -> None:
    make = step.make_batches(devices.data_mesh(), 3, None, told, updates_per_epoch=4)
    x, chosen = jnp.zeros((10, 1)), jnp.array([[1, 5], [7, 2]], jnp.int32)
    expected = [[[1, 0], [5, 0]], [[7, 1], [2, 1]]]  # the updates 3 and 4
    assert make(x, x, chosen, jnp.int32(3))[0].tolist() == expected
    assert make(x[chosen], x[chosen], None, jnp.int32(3), chosen)[0].tolist() == expected


@pytest.mark.thorough
def test_it_is_told_the_same_of_examples_that_are_read(tmp_path: Path) -> None:
    def moved(key: jax.Array, x: jax.Array, *, info: data.BatchInfo) -> jax.Array:
        return x + (info.numbers + 10 * info.epoch).astype(jnp.float32)[:, None, None, None]

    for stream in ("never", "always"):
        tiny.fit(tmp_path / stream, replace(OPTIONS, stream=stream, epochs=2), augment=moved)
    tiny.fit(tmp_path / "plain", replace(OPTIONS, epochs=2))
    assert same_bits(tmp_path / "never", tmp_path / "always")
    assert not same_bits(tmp_path / "never", tmp_path / "plain")


@pytest.mark.thorough
@pytest.mark.parametrize("updates_per_call", [1, 4])
def test_a_fraction_of_an_epoch_with_lookahead_resumes(
    updates_per_call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six updates an epoch, fifteen in all: the run ends within an epoch, at the slow weights."""
    options = replace(OPTIONS, epochs=2.5, lookahead=4, updates_per_call=updates_per_call)
    tiny.fit(tmp_path / "whole", options)
    interrupt_at(9, signal.SIGTERM, monkeypatch)
    assert not tiny.fit(tmp_path / "cut", options).finished
    monkeypatch.undo()
    result = tiny.fit(tmp_path / "cut", options)
    assert result.finished and int(result.state.step) == 15
    assert result.records[-1]["epoch"] == 3 and "test_loss" in result.records[-1]
    assert same_bits(tmp_path / "whole", tmp_path / "cut")
    slow, fast = result.state.slow, (result.state.params, result.state.rest)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(slow), jax.tree.leaves(fast), strict=True))
