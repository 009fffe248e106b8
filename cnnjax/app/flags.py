"""Flags that the training scripts share."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from cnnjax.errors import UserError
from cnnjax.train.optimizers import OPTIMIZERS, SCHEDULES
from cnnjax.train.options import Options

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # they belong to the script that defines them, so that its --help shows them

DTYPES = ("float32", "bfloat16", "float16")


def define_training_flags(dataset: str = "digits") -> None:
    """Defines the flags of every script that trains on images.

    Those of `define_run_flags` are among them.
    """
    flags.DEFINE_string(
        "dataset", dataset, "digits (embedded), or the TFDS name of a set of images: mnist, cifar10, ..."
    )
    flags.DEFINE_string("data_dir", None, "where TFDS keeps its data sets; by default TFDS's own place")
    flags.DEFINE_bool(
        "augment", None, "distort the training images: gray ones rotated, scaled, shifted; colour ones cropped, flipped"
    )
    define_run_flags()


def define_run_flags() -> None:
    """Defines the flags of every script that trains.

    Where the default is None, the script's recipe decides.
    """
    flags.DEFINE_string(
        "workdir", None, "the run's folder, to start or to go on with; by default a new one under runs/"
    )
    flags.DEFINE_integer("epochs", None, "passes over the training examples", lower_bound=1)
    flags.DEFINE_integer("batch_size", None, "examples per update, over all devices", lower_bound=1)
    define_float("learning_rate", "the (peak) learning rate", above=0)
    flags.DEFINE_enum("optimizer", None, OPTIMIZERS, "the update rule; momentum is SGD with momentum 0.9")
    flags.DEFINE_enum("schedule", None, SCHEDULES, "the learning rate over the updates")
    define_float("weight_decay", "share of the weights added to the gradient (adamw: taken off them)", least=0)
    define_float("grad_clip", "largest global norm of the gradient; by default not clipped", above=0)
    flags.DEFINE_enum(
        "dtype", "float32", DTYPES, "of the computation; parameters, batch statistics and loss stay float32"
    )
    flags.DEFINE_integer("seed", 0, "decides every random number of the run", lower_bound=0, upper_bound=2**31 - 1)
    flags.DEFINE_integer(
        "validation", None, "training examples held out to choose the best checkpoint by", lower_bound=0
    )
    flags.DEFINE_integer(
        "patience", None, "stop after so many evaluations without a lower validation loss", lower_bound=1
    )
    flags.DEFINE_integer("eval_every", 1, "epochs between evaluations", lower_bound=1)
    flags.DEFINE_integer("checkpoint_every", None, "updates between checkpoints; mostly 500", lower_bound=1)
    flags.DEFINE_integer("log_every", None, "updates between records in metrics.jsonl; mostly 10", lower_bound=1)
    flags.DEFINE_integer("keep", 2, "how many of the last checkpoints to keep, beside the best", lower_bound=2)
    flags.DEFINE_bool("profile", False, "trace a few updates with jax.profiler into profile/ in the workdir")


def options(recipe: Mapping[str, Any]) -> Options:
    """Returns the flags' values, and the recipe's for flags not given.

    Raises UserError where they contradict each other.
    """
    names = [field.name for field in dataclasses.fields(Options) if field.name in FLAGS]
    given = {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}
    return Options(**{**recipe, **given})


def no_arguments(arguments: list[str]) -> None:
    """Raises UserError where a script that takes only flags was given other arguments."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: flags are written --name=value (see --help).")


def command_to_go_on(workdir: Path) -> str:
    """Returns the command line that resumes this run."""
    command = [os.path.basename(sys.executable), *sys.argv]
    if FLAGS.workdir is None:
        command.append(f"--workdir={workdir}")
    return shlex.join(command)


def define_float(
    name: str, text: str, default: float | None = None, *, above: float = -math.inf, least: float = -math.inf
) -> None:
    """Defines a flag for a finite number within bounds; absl's own bounds let inf and nan pass."""
    bound = f"above {above}" if above > -math.inf else f"at least {least}"
    flags.DEFINE_float(name, default, text)
    flags.register_validator(
        name,
        lambda value: value is None or (math.isfinite(value) and value > above and value >= least),
        f"must be a finite number, {bound}",
    )
