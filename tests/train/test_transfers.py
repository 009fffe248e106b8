"""What goes between host and devices while a run is under way, and whose memory an update takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import train
from cnnjax.train import devices, loop, optimizers, state, step, task
from tests.train import tiny

NOTHING = dict.fromkeys(("metrics", "prepare", "augment", "views", "before_epoch", "make_update"))


def started(data: Any) -> loop.Run:
    """A run of calls of two updates, twelve calls an epoch, after its first two calls, which compile."""
    model = tiny.Tiny(rngs=nnx.Rngs(0))
    options = {"batch_size": 4, "updates_per_call": 2, "log_every": 1, "optimizer": "momentum",
               "schedule": "cosine"}  # fmt: skip
    functions = {**NOTHING, "loss": train.cross_entropy, "prepare": tiny.scaled}
    run = loop.Run(model, task.make_task(model, {"train": data}, None, None, options, config=None, watch=None,
                                         **functions))  # fmt: skip
    run.clock = 0.0
    for _ in range(2):
        run.follow_up(run.make_updates())
    return run


class Transfers:
    """Notes shape and dtype of all that is sent to the devices by intent, and of all that is fetched from them.

    What is sent without intent, such as a NumPy array as the argument of a jitted function, is for the guard of JAX to
    refuse. On the CPU that guard lets everything be fetched, so this notes every way to do it.
    """

    def __init__(self, patch: pytest.MonkeyPatch):
        self.sent: list[tuple[Any, ...]] = []
        self.fetched: list[tuple[Any, ...]] = []
        self.rates: list[int] = []  # of these updates, computed on the host
        patch.setattr(devices, "on_host", lambda rate, done: self.rates.append(done) or 0.1)
        put, array_type = jax.device_put, type(jax.numpy.zeros(()))
        value = array_type._value

        def sending(tree: Any, *rest: Any) -> Any:
            self.note(self.sent, jax.tree.leaves(tree))
            return put(tree, *rest)

        def fetching(array: Any) -> Any:
            self.note(self.fetched, [array])
            return value.fget(array)

        patch.setattr(jax, "device_put", sending)
        patch.setattr(array_type, "_value", property(fetching))
        for name in ("asarray", "array"):  # on the CPU they read an array's memory where it lies
            patch.setattr(np, name, self.noted(getattr(np, name)))

    def noted(self, convert: Any) -> Any:
        def converting(x: Any, *rest: Any, **keywords: Any) -> Any:
            self.note(self.fetched, [x] if isinstance(x, jax.Array) else [])
            return convert(x, *rest, **keywords)

        return converting

    def note(self, to: list[tuple[Any, ...]], leaves: list[Any]) -> None:
        to += [(str(leaf.dtype), *leaf.shape) for leaf in leaves]


@contextlib.contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transfers]:
    """Notes what is transferred by intent, and refuses the rest."""
    with monkeypatch.context() as patch:
        transfers = Transfers(patch)
        with jax.transfer_guard("disallow"):
            yield transfers


def test_a_call_sends_indices_and_step_and_fetches_the_values_of_the_call_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = started(tiny.examples(96, 1))
    with watched(monkeypatch) as transfers:
        for _ in range(3):
            run.follow_up(run.make_updates())
            ((newest, _),) = run.pending
            assert newest == run.step - 2, "the newest call is not waited for"
    assert transfers.sent == [("int32",), ("int32", 2, 4)] * 3
    assert transfers.fetched == [("float32", 2)] * 2 * 3, "loss and accuracy of each update"
    assert transfers.rates == [2, 3, 4, 5, 6, 7]
    run.close()


def test_examples_that_are_read_on_the_host_are_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = tiny.examples(96, 1)
    run = started([(x[i], y[i]) for i in range(96)])
    run.feed._ahead[2].result()  # those of the next call are there
    with watched(monkeypatch) as transfers:
        for _ in range(3):
            run.follow_up(run.make_updates())
        run.feed._ahead[2].result()
        run.close()
    expected = [("int32",), ("int32", 2, 4), ("uint8", 2, 4, 4, 4, 1)] * 3
    assert sorted(transfers.sent) == sorted(expected)
    assert transfers.fetched == [("float32", 2)] * 2 * 3


def test_an_evaluation_fetches_the_values_of_each_batch_and_the_outputs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = started(tiny.examples(96, 1))
    test = tiny.examples(300, 2)
    run.evaluator.scores(run.state, test), run.evaluator.outputs(run.state, test)  # compile
    with watched(monkeypatch) as transfers:
        run.evaluator.scores(run.state, test)
        assert transfers.fetched == [("float32",)] * 2 * 2, "loss and accuracy, of 256 and of 44 examples"
        outputs, labels = run.evaluator.outputs(run.state, test)
        assert outputs.shape == (300, 4)
        np.testing.assert_array_equal(labels, test.y)
        assert transfers.fetched[4:] == [("float32", 256, 4), ("int32", 256)] * 2
    run.close()


def test_a_rate_is_computed_on_the_host() -> None:
    rate = optimizers.schedule("cosine", 0.1, 100)
    with jax.transfer_guard("disallow"):
        assert devices.on_host(rate, 50) == pytest.approx(0.05)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("count", [1, 2])
def test_an_update_takes_the_memory_of_the_state_before(platform: str, count: int) -> None:
    optimizer = optimizers.optimizer("momentum", 0.1)
    net, first = state.initial(tiny.Tiny(rngs=nnx.Rngs(0)), optimizer)
    x, y = jax.ShapeDtypeStruct((count, 8, 16), "float32"), jax.ShapeDtypeStruct((count, 8), "int32")
    update = step.make_train_step(train.make_update(net, optimizer))
    text = update.trace(first, x, y).lower(lowering_platforms=(platform,)).as_text()  # type: ignore[attr-defined]
    assert text.count("tf.aliasing_output") + text.count("jax.buffer_donor") == len(jax.tree.leaves(first))
