"""Training loop: resume, update, log, evaluate, save, stop."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from cnnjax.data import batches
from cnnjax.errors import UserError
from cnnjax.train import checkpoint, devices, optimizers, run_dir, step
from cnnjax.train.metrics import MetricsLog, Record, score
from cnnjax.train.options import Options
from cnnjax.train.state import TrainState, Tree, from_arrays, initial

TRACED_CALLS = 5  # calls of the train step that --profile records


class Examples(NamedTuple):
    """Holds the examples of one split.

    Attributes:
      images: uint8 `(N, H, W, C)`, or other inputs, such as word ids, int32 `(N, L)`.
      labels: int32 `(N,)`.
    """

    images: np.ndarray
    labels: np.ndarray


class BeforeEpoch(NamedTuple):
    """Says what a run computes before each epoch from some training examples.

    Attributes:
      examples: number of examples, drawn anew for each epoch, without augmentation.
      compute: `compute(params, x, labels)` returns `state.extra`, the extra arguments of the optimiser's update by
        name. It is jitted.
    """

    examples: int
    compute: Callable[[Tree, jax.Array, jax.Array], dict[str, Tree]]


class Result(NamedTuple):
    """Holds what `fit` returns.

    Attributes:
      state: the last state.
      records: those of `metrics.jsonl`.
      logits: of the test set, `(N, classes)`; `None` when a signal ended the run early.
      updates: number of updates made by this process.
      seconds: time from the first of them to the last, evaluations included.
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
    """Trains until the last epoch, resuming from the newest intact checkpoint in `folder`.

    The caller holds `folder` by `run_dir.claim`.

    Args:
      model: read, not changed.
      train: the training examples.
      test: scored at every evaluation, never selected on.
      validation: by its loss the best checkpoint is kept and `options.patience` stops; `None` for none.
      options: the settings.
      folder: the workdir.
      config: what decides the numbers, as JSON values. It goes into `config.json` and every checkpoint, and must be
        the same when a run is resumed.
      prepare: turns float32 pixels 0..255 `(B, H, W, C)`, or other examples as they are, into the model's input.
      augment: `augment(key, pixels)`, comes before `prepare` in training.
      views: `views(pixels)`, comes before `prepare` in evaluation: see `step.make_predict`.
      loss: `loss(logits, labels)`, the mean over a batch; it is trained on, and reported in evaluations.
      before_epoch: what to compute before each epoch.
      constraint: transformation of the optimiser's updates, applied last, such as `max_norm`.

    Returns:
      The last state, all records, and the test logits.

    Raises:
      UserError: another configuration than the run's, a batch that does not fit, a loss that is not finite, a save
        that failed, a checkpoint of another net, no intact checkpoint left.
    """
    task = Task(train, test, validation, options, folder, config, prepare, augment, views, loss, before_epoch,
                constraint)  # fmt: skip
    with contextlib.closing(Run(model, task)) as run, catch_signals() as caught:
        return run.until_end(caught)


@dataclasses.dataclass(frozen=True)
class Task:
    """Holds the arguments of `fit`, whose docstring says what each one means."""

    train: Examples
    test: Examples
    validation: Examples | None
    options: Options
    folder: Path
    config: dict[str, Any]
    prepare: step.Prepare
    augment: step.Augment | None
    views: step.Views | None
    loss: step.Loss
    before_epoch: BeforeEpoch | None
    constraint: optax.GradientTransformation | None


class Run:
    """Runs one process's part of a training: its compiled steps, state, log and checkpoints."""

    def __init__(self, model: nnx.Module, task: Task):
        options = task.options
        self.task, self.options, self.folder = task, options, task.folder
        self.splits = {"test": task.test} | ({} if task.validation is None else {"validation": task.validation})
        self.mesh = devices.data_mesh()
        if options.batch_size % self.mesh.size:
            raise UserError(
                f"--batch_size={options.batch_size} cannot be shared out over {self.mesh.size} devices: "
                f"give a multiple of {self.mesh.size}."
            )
        self.per_epoch = batches.steps_per_epoch(len(task.train.labels), options.batch_size)
        self.total = self.per_epoch * options.epochs
        self.rate = optimizers.schedule(options.schedule, options.learning_rate, self.total)
        optimizer = self._make_optimizer()
        net, state = initial(model, optimizer)
        self.images, self.labels = devices.replicate(self.mesh, task.train)
        for line in run_dir.settle_config(self.folder, task.config):
            print(f"warning: {line}: from here on the bits may differ from those of a run without it", file=sys.stderr)

        self.train_step = step.make_train_step(step.make_update(net, optimizer, task.loss, options.seed))
        self.batches = step.make_batches(self.mesh, options.seed, task.prepare, task.augment)
        self.plain_batches = step.make_batches(self.mesh, options.seed, task.prepare, None)
        self.before_epoch = task.before_epoch and task.before_epoch._replace(compute=jax.jit(task.before_epoch.compute))
        self.predict = step.make_predict(net, self.mesh, task.prepare, views=task.views)

        state = self.with_extra(state, 0)
        self.state = devices.replicate(self.mesh, self._resume(state))
        self.step = self.first = int(self.state.step)
        self.log = MetricsLog(self.folder, self.step)
        self.validation_losses = [r["validation_loss"] for r in self.log.records if "validation_loss" in r]
        self.checkpoints = checkpoint.Checkpoints(self.folder, options.keep)
        self.calls = 0
        self.pending: collections.deque[tuple[int, step.Metrics]] = collections.deque()

    def _make_optimizer(self) -> optax.GradientTransformationExtraArgs:
        options, constraint = self.options, self.task.constraint
        optimizer = optimizers.optimizer(
            options.optimizer, self.rate, weight_decay=options.weight_decay, grad_clip=options.grad_clip
        )
        return optimizer if constraint is None else optax.chain(optimizer, constraint)

    def _resume(self, state: TrainState) -> TrainState:
        """Returns the newest intact checkpoint; `state` where there is none.

        Moves damaged ones away.
        """
        found = checkpoint.read_newest(self.folder)
        if found is None:
            return state
        for sentence in found.damaged:
            print(f"warning: {sentence}; it is set aside in {self.folder / 'damaged'}", file=sys.stderr)
        resumed = from_arrays(found.arrays, state)
        checkpoint.set_aside(self.folder, int(resumed.step))
        print(f"resuming after update {int(resumed.step)} of {self.total}")
        return resumed

    def until_end(self, caught: list[signal.Signals]) -> Result:
        """Updates until the last epoch, early stopping or a signal."""
        started = self.clock = time.perf_counter()
        with progress(self.total, self.first) as self.bar:
            while not self.finished() and not caught:
                self.follow_up(self.make_updates())
            self.drain()
            seconds = time.perf_counter() - started
        self.save()
        self.checkpoints.wait()
        logits = self.predict(self.state, self.splits["test"].images) if self.finished() else None
        return Result(self.state, self.log.records, logits, self.step - self.first, seconds)

    def make_updates(self) -> int:
        """Makes the updates of one call and returns their number.

        Their metrics are fetched later.
        """
        epoch, within = divmod(self.step, self.per_epoch)
        if within == 0:
            self.state = self.with_extra(self.state, epoch)
        count = updates_in_call(self.step, self.options.updates_per_call, self.per_epoch)
        chosen = batches.indices(self.options.seed, self.step, count, len(self.labels), self.options.batch_size)
        x, y = self.batches(self.images, self.labels, chosen, np.int32(self.step))
        self.state, metrics = self.train_step(self.state, x, y)
        self.pending.append((self.step, metrics))
        self.step += count
        self.trace()
        return count

    def with_extra(self, state: TrainState, epoch: int) -> TrainState:
        """Returns the state with what is computed before an epoch.

        It is a function of the parameters and the epoch.
        """
        if self.before_epoch is None:
            return state
        count, compute = self.before_epoch
        chosen = batches.sample(self.options.seed, epoch, len(self.labels), count)
        x, y = self.plain_batches(self.images, self.labels, chosen[None], np.int32(0))
        return state._replace(extra=compute(state.params, x[0], y[0]))

    def follow_up(self, count: int) -> None:
        """Records, evaluates and saves, in this order, where due after `count` updates.

        Thus checkpoint N never lacks a record of a step up to N.
        """
        epoch, within = divmod(self.step, self.per_epoch)
        evaluating = within == 0 and (epoch % self.options.eval_every == 0 or self.step == self.total)
        saving = self.step % self.options.checkpoint_every < count  # the first call that ends at or after a multiple
        self.drain(behind=0 if evaluating or saving else 1)
        if evaluating:
            saving |= self.evaluate()
        if saving:
            self.save()

    def drain(self, behind: int = 0) -> None:
        """Fetches the metrics of all but the last `behind` calls.

        The devices compute those in the meantime.
        """
        while len(self.pending) > behind:
            first, metrics = self.pending.popleft()
            losses, accuracies = (np.asarray(metrics[name]) for name in ("loss", "accuracy"))
            for n, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), first + 1):
                self.record(n, float(loss), float(accuracy))
            self.bar.update(len(losses))

    def record(self, number: int, loss: float, accuracy: float) -> None:
        """Logs update `number`, if due; stops the run if its loss is not finite."""
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
        """Scores every split and records it; True if the validation loss is the lowest so far."""
        values = {}
        for name, split in self.splits.items():
            scores = score(self.predict(self.state, split.images), split.labels, self.task.loss)
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
        """Counts the evaluations since the lowest validation loss; None before the first one."""
        losses = self.validation_losses
        return len(losses) - 1 - int(np.argmin(losses)) if losses else None

    def finished(self) -> bool:
        """Returns True after the last epoch, or when early stopping says so.

        That is after `patience` evaluations without a lower validation loss.
        """
        patience, since = self.options.patience, self.since_best()
        return self.step >= self.total or (patience is not None and since is not None and since >= patience)

    def check_finite(self, what: str, loss: float) -> None:
        """Stops the run, its last checkpoint safe, if a loss is NaN or infinite."""
        if not math.isfinite(loss):
            self.checkpoints.wait()
            raise UserError(
                f"{what} became {loss}; {self.checkpoints.last_good()}. "
                "Start a new --workdir with a lower --learning_rate or with --grad_clip."
            )

    def save(self) -> None:
        """Starts to save the state, after its records are on disk."""
        self.log.flush()
        recent = (r for r in self.log.records[-2:] if r["step"] == self.step and "validation_loss" in r)
        loss = next((r["validation_loss"] for r in recent), None)
        self.checkpoints.save(self.state, self.task.config, loss)

    def trace(self) -> None:
        """With `--profile`, traces a few calls after the first, which compiles, into `profile/`."""
        self.calls += 1
        if self.options.profile and self.calls in (1, 1 + TRACED_CALLS):
            jax.block_until_ready(self.state)
            if self.calls == 1:
                jax.profiler.start_trace(str(self.folder / "profile"))
            else:
                jax.profiler.stop_trace()

    def close(self) -> None:
        """Closes the files, after the save under way."""
        if self.options.profile and 1 <= self.calls <= TRACED_CALLS:
            jax.profiler.stop_trace()
        try:
            self.checkpoints.close()
        finally:
            self.log.close()


def updates_in_call(done: int, updates_per_call: int, per_epoch: int) -> int:
    """Returns the number of updates in the next call, after `done` updates.

    Calls start at multiples of `updates_per_call` within an epoch and end with it. Their bounds decide the bits, so
    they depend on nothing but the configuration.
    """
    within = done % per_epoch
    return min(updates_per_call - within % updates_per_call, per_epoch - within)


@contextlib.contextmanager
def catch_signals() -> Iterator[list[signal.Signals]]:
    """Collects SIGTERM and SIGINT instead of ending the process.

    A second SIGINT interrupts at once.
    """
    caught: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: FrameType | None) -> None:
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
    """Returns a progress bar of updates on standard error.

    In a log file it is a line every ten seconds.
    """
    return tqdm(
        total=total, initial=first, unit="step", dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 10
    )
