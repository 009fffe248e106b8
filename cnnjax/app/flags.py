"""Flags that the training scripts share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from absl import flags

from cnnjax.train.optimizers import DECAYS, OPTIMIZERS, SCHEDULES
from cnnjax.train.options import SHARD, STREAM

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # they belong to the script that defines them, so that its --help shows them

DTYPES = ("float32", "bfloat16", "float16")
METRICS = ("accuracy", "top5")
TEST_TIME = ("none", "mirror", "shift", "airbench")
FLIPS = ("random", "alternating")
LARGEST_SEED = 2**31 - 1


def define_training_flags(
    dataset: str = "digits", *, recipes: Sequence[str] = (), image_size: int | None = None, smallest: int = 1
) -> None:
    """Defines the flags of every script that trains on images.

    Those of `define_run_flags` are among them.

    Args:
      dataset: the default data set.
      recipes: names of the script's recipes; none where it has one alone.
      image_size: default of `--image_size`, for nets that take images of any size; 0 takes them as they are stored,
        None defines no such flag.
      smallest: least `--image_size`.
    """
    flags.DEFINE_string(
        "dataset",
        dataset,
        "digits (embedded), the TFDS name of a set of images (mnist, cifar10, ...), folder:DIR (DIR/train/CLASS/*.jpg "
        "and DIR/test or DIR/val, or DIR/CLASS/* with --test_share), or npz:FILE (x_train, y_train, x_test, y_test)",
    )
    flags.DEFINE_string("data_dir", None, "where TFDS keeps its data sets; by default TFDS's own place")
    define_stream_flags()
    define_float("test_share", "folder:, npz: without a test part: the share of the images to test on", above=0)
    flags.DEFINE_enum("channels", None, ["1", "3"], "make the images gray (1) or colour (3); by default as stored")
    if image_size is not None:
        text = "side of the images that the net sees" + ("" if image_size else "; by default as they are stored")
        flags.DEFINE_integer("image_size", image_size or None, text, lower_bound=smallest)
    define_augmentation_flags()
    flags.DEFINE_bool(
        "local_batch_norm", False, "batch norm by the statistics of each device's share of a batch, not of all of it"
    )
    flags.DEFINE_list("metric", None, f"scores of each evaluation, of {', '.join(METRICS)}; by default accuracy")
    flags.DEFINE_string(
        "init_from",
        None,
        "start from the parameters of a run's folder or of a weights file (safetensors, PyTorch); those that do not "
        "fit by name and shape are drawn afresh and listed",
    )
    flags.DEFINE_integer(
        "seeds", None, "make so many runs, of seeds seed, seed + 1, ..., in WORKDIR/seedN, and print their mean",
        lower_bound=1,
    )  # fmt: skip
    flags.DEFINE_bool(
        "at_once", False, "with --seeds: train all at the same time, dealt out over the devices, and those on one "
        "device as one program",
    )  # fmt: skip
    if recipes:
        flags.DEFINE_enum("recipe", None, list(recipes), "named settings; flags that are given go before them")
    define_run_flags()


def define_stream_flags() -> None:
    """Defines whether images are held in memory, and how they are read where they are not."""
    flags.DEFINE_enum(
        "stream", "auto", STREAM, "read and decode images when they are needed; by default where they do not fit in "
        "memory, and photographs that are cropped as they are read",
    )  # fmt: skip
    flags.DEFINE_integer("workers", None, "threads that read; by default one a core", lower_bound=1)
    flags.DEFINE_bool("skip_corrupt", False, "leave out images that cannot be decoded; by default they end the run")


def define_model_flags() -> None:
    """Defines which net, of ours or of one's own; see `settings.model_options`."""
    flags.DEFINE_string("model", None, "NAME, package.module:Class, or path/file.py:Class", required=True)
    flags.DEFINE_string("model_options", "{}", "keywords of the net, as JSON")


def define_augmentation_flags() -> None:
    """Defines what is done to the training images and labels at random, and to the test images."""
    flags.DEFINE_bool(
        "augment", None, "distort the training images: gray ones rotated, scaled, shifted; colour ones cropped, flipped"
    )
    flags.DEFINE_enum(
        "flip", "random", FLIPS, "how --augment mirrors: each image at random, or a random half of them in even epochs "
        "and the others in odd ones",
    )  # fmt: skip
    define_float("jitter", "strength, such as 0.4, by which brightness, contrast and saturation vary", above=0)
    flags.DEFINE_integer("cutout", None, "side of a square that is blanked in each training image", lower_bound=1)
    define_float("mixup", "blend pairs of training images and labels, by shares of a Beta(this, this)", above=0)
    define_float("cutmix", "paste rectangles between training images, labels in proportion; Beta(this, this)", above=0)
    define_float("label_smoothing", "share of each label that is spread over all classes", least=0, below=1)
    flags.DEFINE_enum("tta", "none", TEST_TIME, "evaluate by the mean over mirror images, or over shifted ones too; "
                      "airbench: weighted")  # fmt: skip


def define_run_flags() -> None:
    """Defines the flags of every script that trains.

    Where the default is None, the script's recipe decides.
    """
    flags.DEFINE_string(
        "workdir", None, "the run's folder, to start or to go on with; by default a new one under runs/"
    )
    define_float("epochs", "passes over the training examples, such as 10, or 9.9", above=0)
    flags.DEFINE_integer("batch_size", None, "examples per update, over all devices", lower_bound=1)
    define_optimizer_flags()
    flags.DEFINE_enum(
        "dtype", "float32", DTYPES, "of the computation; parameters, batch statistics and loss stay float32"
    )
    flags.DEFINE_integer("seed", 0, "decides every random number of the run", lower_bound=0, upper_bound=LARGEST_SEED)
    flags.DEFINE_bool(
        "deterministic", False, "on a GPU the same bits each time: no operation that adds in any order, and what is "
        "compiled is kept in WORKDIR/compiled; without use on the CPU, where the bits are the same anyway",
    )  # fmt: skip
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
    flags.DEFINE_integer(
        "updates_per_call", None, "updates in one compiled call; by default 1 on the CPU, more on accelerators",
        lower_bound=1,
    )  # fmt: skip
    define_process_flags()
    flags.DEFINE_enum(
        "shard", None, SHARD, "split parameters and optimiser's state over the devices, where they do not fit on each"
    )
    flags.DEFINE_bool("profile", False, "trace a few updates with jax.profiler into profile/ in the workdir")


def define_process_flags() -> None:
    """Defines how a process finds the others of its group, in the names of `jax.distributed.initialize`."""
    flags.DEFINE_string(
        "coordinator_address", None, "several processes: HOST:PORT, the machine of process 0 and a free port on it"
    )
    flags.DEFINE_integer("num_processes", None, "several processes: how many they are", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "several processes: which one this is, from 0", lower_bound=0)
    flags.DEFINE_bool(
        "distributed", False, "several processes that the cluster has started (TPU pod, Slurm, Kubernetes): ask it"
    )


def define_optimizer_flags() -> None:
    """Defines what an update does."""
    define_float("learning_rate", "the (peak) learning rate", above=0)
    flags.DEFINE_enum("optimizer", None, [*OPTIMIZERS], "the update rule; momentum is SGD with it")
    own = "; ".join(f"{name}: {', '.join(options)}" for name, options in OPTIMIZERS.items() if options)
    text = f"what else --optimizer takes, as JSON, such as '{{\"b2\": 0.99}}'. {own}"
    flags.DEFINE_string("optimizer_options", "{}", text)
    flags.DEFINE_enum("schedule", None, SCHEDULES, "the learning rate over the updates")
    flags.DEFINE_integer("warmup", None, "updates in which the rate rises from 0, before the schedule", lower_bound=0)
    define_float("weight_decay", "share of the weights added to the gradient (adamw: taken off them)", least=0)
    flags.DEFINE_enum("decay", None, DECAYS, "which parameters decay: all, or kernels (no biases, no norms)")
    flags.DEFINE_bool("nesterov", None, "momentum: Nesterov's")
    define_float("grad_clip", "largest global norm of the gradient; by default not clipped", above=0)
    flags.DEFINE_string("freeze", None, "regular expression: parameters whose path matches are not trained")
    flags.DEFINE_integer("accumulate", None, "parts in which each batch is computed, to save memory", lower_bound=1)
    flags.DEFINE_string("loss_scale", None, "float16: factor of the loss in the backward pass, or dynamic")
    flags.DEFINE_integer(
        "lookahead", None, "updates from one meeting of the weights with slow ones, which follow them, to the next",
        lower_bound=1,
    )  # fmt: skip
    define_float("ema", "decay of a moving average of the weights, which is evaluated and saved", least=0, below=1)


def define_float(
    name: str,
    text: str,
    default: float | None = None,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Defines a flag for a finite number within bounds; absl's own bounds let inf and nan pass."""
    bound = f"above {above:g}" if above > -math.inf else f"at least {least:g}"
    bound += f" and below {below:g}" if below < math.inf else ""
    flags.DEFINE_float(name, default, text)
    flags.register_validator(
        name,
        lambda value: value is None or (math.isfinite(value) and value > above and least <= value < below),
        f"must be a finite number, {bound}",
    )
