"""Training: `fit` for any net, loss, optimiser and data; below it a pure update, a jitted step, verified checkpoints."""

from cnnjax.train.checkpoint import restore
from cnnjax.train.examples import Examples
from cnnjax.train.loop import Result, fit
from cnnjax.train.losses import Loss, Metric, accuracy, cross_entropy, top_k
from cnnjax.train.metrics import add_pictures
from cnnjax.train.optimizers import max_norm
from cnnjax.train.options import Options
from cnnjax.train.state import TrainState, split
from cnnjax.train.state import load_state as load
from cnnjax.train.step import Augment, Prepare, Views, make_batches, make_predict, make_train_step
from cnnjax.train.task import BeforeEpoch
from cnnjax.train.update import Update, make_update
from cnnjax.train.watch import Watch

__all__ = [
    "Augment",
    "BeforeEpoch",
    "Examples",
    "Loss",
    "Metric",
    "Options",
    "Prepare",
    "Result",
    "TrainState",
    "Update",
    "Views",
    "Watch",
    "accuracy",
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
    "top_k",
]
