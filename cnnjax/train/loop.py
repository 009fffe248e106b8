"""The training loop: resume, update, log, evaluate, save, stop."""

from __future__ import annotations

import collections
import contextlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from cnnjax.data import batches
from cnnjax.errors import UserError
from cnnjax.train import checkpoint, optimizer, step, workdir
from cnnjax.train.metrics import MetricsLog, Record, score
from cnnjax.train.options import Options
from cnnjax.train.state import TrainState, Tree, from_arrays, initial

TRACED_CALLS = 5


class Examples(NamedTuple):
    """images uint8 (N, H, W, C), or what else is learned from, as the ids of words, int32 (N, L); labels int32 (N,)."""

    images: np.ndarray
    labels: np.ndarray


class BeforeEpoch(NamedTuple):
    """What a run computes before each epoch: ``compute(params, x, labels)`` of some training examples.

    examples: how many, drawn anew for each epoch, without augmentation. compute gives ``state.extra``: what the
    optimiser's update takes by name. It is jitted.
    """

    examples: int
    compute: Callable[[Tree, jax.Array, jax.Array], dict[str, Tree]]


class Result(NamedTuple):
    """How a run stands when `fit` returns.

    state: the last one. records: what metrics.jsonl holds. logits: of the test set, (N, classes); None when a signal
    ended the run early. updates, seconds: made by this process, and the time that they and all between them took.
    """

    state: TrainState
    records: list[Record]
    logits: np.ndarray | None
    updates: int
    seconds: float


def fit(
    model: nnx.Module,
    train: Examples,
    test: Examples,
    validation: Examples | None,
    options: Options,
    folder: Path,
    config: dict[str, Any],
    *,
    prepare: step.Prepare,
    augment: step.Augment | None = None,
    views: step.Views | None = None,
    loss: step.Loss = step.cross_entropy,
    before_epoch: BeforeEpoch | None = None,
    constraint: optax.GradientTransformation | None = None,
) -> Result:
    """Train until the last epoch, going on from the newest sound checkpoint in `folder`.

    The caller holds `folder` by `workdir.claim`. `config`, what decides the numbers as JSON values, goes into
    ``config.json`` and every checkpoint, and must be that of the run that is gone on with. `prepare` turns float32
    pixels 0..255 (B, H, W, C), or examples that are no images as they are, into the model's input; `augment(key,
    pixels)` comes before it in training, and `views(pixels)` in evaluation: see `step.make_predict`.
    ``loss(logits, labels)`` is the mean over a batch, of what is trained; evaluations report it too. `constraint` is
    what the optimiser's updates go through at last, as `max_norm`. The model is read, not changed.

    Raises:
      UserError: another configuration than the run's, a batch that does not fit, a loss that is not finite, a save
        that failed, a checkpoint of another net, no sound checkpoint left.
    """
    run = Run(
        model, train, test, validation, options, folder, config, prepare, augment, views, loss, before_epoch, constraint
    )
    with contextlib.closing(run), catch_signals() as caught:
        return run.until_end(caught)


class Run:
    """One process's part of a run: the compiled steps, the state, and where they are written."""

    def __init__(self, model, train, test, validation, options, folder, config, prepare, augment, views, loss,
                 before_epoch, constraint):  # fmt: skip
        self.options, self.folder, self.config = options, folder, config
        self.train, self.splits = train, {"test": test}
        if validation is not None:
            self.splits["validation"] = validation
        self.mesh = step.data_mesh()
        if options.batch_size % self.mesh.size:
            raise UserError(
                f"--batch_size={options.batch_size} cannot be shared out over {self.mesh.size} devices: "
                f"give a multiple of {self.mesh.size}."
            )
        self.per_epoch = batches.steps_per_epoch(len(train.labels), options.batch_size)
        self.total = self.per_epoch * options.epochs
        self.rate = optimizer.schedule(options.schedule, options.learning_rate, self.total)
        rule = optimizer.optimizer(
            options.optimizer, self.rate, weight_decay=options.weight_decay, grad_clip=options.grad_clip
        )
        rule = rule if constraint is None else optax.chain(rule, constraint)
        net, state = initial(model, rule)
        self.images, self.labels = step.replicate(self.mesh, train)
        for line in workdir.settle_config(folder, config):
            print(f"warning: {line}: from here on the bits may differ from those of a run without it", file=sys.stderr)
        self.loss = loss
        self.train_step = step.make_train_step(step.make_update(net, rule, loss, options.seed))
        self.batches = step.make_batches(self.mesh, options.seed, prepare, augment)
        self.before_epoch = before_epoch and before_epoch._replace(compute=jax.jit(before_epoch.compute))
        self.plain_batches = step.make_batches(self.mesh, options.seed, prepare, None)
        state = self.with_extra(state, 0)
        self.predict = step.make_predict(net, self.mesh, prepare, views=views)
        self.state = step.replicate(self.mesh, self._resume(state))
        self.step = self.first = int(self.state.step)
        self.log = MetricsLog(folder, self.step)
        self.validation_losses = [r["validation_loss"] for r in self.log.records if "validation_loss" in r]
        self.checkpoints = checkpoint.Checkpoints(folder, options.keep)
        self.calls = 0
        self.pending: collections.deque[tuple[int, step.Metrics]] = collections.deque()

    def until_end(self, caught: list[signal.Signals]) -> Result:
        """Update until the last epoch is done, early stopping says enough, or a signal came."""
        images, labels = self.images, self.labels
        started = self.clock = time.perf_counter()
        with progress(self.total, self.first) as self.bar:
            while not self.finished() and not caught:
                epoch, within = divmod(self.step, self.per_epoch)
                if within == 0:
                    self.state = self.with_extra(self.state, epoch)
                count = group(self.step, self.options.updates_per_call, self.per_epoch)
                chosen = batches.indices(
                    self.options.seed, self.step, count, len(self.train.labels), self.options.batch_size
                )
                x, y = self.batches(images, labels, chosen, np.int32(self.step))
                self.state, metrics = self.train_step(self.state, x, y)
                self.pending.append((self.step, metrics))
                self.step += count
                self.trace()
                self.follow_up(count)
            self.drain()
            seconds = time.perf_counter() - started
        self.save()
        self.checkpoints.wait()
        logits = self.predict(self.state, self.splits["test"].images) if self.finished() else None
        return Result(self.state, self.log.records, logits, self.step - self.first, seconds)

    def with_extra(self, state: TrainState, epoch: int) -> TrainState:
        """The state with what is to be computed before an epoch; its bits follow from the parameters and the epoch."""
        if self.before_epoch is None:
            return state
        count, compute = self.before_epoch
        chosen = batches.sample(self.options.seed, epoch, len(self.train.labels), count)
        x, y = self.plain_batches(self.images, self.labels, chosen[None], np.int32(0))
        return state._replace(extra=compute(state.params, x[0], y[0]))

    def follow_up(self, count: int) -> None:
        """What falls due after a group of updates: records, evaluation, a checkpoint, in this order.

        A checkpoint N thus never lacks a record of a step up to N.
        """
        epoch, within = divmod(self.step, self.per_epoch)
        evaluating = within == 0 and (epoch % self.options.eval_every == 0 or self.step == self.total)
        saving = self.step % self.options.checkpoint_every < count  # the first end of a group at or after a multiple
        self.drain(behind=0 if evaluating or saving else 1)
        if evaluating:
            saving |= self.evaluate()
        if saving:
            self.save()

    def drain(self, behind: int = 0) -> None:
        """Fetch the metrics of all but the last `behind` groups; they are computed while the next group is sent."""
        while len(self.pending) > behind:
            first, metrics = self.pending.popleft()
            losses, accuracies = (np.asarray(metrics[name]) for name in ("loss", "accuracy"))
            for n, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), first + 1):
                self.record(n, float(loss), float(accuracy))
            self.bar.update(len(losses))

    def record(self, number: int, loss: float, accuracy: float) -> None:
        """Log update `number`, if it is due; stop the run if its loss is no number."""
        self.check_finite(f"the loss of update {number}", loss)
        if number % self.options.log_every == 0:
            values = {"train_loss": loss, "train_accuracy": accuracy, "learning_rate": float(self.rate(number - 1))}
            self.log.write(number, (number - 1) // self.per_epoch + 1, values)
            before, self.clock = self.clock, time.perf_counter()
            speed = self.options.log_every * self.options.batch_size / (self.clock - before)
            self.bar.set_postfix_str(
                f"loss {loss:.4f}, accuracy {accuracy:.1%}, {speed:,.0f} examples/s", refresh=False
            )

    def evaluate(self) -> bool:
        """Score every split once and record it; True if the validation loss is the lowest so far."""
        values = {}
        for name, split in self.splits.items():
            scores = score(self.predict(self.state, split.images), split.labels, self.loss)
            values.update({f"{name}_{what}": value for what, value in scores.items()})
            self.check_finite(f"the {name} loss after update {self.step}", scores["loss"])
        epoch = self.step // self.per_epoch
        self.log.write(self.step, epoch, values)
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        self.bar.write(f"epoch {epoch}, step {self.step}: {shown}", file=sys.stdout)
        if "validation" in self.splits:
            self.validation_losses.append(values["validation_loss"])
        return self.since_best() == 0

    def since_best(self) -> int | None:
        """How many evaluations ago the validation loss was lowest; None before the first one."""
        losses = self.validation_losses
        return len(losses) - 1 - int(np.argmin(losses)) if losses else None

    def finished(self) -> bool:
        """Whether the last epoch is done, or `patience` evaluations brought no lower validation loss."""
        patience, since = self.options.patience, self.since_best()
        return self.step >= self.total or (patience is not None and since is not None and since >= patience)

    def check_finite(self, what: str, loss: float) -> None:
        """Stop the run, its last checkpoint safe, if a loss is NaN or infinite."""
        if not math.isfinite(loss):
            self.checkpoints.wait()
            raise UserError(
                f"{what} became {loss}; {self.checkpoints.last_good()}. "
                "Start a new --workdir with a lower --learning_rate or with --grad_clip."
            )

    def save(self) -> None:
        """Start saving the state as it is, its records on disk first."""
        self.log.flush()
        recent = (r for r in self.log.records[-2:] if r["step"] == self.step and "validation_loss" in r)
        loss = next((r["validation_loss"] for r in recent), None)
        self.checkpoints.save(self.state, self.config, loss)

    def trace(self) -> None:
        """With ``--profile``, trace a few calls after the first, which compiles, into ``profile/``."""
        self.calls += 1
        if self.options.profile and self.calls in (1, 1 + TRACED_CALLS):
            jax.block_until_ready(self.state)
            if self.calls == 1:
                jax.profiler.start_trace(str(self.folder / "profile"))
            else:
                jax.profiler.stop_trace()

    def close(self) -> None:
        """Close the files, waiting for the save under way."""
        if self.options.profile and 1 <= self.calls <= TRACED_CALLS:
            jax.profiler.stop_trace()
        try:
            self.checkpoints.close()
        finally:
            self.log.close()

    def _resume(self, state: TrainState) -> TrainState:
        found = checkpoint.read_newest(self.folder)
        if found is None:
            return state
        for sentence in found.damaged:
            print(f"warning: {sentence}; it is set aside in {self.folder / 'damaged'}", file=sys.stderr)
        resumed = from_arrays(found.arrays, state)
        checkpoint.set_aside(self.folder, int(resumed.step))
        print(f"resuming after update {int(resumed.step)} of {self.total}")
        return resumed


def group(done: int, updates_per_call: int, per_epoch: int) -> int:
    """How many updates the next call makes: groups start at multiples of their size within an epoch and end with it.

    Where groups lie decides the bits, so it may depend on nothing but the configuration.
    """
    position = done % per_epoch
    return min(updates_per_call - position % updates_per_call, per_epoch - position)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[signal.Signals]]:
    """Collect SIGTERM and SIGINT instead of dying of them; a second SIGINT interrupts at once."""
    caught: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: Any) -> None:
        caught.append(signal.Signals(number))
        print(f"\n{caught[-1].name}: saving, then leaving (Ctrl-C again to leave at once)", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def progress(total: int, first: int) -> tqdm:
    """A bar of updates on standard error; in a log file a line every ten seconds."""
    return tqdm(
        total=total, initial=first, unit="step", dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 10
    )
