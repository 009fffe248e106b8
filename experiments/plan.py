"""Plan a training run before a machine is rented: what a step of a net needs and takes there, compiled here.

  python experiments/plan.py --target=tpu:v5e:2x2 --model=resnet18 --batch_size=1024 --dtype=bfloat16
  python experiments/plan.py --target=gpu:h100,gpu:h100:8,tpu:v5e --model=my_nets.py:Small --image_size=64
  python experiments/plan.py --target=gpu:a100:8 --model=vgg --batch_size=2048 --accumulate=4 --optimizer=momentum
  python experiments/plan.py --target=tpu:v5e:2x4,gpu:h100:8 --model=resnet50 --batch_size=1024 --optimizer=momentum

TARGET is tpu:KIND or tpu:KIND:TOPOLOGY (v4, v5e, v5p, v6e), gpu:KIND or gpu:KIND:NUMBER (a100, h100, h200, b200).
Needs no such machine and no data set, but the compiler: pip install -e '.[aot]' for TPUs, '.[cuda]' for GPUs.
Compiling takes seconds for a GPU (a ResNet-50: one minute), and about a minute for a TPU (a ResNet-50: seven).

The program is the very one that train.py would run: the same update, donated and sharded. Memory, operations, kernels
and collectives are read off it. The seconds are bounds by published peaks, which no run undercuts and few come near;
on a TPU the estimate of XLA's own model stands beside them. What a run keeps beside the step (a data set on the
device, batches on their way) comes on top of the memory. Layers are bounded one by one, as if all that each reads and
writes went through the memory, though a TPU keeps small batches on the chip.

Prints one report a target and a table of all, and leaves plan.json and plan.png in --out.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from cnnjax.app import compile_only, garbage, interruptions

    interruptions.install()
    garbage.pause()
    compile_only.install()

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags

from cnnjax import inspect, models, plan, report
from cnnjax.app import flags as shared
from cnnjax.app import process, settings
from cnnjax.app.experiment import split_batch_norm
from cnnjax.errors import UserError
from cnnjax.plan import text
from cnnjax.plan.largest import MOST_OF_A_DEVICE
from cnnjax.train import optimizers, run_dir

FLAGS = flags.FLAGS
flags.DEFINE_list("target", None, "tpu:KIND[:TOPOLOGY] or gpu:KIND[:NUMBER], several with commas", required=True)
shared.define_model_flags()
flags.DEFINE_integer("image_size", None, "side of the images; by default the net's, else 32", lower_bound=1)
flags.DEFINE_integer("channels", None, "of the images; by default the net's, else 3", lower_bound=1)
flags.DEFINE_integer("num_classes", None, "of the labels; by default 10, of nets for ImageNet 1000", lower_bound=1)
flags.DEFINE_integer("batch_size", None, "examples per update, over all devices; by default 64 a device", lower_bound=1)
flags.DEFINE_enum("dtype", "float32", shared.DTYPES, "of the computation; parameters stay float32")
flags.DEFINE_enum(
    "optimizer", "adamw", [name for name in optimizers.OPTIMIZERS if name != "sdlm"], "decides the state's memory"
)
flags.DEFINE_integer("accumulate", 1, "parts in which each batch is computed, to save memory", lower_bound=1)
flags.DEFINE_integer("updates_per_call", 1, "updates in one program, such as those of an epoch", lower_bound=1)
flags.DEFINE_integer("seeds", 1, "nets trained at once on one device, as by --seeds=N --at_once", lower_bound=1)
flags.DEFINE_integer("lookahead", None, "updates from one meeting with slow weights to the next", lower_bound=1)
flags.DEFINE_bool("local_batch_norm", False, "batch norm by the statistics of each device's share of a batch")
shared.define_float("ema", "decay of a moving average of the weights, which takes memory", least=0, below=1)
flags.DEFINE_bool("largest_batch", True, "look for the largest batch that fits, by two or three more compilations")
flags.DEFINE_string("out", "runs/plan", "the folder for plan.json and plan.png")

#: Side, channels and classes of the images that a net is known for.
SHAPES = {
    "lenet5": (32, 1, 10),
    "lenet5-1998": (32, 1, 10),
    "mnist_cnn": (28, 1, 10),
    "alexnet": (224, 3, 1000),
    "vgg": (224, 3, 1000),
    "resnet34": (224, 3, 1000),
    "resnet50": (224, 3, 1000),
    "resnet101": (224, 3, 1000),
}
OTHER_SHAPE = (32, 3, 10)
EXAMPLES_OF_A_DEVICE = 64


class Net(NamedTuple):
    """The net: its configuration, the shape of an example, and its layer table."""

    config: dict[str, Any]
    shape: tuple[int, int, int]
    table: inspect.Table


def main(arguments: list[str]) -> None:
    """Compiles the step for each target, prints what it needs, writes the JSON file and the picture."""
    settings.no_arguments(arguments)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is to be saved, and XLA runs no handler while it compiles
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot read programs of devices that are not here
    targets = [plan.parse(name) for name in FLAGS.target or [""]]
    net = make_net()
    devices = [target.devices() for target in targets]  # a missing compiler is told before a minute of work
    folder = Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)

    found = []
    for target, of_target in zip(targets, devices, strict=True):
        estimate = compiled(net, target, of_target)
        print("\n".join(text.report(estimate, describe(net))), flush=True)
        largest = find_largest(net, estimate, of_target) if FLAGS.largest_batch else None
        if largest is not None:
            print(text.largest_line(largest))
        print()
        found.append((estimate, largest))
    if len(found) > 1:
        print("\n".join(text.comparison(found)), end="\n\n")
    run_dir.write_json(folder / "plan.json", as_json(net, found))
    title = f"one training step of {describe(net)}"
    report.plan([planned(estimate) for estimate, _ in found], folder / "plan.png", title)
    print(f"{folder / 'plan'}.json and .png")


def make_net() -> Net:
    """Returns the net of the flags, as shapes alone.

    Raises:
      UserError: there is no such net, it does not take such images, or it gives no logits.
    """
    if FLAGS.model == "textcnn":
        raise UserError("--model=textcnn reads words, not images: plan it in Python, by cnnjax.plan.lower_update.")
    own = SHAPES.get(FLAGS.model, OTHER_SHAPE)
    given = (FLAGS.image_size, FLAGS.channels, FLAGS.num_classes)
    size, channels, classes = (one or default for one, default in zip(given, own, strict=True))
    options = {"size": size, **settings.model_options()}
    model = {"name": FLAGS.model, **options, "num_classes": classes, "channels": channels}
    config, shape = {"model": model, "dtype": FLAGS.dtype}, (size, size, channels)
    tables = []

    def trace(x: jax.Array) -> Any:  # no weights are drawn
        model: Any = models.build(config)
        tables.append(inspect.layer_table(model, shape))
        return model(x)

    try:
        outputs = jax.eval_shape(trace, jax.ShapeDtypeStruct((2, *shape), "float32"))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the net does not take images of {' x '.join(map(str, shape))}: {error.__cause__ or error}; give another "
            "`image_size` or `channels`."
        ) from error
    if getattr(outputs, "ndim", None) != 2:
        gave = getattr(outputs, "shape", type(outputs).__name__)
        raise UserError(
            f"--model={FLAGS.model} must give logits (N, num_classes), gave {gave} for 2 images: for another task call "
            "cnnjax.plan.lower_update with a loss of your own."
        )
    return Net(config, shape, tables[0])


def lowered(net: Net, devices: Sequence[jax.Device], batch_size: int) -> jax.stages.Lowered:
    """Returns the step of the flags, not yet compiled."""

    def make() -> Any:
        model = models.build(net.config)
        if FLAGS.local_batch_norm:
            split_batch_norm(model, len(devices))
        return model

    return plan.lower_update(
        make,
        optimizers.optimizer(FLAGS.optimizer, 1e-3),
        devices,
        example_shape=net.shape,
        batch_size=batch_size,
        accumulate=FLAGS.accumulate,
        ema=FLAGS.ema,
        lookahead=FLAGS.lookahead,
        updates=FLAGS.updates_per_call,
        nets=FLAGS.seeds,
    )


def compiled(net: Net, target: plan.Target, devices: Sequence[jax.Device]) -> plan.Estimate:
    """Compiles the step for a target, and returns what it needs and takes."""
    batch_size = FLAGS.batch_size or EXAMPLES_OF_A_DEVICE * target.size * FLAGS.accumulate
    step = lowered(net, devices, batch_size)
    return say(
        target,
        batch_size,
        lambda: plan.estimate(
            target, step, net.table, FLAGS.dtype, batch_size, updates=FLAGS.updates_per_call, nets=FLAGS.seeds
        ),
    )


def find_largest(net: Net, estimate: plan.Estimate, devices: Sequence[jax.Device]) -> plan.Largest:
    """Looks for the largest batch that fits."""
    target = estimate.target

    def peak_of(batch_size: int) -> float | None:
        found = say(target, batch_size, lambda: plan.compile_program(lowered(net, devices, batch_size)))
        return found.needed if isinstance(found, plan.Refusal) else found.memory.peak

    known = {estimate.batch_size: math.inf if estimate.peak is None else estimate.peak}
    return plan.largest_batch(
        peak_of,
        known,
        unit=target.size * FLAGS.accumulate,
        limit=MOST_OF_A_DEVICE * target.size,
        usable=target.chip.usable,
    )


def say(target: plan.Target, batch_size: int, work: Callable[[], Any]) -> Any:
    """Does what takes long, and says so on standard error.

    Raises:
      UserError: XLA cannot compile the step.
    """
    usual = "seconds" if target.platform == "gpu" else "minutes"
    print(f"compiling for {target.name}, batch {batch_size:,} ({usual}) ...", end="", file=sys.stderr, flush=True)
    start = time.perf_counter()
    try:
        result = work()
    except jax.errors.JaxRuntimeError as error:
        print(file=sys.stderr)
        raise UserError(
            f"XLA cannot compile this step for {target.name}: {str(error).splitlines()[0]}. Try another "
            "`batch_size` or `dtype`."
        ) from error
    print(f" {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return result


def describe(net: Net) -> str:
    """Returns the net and the settings in a line."""
    by = " x ".join(map(str, net.shape))
    parts = f", in {FLAGS.accumulate} parts" if FLAGS.accumulate > 1 else ""
    parts += f", lookahead {FLAGS.lookahead}" if FLAGS.lookahead else ""
    parts += ", local batch norm" if FLAGS.local_batch_norm else ""
    name = FLAGS.model.rpartition("/")[2]
    return f"{name} on {by}, {net.table.total.params:,} parameters, {FLAGS.dtype}, {FLAGS.optimizer}{parts}"


def planned(estimate: plan.Estimate) -> report.PlannedStep:
    """Returns the numbers of the picture."""
    program, chip = estimate.program, estimate.target.chip
    fits = isinstance(program, plan.Program)
    seconds = estimate.bound._asdict() if estimate.bound else {}
    if isinstance(program, plan.Program) and program.seconds:
        seconds["XLA's estimate"] = program.seconds
    return report.PlannedStep(
        label=estimate.target.name,
        memory=text.memory_uses(estimate) if fits else {"more than there is": estimate.peak or chip.usable},
        capacity=chip.usable,
        seconds=seconds,
        peak=chip.flops[estimate.dtype],
        bandwidth=chip.bandwidth,
        layers=[
            report.PlannedLayer(one.layer, one.operations, one.traffic, one.seconds, one.bottleneck)
            for one in estimate.layers
        ],
    )


def as_json(net: Net, found: Sequence[tuple[plan.Estimate, plan.Largest | None]]) -> dict[str, Any]:
    """Returns what plan.json says; sizes are bytes, times seconds, both on each device."""
    return {
        "config": net.config,
        "example_shape": list(net.shape),
        "params": net.table.total.params,
        "optimizer": FLAGS.optimizer,
        "accumulate": FLAGS.accumulate,
        "updates_per_call": FLAGS.updates_per_call,
        "seeds": FLAGS.seeds,
        "lookahead": FLAGS.lookahead,
        "local_batch_norm": FLAGS.local_batch_norm,
        "ema": FLAGS.ema,
        "targets": [target_as_json(estimate, largest) for estimate, largest in found],
    }


def target_as_json(estimate: plan.Estimate, largest: plan.Largest | None) -> dict[str, Any]:
    """Returns what plan.json says of a target."""
    chip, bound, program = estimate.target.chip, estimate.bound, estimate.program
    published = dataclasses.asdict(chip)
    del published["limits"]
    return {
        "target": estimate.target.name,
        "devices": estimate.target.size,
        "chip": published,
        "batch_size": estimate.batch_size,
        "fits": estimate.fits,
        "compile_seconds": estimate.compile_seconds,
        "peak": estimate.peak,
        "state_size": estimate.state_size,
        "operations": estimate.operations,
        "program": dataclasses.asdict(program),
        "bound": {**bound._asdict(), "seconds": bound.seconds, "bottleneck": bound.bottleneck} if bound else None,
        "examples_per_second": estimate.examples_per_second,
        "largest_batch": dataclasses.asdict(largest) if largest else None,
        "layers": [
            {**dataclasses.asdict(one), "seconds": one.seconds, "bottleneck": one.bottleneck} for one in estimate.layers
        ],
    }


if __name__ == "__main__":
    process.run(main)
