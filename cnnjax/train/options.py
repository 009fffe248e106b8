"""Settings of a training run, as keywords of `fit` and in `config.json`."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any

from cnnjax.errors import UserError
from cnnjax.train.optimizers import DECAYS, OPTIMIZERS, SCHEDULES

STREAM = ("auto", "always", "never")
SHARD = ("params",)
MOST_WORKERS = 32
"""More threads would wait for the interpreter's lock."""
#: Settings of a named optimiser; an optax transformation of one's own has its own.
OF_THE_OPTIMIZER = ("optimizer", "optimizer_options", "learning_rate", "schedule", "warmup", "weight_decay", "decay",
                    "nesterov", "grad_clip")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """Holds the settings of a training run.

    Attributes:
      epochs: passes over the training examples; the last one may be a part of one, as in 9.9.
      batch_size: examples per update, over all devices.
      learning_rate: the (peak) learning rate.
      optimizer: a name of `train.optimizers.OPTIMIZERS`.
      optimizer_options: values of its own options that differ from those there, such as `{"b2": 0.99}` for Adam.
      schedule: a name of `train.optimizers.SCHEDULES`.
      warmup: updates over which the learning rate rises linearly from 0, in front of the schedule.
      weight_decay: see `train.optimizers.optimizer`.
      decay: `"all"`: weight decay acts on all parameters; `"kernels"`: on those of two or more dimensions, which
        spares biases and norms.
      nesterov: whether the momentum is Nesterov's; for `momentum` alone.
      grad_clip: largest global norm of the gradient; `None` means no bound.
      freeze: regular expression; parameters whose path matches keep their values. `None` freezes none.
      accumulate: parts of equal size into which a batch is split, one after the other, to save memory. Their gradients
        are averaged: the update is that of the whole batch, but for batch norm, whose statistics are of each part.
      loss_scale: factor of the loss in the backward pass, for float16; `"dynamic"` adapts it; `None` means 1.
      ema: decay of a moving average of the parameters, `a <- ema a + (1 - ema) w` after each update, which is evaluated
        and saved beside them; `None` means no average.
      lookahead: updates between those at which the parameters and the other state go back to slow ones, which follow
        them, see `train.lookahead`; `None` for none.
      seed: decides every random number of the run.
      validation: number of training examples held out to choose the best checkpoint by.
      patience: stop after so many evaluations without a lower validation loss; `None` means never.
      eval_every: epochs between evaluations.
      checkpoint_every: updates between checkpoints.
      log_every: updates between records in `metrics.jsonl`.
      keep: number of the last checkpoints to keep, beside the best.
      updates_per_call: updates in one compiled call; decides the bits. `None`: as many as the run in the workdir
        has, else 1 on the CPU and more on accelerators, see `train.calls.default_updates_per_call`.
      profile: whether to trace a few calls with `jax.profiler`.
      stream: whether training examples are read on the host as they are needed (`"always"`), kept on the devices
        (`"never"`), or kept there if they are arrays that fit (`"auto"`).
      workers: threads that read a source, in each process; `None`: one a core, at most `MOST_WORKERS`.
      skip_corrupt: whether an example that raises `data.CorruptExample` is replaced by the next one that does not, and
        left out of scores; else it ends the run.
      shard: `"params"`: parameters and optimiser's state are split over the devices; `None`: each holds them all.

    Raises:
      UserError: a value is not what it must be, or two contradict each other.
    """

    epochs: float = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    optimizer: str = "adamw"
    optimizer_options: Mapping[str, float] = dataclasses.field(default_factory=dict)
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.0
    decay: str = "all"
    nesterov: bool = False
    grad_clip: float | None = None
    freeze: str | None = None
    accumulate: int = 1
    loss_scale: float | str | None = None
    ema: float | None = None
    lookahead: int | None = None
    seed: int = 0
    validation: int = 0
    patience: int | None = None
    eval_every: int = 1
    checkpoint_every: int = 500
    log_every: int = 10
    keep: int = 2
    updates_per_call: int | None = None
    profile: bool = False
    stream: str = "auto"
    workers: int | None = None
    skip_corrupt: bool = False
    shard: str | None = None

    def __post_init__(self) -> None:
        self._check_number("epochs", above=0)
        if self.epochs == int(self.epochs):
            object.__setattr__(self, "epochs", int(self.epochs))
        for name in ("batch_size", "accumulate", "eval_every", "checkpoint_every", "log_every"):
            self._check_int(name, least=1)
        for name in ("warmup", "seed", "validation"):
            self._check_int(name, least=0)
        if self.seed >= 2**32:
            raise UserError(
                f"`seed={self.seed}` must be below 2**32: of larger ones a random key takes the lower bits."
            )
        self._check_int("keep", least=2)
        for name in ("lookahead", "patience", "updates_per_call", "workers"):
            if getattr(self, name) is not None:
                self._check_int(name, least=1)
        self._check_number("learning_rate", above=0)
        self._check_number("weight_decay", least=0)
        if self.grad_clip is not None:
            self._check_number("grad_clip", above=0)
        if self.loss_scale not in (None, "dynamic"):
            self._check_number("loss_scale", least=1)
        if not isinstance(self.freeze, str | None):
            raise UserError(f"`freeze={self.freeze}` must be a regular expression as str, or None.")
        if self.ema is not None:
            self._check_number("ema", least=0)
            if self.ema >= 1:
                raise UserError(f"`ema={self.ema}` must be below 1, such as 0.999.")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("decay", DECAYS)):
            if getattr(self, name) not in known:
                raise UserError(f"`{name}={getattr(self, name)}` must be one of {', '.join(known)}.")
        if not isinstance(self.optimizer_options, Mapping):
            raise UserError(f"`optimizer_options={self.optimizer_options}` must be a dict, such as {{'b2': 0.99}}.")
        object.__setattr__(self, "optimizer_options", dict(self.optimizer_options))
        for name, choices in (("stream", STREAM), ("shard", (None, *SHARD))):
            if getattr(self, name) not in choices:
                raise UserError(f"`{name}={getattr(self, name)}` must be one of {', '.join(map(str, choices))}.")
        for name in ("nesterov", "profile", "skip_corrupt"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"`{name}={getattr(self, name)!r}` must be True or False.")
        if self.batch_size % self.accumulate:
            raise UserError(
                f"`batch_size={self.batch_size}` cannot be split into `accumulate={self.accumulate}` equal parts: "
                f"give a multiple of {self.accumulate}."
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Returns the options of these keywords.

        Raises:
          UserError: names an unknown one, and the known ones like it.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=2)
                advice = f"did you mean {' or '.join(close)}?" if close else f"it must be one of {', '.join(known)}."
                raise UserError(f"{name!r} is no option of a training run: {advice}")
        return cls(**given)

    def _check_int(self, name: str, *, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
            raise UserError(f"`{name}={value}` must be an int of at least {least}.")
        object.__setattr__(self, name, int(value))  # NumPy's ints are no JSON

    def _check_number(self, name: str, *, above: float = -math.inf, least: float = -math.inf) -> None:
        value = getattr(self, name)
        bound = f"above {above:g}" if above > -math.inf else f"of at least {least:g}"
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number > above and number >= least):
            raise UserError(f"`{name}={value}` must be a finite number {bound}.")
        object.__setattr__(self, name, number)
