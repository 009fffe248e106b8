"""Training loop: resume, update, log, evaluate, save, stop."""

from __future__ import annotations

import collections
import contextlib
import math
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import nnx

from cnnjax.data import batches
from cnnjax.errors import UserError
from cnnjax.train import checkpoint, devices, metrics, run_dir, step
from cnnjax.train.calls import updates_in_call
from cnnjax.train.evaluate import Evaluator
from cnnjax.train.examples import gather
from cnnjax.train.feed import DeviceFeed, Feed, HostFeed, fits_on_device
from cnnjax.train.losses import Loss, Metric, Scalars, cross_entropy
from cnnjax.train.metrics import Means, MetricsLog, Record
from cnnjax.train.signals import catch_signals
from cnnjax.train.state import TrainState, Tree, from_arrays, initial, load_state
from cnnjax.train.task import BeforeEpoch, MakeUpdate, Task, make_task
from cnnjax.train.update import make_update as own_update
from cnnjax.train.watch import Watch

TRACED_CALLS = 5
"""Calls of the train step that `profile` records."""


class Result(NamedTuple):
    """Holds what `fit` returns.

    Attributes:
      model: a copy of the net with the last parameters (their moving average, if one was kept), in evaluation mode.
      state: the last state.
      records: those of `metrics.jsonl`.
      outputs: of the test set, `(N, ...)` or a pytree of such; `None` without one, or where a signal ended the run.
      finished: whether the run came to its end: the last epoch, or early stopping.
      updates: number of updates made by this process.
      seconds: time from the first of them to the last, evaluations included.
    """

    model: nnx.Module
    state: TrainState
    records: list[Record]
    outputs: Tree
    finished: bool
    updates: int
    seconds: float


def fit(
    model: nnx.Module,
    data: Mapping[str, Any],
    workdir: str | Path | None,
    *,
    loss: Loss = cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
    optimizer: optax.GradientTransformation | str | None = None,
    prepare: step.Prepare | None = None,
    augment: step.Augment | None = None,
    views: step.Views | None = None,
    before_epoch: BeforeEpoch | None = None,
    config: Mapping[str, Any] | None = None,
    make_update: MakeUpdate | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Result:
    """Trains a net until the last epoch, resuming from the newest intact checkpoint in `workdir`.

    What decides the numbers is written into `config.json` at the start and compared at a resume: the options, shapes,
    dtypes and a checksum of the data, the names and the code of the functions. Going on with others is refused by name.

    Args:
      model: the net, called as `model(x)`; read, not changed.
      data: `{"train": (x, y), "validation": (x, y), "test": (x, y)}`, the last two if there are any: arrays or memmaps
        with one row an example, pytrees of such, or a `grain.MapDataset` of `(x, y)`. By the loss on the validation
        set the best checkpoint is kept and `patience` stops; the test set is scored, never selected on.
      workdir: the run's folder, new or to go on with; `None` leaves nothing on disk.
      loss: `loss(outputs, y)`: a scalar, the mean over a batch, or that and a dict of scalars to log.
      metrics: `metric(outputs, y)` by name, each a mean over a batch; the records have the means over all examples.
        `{}` for none; by default the accuracy where labels are classes.
      optimizer: any optax transformation, or a name of `train.optimizers.OPTIMIZERS`; then the options
        `learning_rate`, `schedule`, `warmup`, `weight_decay`, `decay`, `nesterov` and `grad_clip` count.
      prepare: `prepare(x)` turns a batch, uint8 made float32, into the model's input.
      augment: `augment(key, x)` or `augment(key, x, y) -> (x, y)`, comes before `prepare` in training.
      views: `views(x)`, comes before `prepare` in evaluation: turns `(B, ...)` into V views `(V, B, ...)`, over which
        the outputs are averaged (logits as probabilities).
      before_epoch: what to compute before each epoch.
      config: further JSON values for `config.json`, such as what `models.build` needs to build the net again.
      make_update: `make_update(net, optimizer)` returns an update of your own, see `train.make_update`; `loss` and
        `metrics` then serve in evaluations alone.
      watch: is told what happens; by default the logger `cnnjax`.
      **options: the fields of `train.Options`: `epochs`, `batch_size`, `learning_rate`, `seed`, ...

    Returns:
      The trained net, the last state, all records, and the outputs of the test set.

    Raises:
      UserError: an argument is not what it must be, other settings than the run's, a batch that does not fit, a loss
        that is not finite, a save that failed, a checkpoint of another net, no intact checkpoint left.

    Example:
      >>> import numpy as np, optax
      >>> from flax import nnx
      >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
      >>> result = fit(
      ...     nnx.Linear(1, 1, rngs=nnx.Rngs(0)), {"train": (x, 3 * x)}, None, optimizer=optax.sgd(0.5), epochs=20,
      ...     batch_size=64, loss=lambda outputs, y: ((outputs - y) ** 2).mean(),
      ... )
      >>> round(float(result.model(x[:1])[0, 0]), 1)
      -3.0
    """
    task = make_task(
        model, data, workdir, optimizer, options, config=config, watch=watch, loss=loss, metrics=metrics,
        prepare=prepare, augment=augment, views=views, before_epoch=before_epoch, make_update=make_update,
    )  # fmt: skip
    holding = contextlib.nullcontext() if task.folder is None else run_dir.claim(task.folder)
    with catch_signals(task.watch.stopping) as caught, holding, contextlib.closing(Run(model, task)) as run:
        return run.until_end(caught)


class Run:
    """Runs one process's part of a training: its compiled steps, state, log and checkpoints."""

    def __init__(self, model: nnx.Module, task: Task):
        options = task.options
        self.model, self.task, self.options, self.folder, self.watch = model, task, options, task.folder, task.watch
        self.mesh = devices.data_mesh()
        if options.batch_size // options.accumulate % self.mesh.size:
            raise UserError(
                f"`batch_size={options.batch_size}` cannot be shared out over {self.mesh.size} devices"
                f"{f' in {options.accumulate} parts' if options.accumulate > 1 else ''}: "
                f"give a multiple of {self.mesh.size * options.accumulate}."
            )
        self.per_epoch, self.total = task.per_epoch, task.total
        net, state = initial(model, task.optimizer, average=options.ema is not None)
        if self.folder is not None:
            for line in run_dir.settle_config(self.folder, task.config):
                self.watch.warn(f"{line}: from here on the bits may differ from those of a run without it")

        self.train_step = step.make_train_step(self._make_update(net))
        self.feed = self._make_feed()
        plain = step.make_batches(self.mesh, options.seed, task.prepare, None)
        self.before_epoch = task.before_epoch and task.before_epoch._replace(compute=jax.jit(task.before_epoch.compute))
        self.plain_batches = plain
        self.evaluator = Evaluator(net, self.mesh, task.prepare, task.views, task.loss, task.metrics,
                                   probabilities=task.probabilities)  # fmt: skip

        self.interval, self.epoch_means = Means(), Means()
        state = self.with_extra(state, 0)
        self.state = devices.replicate(self.mesh, self._resume(state))
        self.step = self.first = int(self.state.step)
        self.log = MetricsLog(self.folder, self.step)
        self.validation_losses = [r["validation_loss"] for r in self.log.records if "validation_loss" in r]
        self.checkpoints: checkpoint.Checkpoints | None = None
        if self.folder is not None:
            validated = "validation" in task.splits
            self.checkpoints = checkpoint.Checkpoints(self.folder, options.keep, validated=validated)
        self.calls = 0
        self.pending: collections.deque[tuple[int, Scalars]] = collections.deque()

    def _make_update(self, net: Any) -> Any:
        task, options = self.task, self.options
        if task.make_update is not None:
            return task.make_update(net, task.optimizer)
        return own_update(
            net, task.optimizer, task.loss, options.seed, metrics=task.metrics, accumulate=options.accumulate,
            ema=options.ema,
        )  # fmt: skip

    def _make_feed(self) -> Feed:
        task, options = self.task, self.options
        make = step.make_batches(self.mesh, options.seed, task.prepare, task.augment)
        training = task.splits["train"]
        if fits_on_device(training):
            return DeviceFeed(training, self.mesh, make, options.seed, options.batch_size)  # type: ignore[arg-type]
        return HostFeed(training, self.mesh, make, options.seed, options.batch_size, self._updates_from)

    def _updates_from(self, done: int) -> int:
        """Returns the number of updates in the call after `done`; 0 at the end of the run."""
        return 0 if done >= self.total else updates_in_call(done, self.task.updates_per_call, self.per_epoch)

    def _resume(self, state: TrainState) -> TrainState:
        """Returns the newest intact checkpoint; `state` where there is none.

        Moves damaged ones away.
        """
        found = None if self.folder is None else checkpoint.read_newest(self.folder)
        if found is None or self.folder is None:
            return state
        for sentence in found.damaged:
            self.watch.warn(f"{sentence}; it is set aside in {self.folder / 'damaged'}")
        resumed = from_arrays(found.arrays, state)
        checkpoint.set_aside(self.folder, int(resumed.step))
        self.interval, self.epoch_means = (Means(found.means.get(name, {})) for name in ("interval", "epoch"))
        return resumed

    def until_end(self, caught: list[signal.Signals]) -> Result:
        """Updates until the last epoch, early stopping or a signal."""
        started = self.clock = time.perf_counter()
        self.watch.begin(self.first, self.total)
        try:
            while not self.finished() and not caught:
                self.follow_up(self.make_updates())
            self.drain()
        finally:
            self.watch.end()
        seconds = time.perf_counter() - started
        self.save()
        if self.checkpoints is not None:
            self.checkpoints.wait()
        finished = self.finished()
        scored = finished and "test" in self.task.splits
        outputs = self.evaluator.outputs(self.state, self.task.splits["test"]) if scored else None
        if finished and self.folder is not None and self.first < self.step and self.log.records:
            self.log.flush()
            metrics.add_hyperparameters(self.folder, self.task.config, self.log.records[-1])
        state = jax.tree.map(np.asarray, self.state)
        model = load_state(self.model, state.evaluated(), state.rest)
        return Result(model, self.state, self.log.records, outputs, finished, self.step - self.first, seconds)

    def make_updates(self) -> int:
        """Makes the updates of one call and returns their number.

        Their values are fetched later.
        """
        epoch, within = divmod(self.step, self.per_epoch)
        if within == 0:
            self.state = self.with_extra(self.state, epoch)
        count = updates_in_call(self.step, self.task.updates_per_call, self.per_epoch)
        self.state, values = self.train_step(self.state, *self.feed(self.step, count))
        for value in values.values():
            value.copy_to_host_async()
        self.pending.append((self.step, values))
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
        training = self.task.splits["train"]
        examples = gather(training, batches.sample(self.options.seed, epoch, len(training), count))
        every = np.arange(len(examples), dtype=np.int32)[None]
        arguments = devices.replicate(self.mesh, (examples.x, examples.y, every, np.int32(0)))
        x, y = jax.tree.map(lambda leaf: leaf[0], self.plain_batches(*arguments))
        return state._replace(extra=compute(state.params, x, y))

    def follow_up(self, count: int) -> None:
        """Records, evaluates and saves, in this order, where due after `count` updates.

        Thus checkpoint N never lacks a record of a step up to N.
        """
        ending = self.step % self.per_epoch == 0
        saving = self.step % self.options.checkpoint_every < count  # the first call that ends at or after a multiple
        self.drain(behind=0 if ending or saving else 1)
        if ending:
            saving |= self.end_epoch()
        if saving:
            self.save()

    def drain(self, behind: int = 0) -> None:
        """Fetches the values of all but the last `behind` calls.

        The devices compute those in the meantime.
        """
        while len(self.pending) > behind:
            first, values = self.pending.popleft()
            names = sorted(values, key=lambda name: name != "loss")  # jit sorts them by name
            fetched = jax.device_get(values)
            for n in range(len(fetched[names[0]])):
                self.record(first + n + 1, {name: float(fetched[name][n]) for name in names})

    def record(self, number: int, values: Mapping[str, float]) -> None:
        """Takes the values of update `number` and logs their means, if due; stops where one is not finite."""
        for name in ["loss"] if "loss" in values else values:  # a metric may be infinite, as the PSNR of equal images
            self.check_finite(f"the {name} of update {number}", values[name])
        self.interval.add(values)
        self.epoch_means.add(values)
        if number % self.options.log_every:
            self.watch.update(1, {}, None)
            return
        means = {f"train_{name}": value for name, value in self.interval.take().items()}
        if self.task.rate is not None:
            means["learning_rate"] = devices.on_host(self.task.rate, number - 1)
        self.log.write(number, (number - 1) // self.per_epoch + 1, means)
        before, self.clock = self.clock, time.perf_counter()
        speed = self.options.log_every * self.options.batch_size / (self.clock - before)
        self.watch.update(1, means, speed)

    def end_epoch(self) -> bool:
        """Records the means of the epoch, and scores every split where due; True if the best so far by validation."""
        epoch = self.step // self.per_epoch
        means = {f"train_epoch_{name}": value for name, value in self.epoch_means.take().items()}
        scores: dict[str, float] = {}
        others = {name: split for name, split in self.task.splits.items() if name != "train"}
        evaluating = epoch % self.options.eval_every == 0 or self.step == self.total
        for name, split in others.items() if evaluating else ():
            found = self.evaluator.scores(self.state, split)
            self.check_finite(f"the {name} loss after update {self.step}", found["loss"])
            scores |= {f"{name}_{what}": value for what, value in found.items()}
        self.log.write(self.step, epoch, {**means, **scores})
        self.watch.evaluated(epoch, self.step, {**means, **scores})
        if "validation_loss" in scores:
            self.validation_losses.append(scores["validation_loss"])
        return evaluating and self.since_best() == 0

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

    def check_finite(self, what: str, value: float) -> None:
        """Stops the run, its last checkpoint safe, if a value is NaN or infinite."""
        if math.isfinite(value):
            return
        kept = "nothing was saved"
        if self.checkpoints is not None:
            self.checkpoints.wait()
            kept = self.checkpoints.last_good()
        raise UserError(
            f"{what} became {value}; {kept}. Start a new `workdir` with a lower `learning_rate` or with `grad_clip`."
        )

    def save(self) -> None:
        """Starts to save the state, after its records are on disk."""
        if self.checkpoints is None:
            return
        self.log.flush()
        recent = (r for r in self.log.records[-2:] if r["step"] == self.step and "validation_loss" in r)
        loss = next((r["validation_loss"] for r in recent), None)
        means = {"interval": self.interval.to_json(), "epoch": self.epoch_means.to_json()}
        self.checkpoints.save(self.state, self.task.config, loss, means)

    def trace(self) -> None:
        """With `profile`, traces a few calls after the first, which compiles, into `profile/`."""
        self.calls += 1
        if self.options.profile and self.folder is not None and self.calls in (1, 1 + TRACED_CALLS):
            jax.block_until_ready(self.state)
            if self.calls == 1:
                jax.profiler.start_trace(str(self.folder / "profile"))
            else:
                jax.profiler.stop_trace()

    def close(self) -> None:
        """Closes the files, after the save under way."""
        if self.options.profile and self.folder is not None and 1 <= self.calls <= TRACED_CALLS:
            jax.profiler.stop_trace()
        self.feed.close()
        try:
            if self.checkpoints is not None:
                self.checkpoints.close()
        finally:
            self.log.close()
