"""Training loop: resume, update, log, evaluate, save, stop."""

from __future__ import annotations

import collections
import math
import signal
import time
from collections.abc import Mapping

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from cnnjax.data import batches
from cnnjax.errors import UserError
from cnnjax.train import checkpoint, devices, metrics, run_dir, step
from cnnjax.train.calls import updates_in_call
from cnnjax.train.clock import Clock
from cnnjax.train.evaluate import Evaluator
from cnnjax.train.examples import Examples, gather, is_read_one_by_one
from cnnjax.train.feed import DeviceFeed, Feed, HostFeed, fits_on_device
from cnnjax.train.losses import Scalars
from cnnjax.train.metrics import Means, MetricsLog
from cnnjax.train.reading import Skipped, read_examples
from cnnjax.train.result import Result
from cnnjax.train.state import TrainState, Tree, from_arrays, initial, load_state
from cnnjax.train.task import BeforeEpoch, Task
from cnnjax.train.update import Update
from cnnjax.train.update import make_update as own_update
from cnnjax.train.watch import Warnings

TRACED_CALLS = 5
"""Calls of the train step that `profile` records."""


class Run:
    """Runs one process's part of a training: its compiled steps, state, log and checkpoints.

    Each process makes the same calls in the same order, or they would wait for one another for ever: what decides what
    comes next is computed from what all of them have. The main one alone writes, but for the parts of checkpoints.
    """

    def __init__(self, model: nnx.Module, task: Task, *, mesh: Mesh | None = None, like: Run | None = None):
        """Prepares a run on the devices of `mesh`, by default all; `like` is one there whose data it may share."""
        options = task.options
        self.model, self.task, self.options, self.folder = model, task, options, task.folder
        self.watch = task.watch if devices.is_main() else Warnings(task.watch)
        self.skipped = Skipped() if options.skip_corrupt else None
        self.mesh = mesh or devices.data_mesh()
        if options.batch_size // options.accumulate % self.mesh.size:
            raise UserError(
                f"`batch_size={options.batch_size}` cannot be shared out over {self.mesh.size} devices"
                f"{f' in {options.accumulate} parts' if options.accumulate > 1 else ''}: "
                f"give a multiple of {self.mesh.size * options.accumulate}."
            )
        self.per_epoch, self.total = task.per_epoch, task.total
        average, slow = options.ema is not None, options.lookahead is not None
        self.net, state = initial(model, task.optimizer, average=average, lookahead=slow)
        self._settle_config()
        self.feed = self._make_feed(like)
        self.plain_batches = step.make_batches(self.mesh, options.seed, task.prepare, None)
        self.before_epoch = self._jit_before_epoch()
        self.evaluator: Evaluator = like.evaluator if like and self.skipped is None else self._make_evaluator()

        for name, split in task.splits.items():
            if name != "train":
                self.evaluator.check(state, name, split)

        self.interval, self.epoch_means = Means(), Means()
        state = self._resume(self.with_extra(self._place(state)[0], 0))
        self.state, shardings = self._place(state)
        self.watch.placed(*devices.bytes_of(self.state))
        self.train_step = step.make_train_step(self.update_of(options.seed), shardings=shardings)
        self.step = self.first = int(state.step)
        self.log = MetricsLog(self.folder, self.step, writes=devices.is_main())
        self.validation_losses = [r["validation_loss"] for r in self.log.records if "validation_loss" in r]
        self.checkpoints: checkpoint.Checkpoints | None = None
        if self.folder is not None:
            validated = "validation" in task.splits
            self.checkpoints = checkpoint.Checkpoints(self.folder, options.keep, validated=validated)
        self.tested: tuple[Tree, Tree] | None = None
        self.calls = 0
        self.pending: collections.deque[tuple[int, Scalars]] = collections.deque()

    def update_of(self, seed: int | jax.Array) -> Update:
        """Returns the update of this run, or of one like it with another seed, see `rng.root`."""
        task, options = self.task, self.options
        if task.make_update is not None:
            return task.make_update(self.net, task.optimizer)
        return own_update(
            self.net, task.optimizer, task.loss, seed, metrics=task.metrics, accumulate=options.accumulate,
            ema=options.ema, lookahead_every=options.lookahead, total=self.total,
            gather=self._gather if options.shard == "params" else None,
        )  # fmt: skip

    def _place(self, state: TrainState) -> tuple[TrainState, TrainState]:
        """Returns the state on the devices of this run, and its shardings."""
        shardings = devices.state_shardings(self.mesh, state, shard=self.options.shard == "params")
        return devices.place(state, shardings), shardings

    def _gather(self, params: Tree) -> Tree:
        return devices.gather(self.mesh, params)

    def _jit_before_epoch(self) -> BeforeEpoch | None:
        """Returns what is computed before an epoch, jitted, from parameters that may be sharded."""
        if self.task.before_epoch is None:
            return None
        count, compute = self.task.before_epoch
        jitted = jax.jit(lambda params, x, y: devices.gather(self.mesh, compute(self._gather(params), x, y)))
        return BeforeEpoch(count, jitted)

    def _settle_config(self) -> None:
        """Writes the configuration, or refuses to go on with another one; the main process first."""
        if self.folder is None:
            return
        for turn in (True, False):
            if turn == devices.is_main():
                for line in run_dir.settle_config(self.folder, self.task.config, writes=turn):
                    self.watch.warn(f"{line}: from here on the bits may differ from those of a run without it")
            devices.wait_for_all("the same settings")

    def _make_evaluator(self) -> Evaluator:
        task = self.task
        return Evaluator(self.net, self.mesh, task.prepare, task.views, task.loss, task.metrics,
                         probabilities=task.probabilities, workers=task.workers, skipped=self.skipped)  # fmt: skip

    def _make_feed(self, like: Run | None) -> Feed:
        task, options = self.task, self.options
        make = step.make_batches(self.mesh, options.seed, task.prepare, task.augment, self.per_epoch)
        training = task.splits["train"]
        if options.stream == "never" or (options.stream == "auto" and fits_on_device(training)):
            there = like.feed if like and isinstance(like.feed, DeviceFeed) else None
            held = training if isinstance(training, Examples) else gather(training, np.arange(len(training)))
            return DeviceFeed(held, self.mesh, make, options.seed, options.batch_size, there)
        return HostFeed(
            training, self.mesh, make, options.seed, options.batch_size, next_call=self._updates_from,
            total=self.total, workers=task.workers, skipped=self.skipped,
            numbered=task.augment is not None and step.takes_info(task.augment),
        )  # fmt: skip

    def _updates_from(self, done: int) -> int:
        """Returns the number of updates in the call after `done`; 0 at the end of the run."""
        if done >= self.total:
            return 0
        return updates_in_call(done, self.task.updates_per_call, self.per_epoch, self.total)

    def _resume(self, state: TrainState) -> TrainState:
        """Returns the newest intact checkpoint; `state` where there is none.

        Moves damaged ones away.
        """
        if self.folder is None:
            return state
        found = checkpoint.read_newest(self.folder)
        newest = None if found is None else int(found.arrays["step"])
        devices.wait_for_all(f"checkpoint {newest} as the newest")
        if found is None:
            return state
        for sentence in found.damaged:
            self.watch.warn(f"{sentence}; it is set aside in {self.folder / 'damaged'}")
        resumed = from_arrays(found.arrays, state)
        if devices.is_main():
            checkpoint.set_aside(self.folder, int(resumed.step))
        devices.wait_for_all("damaged checkpoints set aside")
        self.interval, self.epoch_means = (Means(found.means.get(name, {})) for name in ("interval", "epoch"))
        return resumed

    def until_end(self, caught: list[signal.Signals]) -> Result:
        """Updates until the last epoch, early stopping or a signal."""
        self.begin()
        try:
            with Clock() as clock:
                while not self.finished() and not self.told_to_stop(caught):
                    self.follow_up(self.make_updates())
                self.drain()
        finally:
            self.watch.end()
        return self.result(clock)

    def begin(self) -> None:
        """Starts the clock, and says so."""
        self.clock = time.perf_counter()
        self.watch.begin(self.first, self.total)

    def result(self, clock: Clock) -> Result:
        """Saves, scores the test set where the run is at its end, and returns what `fit` returns."""
        self.save()
        if self.checkpoints is not None:
            self.checkpoints.wait()
        finished = self.finished()
        scored = finished and "test" in self.task.splits
        if scored and self.tested is None:
            self.tested = self.evaluator.outputs(self.state, self.task.splits["test"])
        outputs, labels = self.tested or (None, None)
        self.report_skipped(at_end=True)
        if finished and self.folder is not None and self.first < self.step and self.log.records and devices.is_main():
            self.log.flush()
            metrics.add_hyperparameters(self.folder, self.task.config, self.log.records[-1])
        state = devices.to_host(self.state)
        model = load_state(self.model, state.evaluated(), state.rest)
        return Result(model, self.state, self.log.records, outputs, finished, self.step - self.first, clock.seconds,
                      labels, clock.compile_seconds)  # fmt: skip

    def told_to_stop(self, caught: list[signal.Signals]) -> bool:
        """Returns True where a signal came: with several processes, to any one, and at the same call in all of them."""
        if jax.process_count() == 1:
            return bool(caught)
        stopping = multihost_utils.reached_preemption_sync_point(self.calls)
        if stopping:
            self.watch.stopping("SIGTERM")
        return stopping

    def report_skipped(self, *, at_end: bool = False) -> None:
        """Warns of examples that could not be read since the last time, and says how many there were in all."""
        if self.skipped is None:
            return
        for sentence in self.skipped.take_new():
            self.watch.warn(f"skipped: {sentence}")
        if at_end and (count := len(self.skipped)):
            self.watch.warn(f"{count} corrupt example{'s were' if count > 1 else ' was'} skipped")

    def make_updates(self) -> int:
        """Makes the updates of one call and returns their number.

        Their values are fetched later.
        """
        x, y = self.next_batches()
        return self.take(*self.train_step(self.state, x, y))

    def next_batches(self) -> tuple[Tree, Tree]:
        """Returns the batches of the next call, `(K, B, ...)`; at the start of an epoch, computes what comes before."""
        epoch, within = divmod(self.step, self.per_epoch)
        if within == 0:
            self.state = self.with_extra(self.state, epoch)
        return self.feed(self.step, self._updates_from(self.step))

    def take(self, state: TrainState, values: Scalars) -> int:
        """Takes the state and the values, `(K,)`, that a call returned; returns K."""
        self.state, count = state, self._updates_from(self.step)
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
        numbers = batches.sample(self.options.seed, epoch, len(training), count)
        if is_read_one_by_one(training):
            examples = read_examples(training, numbers, self.skipped)
        else:
            examples = gather(training, numbers)
        each = jax.tree.map(lambda leaf: leaf[None], examples)
        x, y, first = devices.replicate(self.mesh, (each.x, each.y, np.int32(0)))
        x, y = jax.tree.map(lambda leaf: leaf[0], self.plain_batches(x, y, None, first))
        return state._replace(extra=compute(state.params, x, y))

    def follow_up(self, count: int) -> None:
        """Records, evaluates and saves, in this order, where due after `count` updates.

        Thus checkpoint N never lacks a record of a step up to N.
        """
        self.report_skipped()
        ending = self.step % self.per_epoch == 0 or self.step == self.total
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
            for n in range(self._updates_from(first)):
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
        epoch = -(-self.step // self.per_epoch)
        means = {f"train_epoch_{name}": value for name, value in self.epoch_means.take().items()}
        scores: dict[str, float] = {}
        others = {name: split for name, split in self.task.splits.items() if name != "train"}
        evaluating = epoch % self.options.eval_every == 0 or self.step == self.total
        for name, split in others.items() if evaluating else ():
            if name == "test" and self.step == self.total:  # the result has these outputs
                found, self.tested = self.evaluator.scores_and_outputs(self.state, split)
            else:
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
