"""Settings of a training run, as the flags give them and `config.json` stores them."""

from __future__ import annotations

import dataclasses

from cnnjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """Holds the settings of a training run.

    Attributes:
      epochs: passes over the training examples.
      batch_size: examples per update, over all devices.
      learning_rate: the (peak) learning rate.
      optimizer: a name of `train.optimizers.OPTIMIZERS`.
      schedule: a name of `train.optimizers.SCHEDULES`.
      weight_decay: see `train.optimizers.optimizer`.
      grad_clip: largest global norm of the gradient; `None` means no bound.
      augment: whether the training images are changed at random.
      dtype: of the computation; parameters, batch statistics and loss stay float32.
      seed: decides every random number of the run.
      validation: number of training examples held out to choose the best checkpoint by.
      patience: stop after so many evaluations without a lower validation loss; `None` means never.
      eval_every: epochs between evaluations.
      checkpoint_every: updates between checkpoints.
      log_every: updates between records in `metrics.jsonl`.
      keep: number of the last checkpoints to keep, beside the best.
      updates_per_call: updates in one compiled call; decides the bits.
      profile: whether to trace a few calls with `jax.profiler`.

    Raises:
      UserError: `patience` without `validation`.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str = "adamw"
    schedule: str = "constant"
    weight_decay: float = 0.0
    grad_clip: float | None = None
    augment: bool = False
    dtype: str = "float32"
    seed: int = 0
    validation: int = 0
    patience: int | None = None
    eval_every: int = 1
    checkpoint_every: int = 500
    log_every: int = 10
    keep: int = 2
    updates_per_call: int = 1
    profile: bool = False

    def __post_init__(self) -> None:
        if self.patience is not None and not self.validation:
            raise UserError("--patience needs --validation: early stopping never looks at the test set.")
