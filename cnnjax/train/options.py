"""The settings of a training run, as the flags give them and ``config.json`` keeps them."""

from __future__ import annotations

import dataclasses

from cnnjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Options:
    """See ``cnnjax/flags.py`` for what each one means; None for an interval or a bound means never or none."""

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
