"""Training: `fit` for any net, loss, optimiser and data, and the parts it is made of."""

from cnnjax.train.at_once import fit_at_once
from cnnjax.train.averages import ema, lookahead
from cnnjax.train.checkpoint import restore
from cnnjax.train.examples import Examples
from cnnjax.train.fit import fit
from cnnjax.train.loss_scale import loss_scale_of, scale_loss
from cnnjax.train.losses import Loss, Metric, accuracy, cross_entropy, top_k
from cnnjax.train.metrics import add_pictures
from cnnjax.train.optimizers import freeze, max_norm
from cnnjax.train.options import Options
from cnnjax.train.result import Result
from cnnjax.train.state import GraphDefs, TrainState, apply_training, initial, split
from cnnjax.train.state import load_state as load
from cnnjax.train.step import Augment, Prepare, Views, make_batches, make_predict, make_train_step
from cnnjax.train.task import BeforeEpoch
from cnnjax.train.update import Update, make_update
from cnnjax.train.watch import Watch

__all__ = [
    "Augment",
    "BeforeEpoch",
    "Examples",
    "GraphDefs",
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
    "apply_training",
    "cross_entropy",
    "ema",
    "fit",
    "fit_at_once",
    "freeze",
    "initial",
    "load",
    "lookahead",
    "loss_scale_of",
    "make_batches",
    "make_predict",
    "make_train_step",
    "make_update",
    "max_norm",
    "restore",
    "scale_loss",
    "split",
    "top_k",
]
