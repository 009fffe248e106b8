"""The flags that training scripts share, and the frame that every script runs in. Imported by experiments only."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import shlex
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from cnnjax.data import cache
from cnnjax.errors import UserError
from cnnjax.ops.conv import onednn
from cnnjax.train.optimizer import OPTIMIZERS, SCHEDULES
from cnnjax.train.options import Options

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # they belong to the script that asks for them, so that its --help shows them

DTYPES = ("float32", "bfloat16", "float16")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def define_training_flags(dataset: str = "digits") -> None:
    """Define the flags of every script that trains on images: those of the images, and those of every run."""
    flags.DEFINE_string(
        "dataset", dataset, "digits (embedded), or the TFDS name of a set of images: mnist, cifar10, ..."
    )
    flags.DEFINE_string("data_dir", None, "where TFDS keeps its data sets; by default TFDS's own place")
    flags.DEFINE_bool(
        "augment", None, "distort the training images: gray ones rotated, scaled, shifted; colour ones cropped, flipped"
    )
    define_run_flags()


def define_run_flags() -> None:
    """Define the flags of every run that trains. Where the default is none, the script's recipe decides."""
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
    """The flags' values, and for those not given the recipe's. Raises UserError where they do not go together."""
    names = [field.name for field in dataclasses.fields(Options) if field.name in FLAGS]
    given = {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}
    return Options(**{**recipe, **given})


def run(main: Callable[[list[str]], None]) -> None:
    """Run a script's ``main(arguments)``: what the user can mend ends in one sentence and exit code 1."""

    def guarded(argv: list[str]) -> int:
        if not FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)  # Orbax logs its steps, and each error that it raises as well
        # a saving thread's error is raised again, and reported, where the loop waits for the save
        threading.excepthook = lambda failed: logging.info("thread %s: %s", failed.thread, failed.exc_value)
        sys.unraisablehook = lambda failed: logging.info("%s: %s", failed.object, failed.exc_value)
        keep_compiled()
        keep_memory()
        try:
            main(argv[1:])
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except OSError as error:  # a full disk, a folder without permission
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror or error}.", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("interrupted: what was saved before is kept.", file=sys.stderr)
            return 130
        return 0

    app.run(guarded)


def keep_compiled() -> None:
    """Keep compiled code for the next start, in the cache folder, or where the user's own setting says."""
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache.directory() / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.monitoring.register_event_duration_secs_listener(keep_out_onednn())


def keep_out_onednn() -> Callable[..., None]:
    """A listener by which JAX does not try to keep what calls oneDNN.

    It could not: the length that it reads there is garbage, and glibc answers a request for so much memory by moving
    the thread to a heap of at most 64 MB.
    """
    shortest = jax.config.jax_persistent_cache_min_compile_time_secs  # type: ignore[attr-defined]
    calls_before = onednn.calls

    def lowered(event: str, duration: float, **_: Any) -> None:
        nonlocal calls_before
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":  # compiling comes next
            kept = shortest if onednn.calls == calls_before else math.inf
            jax.config.update("jax_persistent_cache_min_compile_time_secs", kept)
            calls_before = onednn.calls

    return lowered


def keep_memory() -> None:
    """Keep memory that an update gave back for the next one, instead of having Linux fill new pages with zeros.

    XLA allots an executable's temporaries anew at each call, and glibc returns each block above 32 MB to the system at
    once: a fifth of a CIFAR-10 update on two cores. The thread that dispatches also computes, as other threads' heaps
    end at 64 MB. Where the user has settings of malloc, all stays as it is.
    """
    if sys.platform != "linux" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has none
    if mallopt is not None:
        for parameter in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            mallopt(parameter, 2**31 - 1)


def no_arguments(arguments: list[str]) -> None:
    """Raise UserError where a script that takes flags alone was given something else."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: flags are written --name=value (see --help).")


def command_to_go_on(workdir: Path) -> str:
    """The command line that resumes this run."""
    command = [os.path.basename(sys.executable), *sys.argv]
    if FLAGS.workdir is None:
        command.append(f"--workdir={workdir}")
    return shlex.join(command)


def define_float(
    name: str, text: str, default: float | None = None, *, above: float = -math.inf, least: float = -math.inf
) -> None:
    """Define a flag for a finite number within a bound; absl's own bounds let inf and nan pass."""
    bound = f"above {above}" if above > -math.inf else f"at least {least}"
    flags.DEFINE_float(name, default, text)
    flags.register_validator(
        name,
        lambda value: value is None or (math.isfinite(value) and value > above and value >= least),
        f"must be a finite number, {bound}",
    )
