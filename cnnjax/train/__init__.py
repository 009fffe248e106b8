"""Training: a pure update, a jitted step, a loop that resumes to the bit."""

from cnnjax.train.checkpoint import restore
from cnnjax.train.loop import BeforeEpoch, Examples, Result, fit
from cnnjax.train.metrics import add_pictures
from cnnjax.train.optimizers import max_norm
from cnnjax.train.options import Options
from cnnjax.train.state import TrainState, split
from cnnjax.train.state import load_state as load
from cnnjax.train.step import (
    Augment,
    Loss,
    Prepare,
    Views,
    cross_entropy,
    make_batches,
    make_predict,
    make_train_step,
    make_update,
)

__all__ = [
    "Augment",
    "BeforeEpoch",
    "Examples",
    "Loss",
    "Options",
    "Prepare",
    "Result",
    "TrainState",
    "Views",
    "add_pictures",
    "cross_entropy",
    "fit",
    "load",
    "make_batches",
    "make_predict",
    "make_train_step",
    "make_update",
    "max_norm",
    "restore",
    "split",
]
