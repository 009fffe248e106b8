"""Training steps compiled for accelerators that are not here: ours beside those of flax's layers, as XLA sees them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import flax_nets
import jax
import jaxlib
import optax
from absl import flags
from dtypes import chosen_dtypes
from flax import nnx
from timing import Result

from cnnjax import models, plan
from cnnjax.train import losses, optimizers

FLAGS = flags.FLAGS
flags.DEFINE_list("target", ["tpu:v5e", "gpu:h100"], "aot: machines to compile for, see experiments/plan.py")
flags.DEFINE_integer("batch_size", 512, "aot: examples a device", lower_bound=1)
RATE = 0.001


class Net(NamedTuple):
    """Describes a net of the suite.

    Attributes:
      name: of the case.
      size: side of its images.
      channels: of its images.
      model: name and keywords for `models.build`.
      flax_on_tpu: whether XLA compiles the step of flax's layers for a TPU in any time that one can wait for.
    """

    name: str
    size: int
    channels: int
    model: dict[str, Any]
    flax_on_tpu: bool = True


NETS = [
    Net("LeNet-5", 32, 1, {"name": "lenet5"}, flax_on_tpu=False),  # the kernel gradient of its one input channel
    Net("MNIST net", 28, 1, {"name": "mnist_cnn"}),
    Net("CIFAR net, batch norm", 32, 3, {"name": "cifar_cnn", "batch_norm": True, "channels": 3}),
    Net("ResNet-18", 32, 3, {"name": "resnet18", "channels": 3}),
    Net("AlexNet", 224, 3, {"name": "alexnet", "channels": 3}),
    Net("VGG-16", 224, 3, {"name": "vgg", "channels": 3}),
]
#: What is compared on each platform: measure, how to read it off a program, unit and its factor.
MEASURES: dict[str, list[tuple[str, Callable[[plan.Program], float | None], str, float]]] = {
    "tpu": [
        ("XLA's step time", lambda program: program.seconds, "ms", 1e3),
        ("bytes accessed", lambda program: program.bytes_accessed, "MB", 1e-6),
    ],
    "gpu": [
        ("temporaries", lambda program: program.memory.temporaries, "MB", 1e-6),
        ("kernels", lambda program: program.kernels, "", 1),
    ],
}


def compile_steps(peers: list[str]) -> Iterator[Result]:
    """Compiles each net's step and its twin's, and compares what XLA says of them.

    Figures of programs that an earlier run with the same `--out` has compiled, to the letter, are taken from there.
    """
    del peers  # flax is the only one
    dtypes = chosen_dtypes(["float32", "bfloat16"])
    known = Known(Path(FLAGS.out) / "aot_programs.json")
    for name in FLAGS.target:
        target = plan.parse(name)
        devices = target.devices()
        for net in NETS:
            if FLAGS.only not in net.name:
                continue
            for dtype in dtypes:
                print(f"{net.name}, {dtype}, {target.name}: compiling ours and flax's", flush=True)
                ours = known.program(f"{net.name}, {dtype}, ours", _own(net, dtype, devices))
                theirs = None
                if target.platform == "tpu" and not net.flax_on_tpu:
                    print(f"  {net.name}: flax's does not end compiling, there is nothing to compare with", flush=True)
                else:
                    theirs = known.program(f"{net.name}, {dtype}, flax's", _flaxs(net, dtype, devices))
                yield from _compare(f"{net.name}, {dtype}, {target.name}", target.platform, ours, theirs)


def _own(net: Net, dtype: str, devices: Any) -> jax.stages.Lowered:
    return _lower(lambda: models.build({"model": net.model, "dtype": dtype}), net, devices, losses.cross_entropy)


def _flaxs(net: Net, dtype: str, devices: Any) -> jax.stages.Lowered:
    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:  # as flax's tutorials write it
        return optax.softmax_cross_entropy_with_integer_labels(logits.astype("float32"), labels).mean()

    return _lower(lambda: flax_nets.twin(net.model["name"], nnx.Rngs(0), dtype), net, devices, loss)


def _lower(make: Callable[[], nnx.Module], net: Net, devices: Any, loss: Any) -> jax.stages.Lowered:
    shape, batch_size = (net.size, net.size, net.channels), FLAGS.batch_size * len(devices)
    optimizer = optimizers.optimizer("momentum", RATE)
    return plan.lower_update(make, optimizer, devices, example_shape=shape, batch_size=batch_size, loss=loss)


def _compare(case: str, platform: str, ours: dict[str, Any], theirs: dict[str, Any] | None) -> Iterator[Result]:
    """Yields one result for each measure; says so where a program does not fit."""
    for side, found in (("ours", ours), ("flax's", theirs)):
        if found is not None and "refused" in found:
            print(f"{case}: {side} does not compile: {found['refused']}", flush=True)
    if "refused" in ours:
        return
    for measure, _, unit, factor in MEASURES[platform]:
        own = ours["measures"][measure]
        other = None if theirs is None or "refused" in theirs else theirs["measures"][measure]
        if own is None:
            continue
        ratios = {} if other is None else {"flax": own / other}
        yield {
            "case": case,
            "measure": measure,
            "unit": [unit, factor],
            "seconds": {"own": [own], **({} if other is None else {"flax": [other]})},
            "ratios": ratios,
            "spread": {peer: [ratio, ratio] for peer, ratio in ratios.items()},
            "programs": {"own": ours, "flax": theirs},
        }


class Known:
    """Keeps what was read off compiled programs, by the text that was compiled."""

    def __init__(self, path: Path):
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def program(self, label: str, lowered: jax.stages.Lowered) -> dict[str, Any]:
        """Returns the figures of a program, compiled where they are not known."""
        key = hashlib.sha256(f"{jaxlib.__version__} {lowered.as_text()}".encode()).hexdigest()
        if key not in self.found:
            started = time.perf_counter()
            program = plan.compile_program(lowered)
            seconds = time.perf_counter() - started
            self.found[key] = {"label": label, "compile_seconds": seconds, **_figures(program)}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.found, indent=1))
            print(f"  {label}: compiled in {seconds:.0f} s", flush=True)
        return self.found[key]


def _figures(program: plan.Program | plan.Refusal) -> dict[str, Any]:
    if isinstance(program, plan.Refusal):
        return {"refused": "its memory does not suffice"}
    measures = {name: read(program) for rows in MEASURES.values() for name, read, *_ in rows}
    return {"measures": measures, "program": asdict(program)}
