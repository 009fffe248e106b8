"""Training: a pure update, a jitted step, a loop that resumes to the bit."""

from cnnjax.train.averages import ema
from cnnjax.train.checkpoint import restore
from cnnjax.train.loop import BeforeEpoch, Examples, Result, fit
from cnnjax.train.loss_scale import loss_scale_of, scale_loss
from cnnjax.train.metrics import add_pictures
from cnnjax.train.optimizers import freeze, max_norm
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
    "ema",
    "fit",
    "freeze",
    "load",
    "loss_scale_of",
    "make_batches",
    "make_predict",
    "make_train_step",
    "make_update",
    "max_norm",
    "restore",
    "scale_loss",
    "split",
]
