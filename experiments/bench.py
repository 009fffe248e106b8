"""cnnjax beside PyTorch, flax and plain lax: the same numbers, timed in turns on this machine.

  python experiments/bench.py --suite=ops
  python experiments/bench.py --suite=pool
  python experiments/bench.py --suite=step --peers=torch,flax
  python experiments/bench.py --suite=epoch

ops: convolutions as the nets have them, forward and forward+backward; pool: poolings alike; step: whole training
steps; epoch: the training scripts from launch to finish, with an empty and with a filled compilation cache. In each
round every contender runs once, in a drawn order; a ratio is the median over the rounds of our time over theirs
in the same round. "own again" is ours a second time: how far it is from 1 is the noise. PyTorch runs in both memory
layouts, and "torch" is the better one, case by case. A contender that does not compute our numbers ends the run.

Prints a table, and leaves SUITE.json and SUITE.png in --out. A suite takes 2 to 20 minutes on 2 cores.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import lax

from cnnjax import ops
from cnnjax.app import flags as shared
from cnnjax.app import process
from cnnjax.errors import UserError

FLAGS = flags.FLAGS
PEERS = ("torch", "flax", "lax")
flags.DEFINE_enum("suite", "ops", ["ops", "pool", "step", "epoch"], "what is compared")
flags.DEFINE_list("peers", None, f"whom with, of {', '.join(PEERS)}; by default all that are installed")
flags.DEFINE_integer("rounds", 7, "how often each contender is timed", lower_bound=1)
flags.DEFINE_string("only", "", "run the cases with this in their name alone")
flags.DEFINE_string("out", "runs/bench", "the folder for the JSON file and the plot")
flags.DEFINE_bool("options", False, "ops, pool: give ours and lax the compiler options of our training step")

Run = Callable[[], Any]  # one call, computed to its end
Contenders = dict[str, Run]
LEAST_SECONDS = 0.05  # of one timing: shorter calls are repeated


class Conv(NamedTuple):
    """A convolution of a net: batch n of size x size x c images, f kernels of k x k."""

    net: str
    n: int
    size: int
    c: int
    f: int
    k: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    first: bool = False  # the first layer of its net: nobody asks for the gradient of its input

    @property
    def name(self) -> str:
        groups = "" if self.groups == 1 else f" groups {self.groups}"
        stride = "" if self.stride == 1 else f" stride {self.stride}"
        return f"{self.net} {self.n}x{self.size}x{self.size}x{self.c} -> {self.f}, {self.k}x{self.k}{stride}{groups}"


CONVS = [
    Conv("lenet5", 128, 32, 1, 6, 5, first=True),
    Conv("lenet5", 128, 14, 6, 16, 5),
    Conv("lenet5", 32, 32, 1, 6, 5, first=True),
    Conv("lenet5", 32, 14, 6, 16, 5),
    Conv("lenet5", 1, 32, 1, 6, 5, first=True),
    Conv("lenet5", 1, 14, 6, 16, 5),
    Conv("mnist", 128, 28, 1, 32, 3, first=True),
    Conv("mnist", 128, 13, 32, 64, 3),
    Conv("mnist", 128, 5, 64, 128, 3),
    Conv("mnist", 32, 13, 32, 64, 3),
    Conv("mnist", 32, 28, 32, 64, 3, 2),
    Conv("cifar", 128, 32, 3, 32, 3, 1, 1, first=True),
    Conv("cifar", 128, 16, 32, 64, 3, 1, 1),
    Conv("cifar", 128, 8, 64, 128, 3, 1, 1),
    Conv("cifar", 128, 32, 3, 64, 3, 1, 1, first=True),
    Conv("cifar", 128, 16, 64, 128, 3, 1, 1),
    Conv("cifar", 128, 8, 128, 256, 3, 1, 1),
    Conv("cifar", 32, 16, 32, 64, 3, 1, 1),
    Conv("cifar", 1, 16, 32, 64, 3, 1, 1),
    Conv("resnet18", 32, 32, 64, 64, 3, 1, 1),
    Conv("resnet18", 32, 32, 64, 128, 3, 2, 1),
    Conv("resnet18", 32, 16, 128, 128, 3, 1, 1),
    Conv("resnet18", 32, 16, 128, 256, 3, 2, 1),
    Conv("resnet18", 32, 8, 256, 256, 3, 1, 1),
    Conv("resnet18", 32, 4, 512, 512, 3, 1, 1),
    Conv("resnet18", 32, 32, 64, 128, 1, 2),
    Conv("resnet18", 32, 16, 128, 256, 1, 2),
    Conv("resnet18", 128, 16, 128, 128, 3, 1, 1),
    Conv("resnet18", 1, 32, 64, 64, 3, 1, 1),
    Conv("pointwise", 32, 16, 128, 128, 1),
    Conv("pointwise", 32, 28, 64, 256, 1),
    Conv("pointwise", 128, 8, 256, 256, 1),
    Conv("alexnet", 32, 227, 3, 96, 11, 4, first=True),
    Conv("alexnet", 32, 27, 96, 256, 5, 1, 2, groups=2),
    Conv("alexnet", 32, 27, 96, 256, 5, 1, 2),
    Conv("alexnet", 32, 13, 256, 384, 3, 1, 1),
    Conv("alexnet", 32, 13, 384, 256, 3, 1, 1, groups=2),
    Conv("alexnet", 1, 227, 3, 96, 11, 4, first=True),
    Conv("alexnet", 1, 27, 96, 256, 5, 1, 2, groups=2),
    Conv("vgg", 8, 112, 3, 64, 3, 1, 1, first=True),
    Conv("vgg", 8, 112, 64, 64, 3, 1, 1),
    Conv("vgg", 8, 56, 128, 128, 3, 1, 1),
    Conv("vgg", 8, 28, 256, 256, 3, 1, 1),
    Conv("vgg", 32, 14, 512, 512, 3, 1, 1),
    Conv("vgg", 1, 56, 128, 128, 3, 1, 1),
    Conv("vgg", 1, 28, 256, 256, 3, 1, 1),
    Conv("mobile", 32, 28, 64, 64, 3, 1, 1, groups=64),
    Conv("mobile", 32, 28, 128, 128, 3, 2, 1, groups=128),
    Conv("mobile", 32, 14, 256, 256, 3, 1, 1, groups=256),
    Conv("mobile", 1, 28, 64, 64, 3, 1, 1, groups=64),
]


class Pool(NamedTuple):
    """A pooling of a net; `window` is the output size where kind is adaptive."""

    kind: str
    n: int
    size: int
    c: int
    window: int = 0
    stride: int = 0
    padding: int = 0

    @property
    def name(self) -> str:
        how = f" {self.window}/{self.stride}" if self.stride else f" {self.window}" if self.window else ""
        return f"{self.kind}{how}{' padded' if self.padding else ''} {self.n}x{self.size}x{self.size}x{self.c}"


POOLS = [
    Pool("max", 128, 28, 6, 2, 2),
    Pool("max", 128, 10, 16, 2, 2),
    Pool("max", 128, 32, 32, 2, 2),
    Pool("max", 128, 16, 64, 2, 2),
    Pool("max", 8, 112, 64, 2, 2),
    Pool("max", 8, 55, 96, 3, 2),
    Pool("max", 32, 27, 256, 3, 2),
    Pool("max", 32, 28, 64, 3, 1, 1),
    Pool("max", 8, 112, 64, 3, 2, 1),
    Pool("avg", 128, 28, 6, 2, 2),
    Pool("avg", 128, 32, 32, 2, 2),
    Pool("avg", 8, 55, 96, 3, 2),
    Pool("avg", 32, 28, 64, 3, 1, 1),
    Pool("adaptive", 8, 13, 256, 6),
    Pool("adaptive", 8, 32, 64, 7),
    Pool("global avg", 32, 8, 512),
    Pool("global avg", 128, 16, 128),
    Pool("global max", 32, 8, 512),
]


def main(arguments: list[str]) -> None:
    """Time the cases of a suite, print the table, write the JSON file and the plot."""
    shared.no_arguments(arguments)
    peers = chosen_peers()
    measured = {"ops": time_ops, "pool": time_pools, "step": time_steps, "epoch": time_epochs}[FLAGS.suite](peers)
    results = []
    for result in measured:
        results.append(result)
        print(line(result), flush=True)
    if not results:
        raise UserError(f"--only={FLAGS.only!r}: no case of the suite {FLAGS.suite} has that in its name.")
    summary = means(results)
    for row in summary:
        print(f"{row['measure']}: ours over {row['peer']}: geometric mean {row['mean']:.2f}, worst {row['worst']:.2f}")
    folder = Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = {"suite": FLAGS.suite, "machine": machine(), "flags": FLAGS.flags_into_string().split(), "cases": results}
    (folder / f"{FLAGS.suite}.json").write_text(json.dumps({**report, "summary": summary}, indent=1))
    plot(results, folder / f"{FLAGS.suite}.png")
    print(f"on {machine()['processor']}: {folder / FLAGS.suite}.json and .png")


def chosen_peers() -> list[str]:
    """The peers that were asked for, or all that are installed. Raises UserError for one that is not there."""
    installed = [name for name in PEERS if name == "lax" or importlib.util.find_spec(name)]
    for name in FLAGS.peers or []:
        if name not in PEERS:
            raise UserError(f"--peers={','.join(FLAGS.peers)}: {name!r} must be one of {', '.join(PEERS)}.")
        if name not in installed:
            raise UserError(f"--peers={','.join(FLAGS.peers)}: {name} is not installed: pip install {name}.")
    return installed if FLAGS.peers is None else FLAGS.peers


# ---- timing ----


def in_turns(contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    """Seconds per call of each contender, once a round."""
    repeats = {}
    for name, run in contenders.items():
        run()
        started = time.perf_counter()
        run()
        repeats[name] = max(1, math.ceil(LEAST_SECONDS / (time.perf_counter() - started)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    order = random.Random(0)
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            run = contenders[name]
            run()
            time.sleep(0.005)  # threads of the one before may still be spinning
            started = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            seconds[name].append((time.perf_counter() - started) / repeats[name])
    return seconds


def compare(name: str, measure: str, contenders: Contenders, tolerance: float) -> dict[str, Any]:
    """Check that all contenders compute the numbers of the first, and time them."""
    own, *others = contenders
    expected = contenders[own]()
    for other in others:
        check_equal(f"{other} at {name}, {measure}", expected, contenders[other](), tolerance)
    seconds = in_turns(contenders, FLAGS.rounds)
    layouts = [peer for peer in seconds if peer.startswith("torch ")]
    if layouts:
        best = min(layouts, key=lambda layout: median(seconds[layout]))
        seconds["torch"] = seconds[best]
    peers = [peer for peer in seconds if peer not in (own, *layouts)] + (layouts if len(layouts) > 2 else [])
    ratios = {peer: [a / b for a, b in zip(seconds[own], seconds[peer], strict=True)] for peer in peers}
    return {
        "case": name,
        "measure": measure,
        "seconds": seconds,
        "ratios": {peer: median(values) for peer, values in ratios.items()},
        "spread": {peer: [min(values), max(values)] for peer, values in ratios.items()},
    }


def check_equal(what: str, expected: Any, got: Any, tolerance: float) -> None:
    """Raise UserError where two trees of arrays differ by more than tolerance times the largest number."""
    for ours, theirs in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        error = abs(ours - theirs).max() / abs(ours).max() if ours.shape == theirs.shape else math.inf
        if not error <= tolerance:
            raise UserError(f"{what}: not our numbers (shapes {theirs.shape}, {ours.shape}; error {error:.1e}).")


def line(result: dict[str, Any]) -> str:
    """A row of the table: our median time, and per peer its median, and the ratio with its spread."""
    own, *_ = result["seconds"]
    parts = [f"{result['case']:46} {result['measure']:17} {median(result['seconds'][own]) * 1e3:8.2f} ms"]
    for peer, ratio in result["ratios"].items():
        low, high = result["spread"][peer]
        parts.append(f"{peer} {median(result['seconds'][peer]) * 1e3:.2f} ms: {ratio:.2f} ({low:.2f}-{high:.2f})")
    return " | ".join(parts)


def means(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per measure and peer the geometric mean and the largest of the ratios."""
    rows = []
    for measure in dict.fromkeys(result["measure"] for result in results):
        of_it = [result["ratios"] for result in results if result["measure"] == measure]
        for peer in dict.fromkeys(itertools.chain(*of_it)):
            ratios = [r[peer] for r in of_it if peer in r]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            rows.append({"measure": measure, "peer": peer, "cases": len(ratios), "mean": mean, "worst": max(ratios)})
    return rows


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions: dict[str, Any] = {
        name: sys.modules[name].__version__ for name in ("jax", "flax", "torch") if name in sys.modules
    }
    return {
        "processor": next((text for text in processor_names() if text), platform.machine()),
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "python": platform.python_version(),
        **versions,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "CNNJAX_ONEDNN": os.environ.get("CNNJAX_ONEDNN", ""),
    }


def processor_names() -> Iterator[str]:
    """The processor's name as Linux has it, and as Python does."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        yield from (text.split(":")[1].strip() for text in lines if text.startswith("model name"))
    yield platform.processor()


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """The ratios as points on a logarithmic axis, a row per case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    measures = list(dict.fromkeys(result["measure"] for result in results))
    rows = max(sum(result["measure"] == m for result in results) for m in measures)
    figure, axes = plt.subplots(1, len(measures), figsize=(9 * len(measures), 2 + 0.22 * rows), squeeze=False)
    for axis, measure in zip(axes[0], measures, strict=True):
        of_it = [result for result in results if result["measure"] == measure]
        for peer in dict.fromkeys(p for result in of_it for p in result["ratios"]):
            at = [(result["ratios"][peer], row) for row, result in enumerate(of_it) if peer in result["ratios"]]
            axis.plot(*zip(*at, strict=True), "o", label=f"over {peer}", markersize=4)
        axis.axvline(1, color="gray", linewidth=0.8)
        axis.set(xscale="log", title=measure, xlabel="our time over theirs", yticks=range(len(of_it)))
        axis.set_yticklabels([result["case"] for result in of_it], fontsize=7)
        axis.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5], labels=["0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
        axis.minorticks_off()
        axis.invert_yaxis()
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


# ---- ops and pools ----


def time_ops(peers: list[str]) -> Iterator[dict[str, Any]]:
    """Time the convolutions, forward, and forward with backward."""
    for case in CONVS:
        if FLAGS.only not in case.name:
            continue
        x, w = normal((case.n, case.size, case.size, case.c), (case.k, case.k, case.c // case.groups, case.f))
        padding = ((case.padding,) * 2,) * 2
        how: dict[str, Any] = {"stride": case.stride, "padding": padding, "groups": case.groups}

        def own(x: jax.Array, w: jax.Array, how: dict[str, Any] = how) -> jax.Array:
            return ops.conv(x, w, **how)

        def plain(x: jax.Array, w: jax.Array, case: Conv = case, padding: Any = padding) -> jax.Array:
            return lax.conv_general_dilated(
                x,
                w,
                (case.stride,) * 2,
                padding,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=case.groups,
            )

        def torch_conv(x: Any, w: Any, case: Conv = case) -> Any:
            import torch

            return torch.nn.functional.conv2d(x, w, None, case.stride, case.padding, 1, case.groups)

        wanted = (1,) if case.first else (0, 1)
        yield from both_measures(case.name, (x, w), own, plain, torch_conv, peers, wanted)


def time_pools(peers: list[str]) -> Iterator[dict[str, Any]]:
    """Time the poolings, forward, and forward with backward."""
    for case in POOLS:
        if FLAGS.only not in case.name:
            continue
        (x,) = normal((case.n, case.size, case.size, case.c))
        by_torch_pool = partial(torch_pool, case)
        yield from both_measures(case.name, (x,), own_pool(case), lax_pool(case), by_torch_pool, peers, (0,))


def own_pool(case: Pool) -> Callable[[jax.Array], jax.Array]:
    """The pooling by cnnjax."""
    how: dict[str, Any] = {"window": case.window, "stride": case.stride, "padding": case.padding}
    return {
        "max": lambda x: ops.max_pool(x, **how),
        "avg": lambda x: ops.avg_pool(x, **how, count_include_pad=True),
        "adaptive": lambda x: ops.adaptive_avg_pool(x, case.window),
        "global avg": ops.global_avg_pool,
        "global max": ops.global_max_pool,
    }[case.kind]


def lax_pool(case: Pool) -> Callable[[jax.Array], jax.Array] | None:
    """The pooling as flax and others write it with lax; None where they have none."""
    window, stride = (1, case.window, case.window, 1), (1, case.stride, case.stride, 1)
    padding = ((0, 0), *((case.padding,) * 2,) * 2, (0, 0))
    return {
        "max": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, stride, padding),
        "avg": lambda x: lax.reduce_window(x, 0.0, lax.add, window, stride, padding) / case.window**2,
        "global avg": lambda x: x.mean((1, 2)),
        "global max": lambda x: x.max((1, 2)),
    }.get(case.kind)


def torch_pool(case: Pool, x: Any) -> Any:
    """The pooling by PyTorch."""
    from torch.nn import functional

    if case.kind in ("max", "avg"):
        pool = functional.max_pool2d if case.kind == "max" else functional.avg_pool2d
        return pool(x, case.window, case.stride, case.padding)
    if case.kind == "adaptive":
        return functional.adaptive_avg_pool2d(x, case.window)
    return x.mean((2, 3)) if case.kind == "global avg" else functional.adaptive_max_pool2d(x, 1)[..., 0, 0]


def both_measures(
    name: str,
    arrays: tuple[np.ndarray, ...],
    own: Callable[..., jax.Array],
    plain: Callable[..., jax.Array] | None,
    torch_op: Callable[..., Any],
    peers: list[str],
    wanted: tuple[int, ...],
) -> Iterator[dict[str, Any]]:
    """Compare an op's output, and its output with the gradients in the arrays that are wanted."""
    (dy,) = normal(jax.eval_shape(own, *arrays).shape)
    for backward in (False, True):
        contenders = {"own": by_jax(own, arrays, dy, wanted, backward)}
        contenders["own again"] = contenders["own"]
        if "lax" in peers and plain is not None:
            contenders["lax"] = by_jax(plain, arrays, dy, wanted, backward)
        if "torch" in peers:
            for layout in ("contiguous_format", "channels_last"):
                contenders[f"torch {layout}"] = by_torch(torch_op, arrays, dy, wanted, backward, layout)
        # lax's kernel gradients of 100,000 places are 1e-5 to 3e-5 off (ours 3e-7, against float64)
        yield compare(name, "forward+backward" if backward else "forward", contenders, tolerance=5e-5)


def by_jax(
    op: Callable[..., jax.Array],
    arrays: tuple[np.ndarray, ...],
    dy: np.ndarray,
    wanted: tuple[int, ...],
    backward: bool,
) -> Run:
    """A call of the jitted op, or of it and its gradients."""
    from cnnjax.train.step import compiler_options

    def with_gradients(*arguments: jax.Array) -> tuple[jax.Array, ...]:
        *inputs, dy = arguments

        def of_wanted(*some: jax.Array) -> jax.Array:
            given = dict(zip(wanted, some, strict=True))
            return op(*(given.get(place, array) for place, array in enumerate(inputs)))

        y, vjp = jax.vjp(of_wanted, *(inputs[place] for place in wanted))
        return y, *vjp(dy)

    jitted = jax.jit(with_gradients if backward else op, compiler_options=compiler_options() if FLAGS.options else None)
    inputs = [jnp.asarray(array) for array in (*arrays, *((dy,) if backward else ()))]
    return lambda: jax.block_until_ready(jitted(*inputs))


def by_torch(
    op: Callable[..., Any],
    arrays: tuple[np.ndarray, ...],
    dy: np.ndarray,
    wanted: tuple[int, ...],
    backward: bool,
    layout: str,
) -> Run:
    """The same by PyTorch in one memory layout; the results are views in our order of axes."""
    import torch

    inputs = [to_torch(array, kernel=place == 1, layout=layout) for place, array in enumerate(arrays)]
    cotangent = to_torch(dy, kernel=False, layout=layout)
    for place in wanted:
        inputs[place].requires_grad_(backward)

    def run() -> Any:
        with torch.set_grad_enabled(backward):
            y = op(*inputs)
            if not backward:
                return from_torch(y, kernel=False)
            gradients = torch.autograd.grad(y, [inputs[place] for place in wanted], cotangent)
        return from_torch(y, kernel=False), *(
            from_torch(g, kernel=place == 1) for place, g in zip(wanted, gradients, strict=True)
        )

    return run


def to_torch(array: np.ndarray, *, kernel: bool, layout: str) -> Any:
    """An array of ours as a tensor, in PyTorch's order of axes."""
    import torch

    if array.ndim != 4:
        return torch.tensor(array)
    tensor = torch.tensor(array.transpose((3, 2, 0, 1) if kernel else (0, 3, 1, 2)).copy())
    return tensor.contiguous(memory_format=getattr(torch, layout))


def from_torch(tensor: Any, *, kernel: bool) -> Any:
    """A tensor as an array of ours, without a copy."""
    array = tensor.detach().numpy()
    return array if array.ndim != 4 else array.transpose((2, 3, 1, 0) if kernel else (0, 2, 3, 1))


def normal(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Arrays of normal numbers, the same in every run."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


# ---- training steps ----


class Step(NamedTuple):
    """A net with momentum 0.9 on a batch of square images in memory; `maps` go into its first dense layer."""

    name: str
    batch: int
    size: int
    channels: int
    maps: int
    model: dict[str, Any]


STEPS = [
    Step("LeNet-5", 128, 32, 1, 16, {"name": "lenet5"}),
    Step("MNIST net", 64, 28, 1, 128, {"name": "mnist_cnn"}),
    Step("CIFAR net, batch norm", 128, 32, 3, 128, {"name": "cifar_cnn", "batch_norm": True, "channels": 3}),
    Step("ResNet-18", 64, 32, 3, 512, {"name": "resnet18", "channels": 3}),
]
RATE = 0.001


def time_steps(peers: list[str]) -> Iterator[dict[str, Any]]:
    """Time training steps: ours as the scripts take it, flax's nets as shipped and with our options, PyTorch's."""
    for case in STEPS:
        if FLAGS.only not in case.name:
            continue
        (x,) = normal((case.batch, case.size, case.size, case.channels))
        labels = np.random.default_rng(1).integers(0, 10, case.batch).astype(np.int32)
        params, own = own_step(case, x, labels)
        contenders: Contenders = {"own": own, "own again": own_step(case, x, labels)[1]}
        if "flax" in peers:
            contenders["flax"] = flax_step(case, params, x, labels)
            contenders["flax with our options"] = flax_step_with_options(case, params, x, labels)
        if "torch" in peers:
            for compiled, layout in itertools.product((False, True), ("contiguous_format", "channels_last")):
                name = f"torch {layout}{' compiled' if compiled else ''}"
                contenders[name] = torch_step(case, params, x, labels, layout, compiled)
        # the losses of the first three steps: a wrong gradient shows in the second
        contenders = {name: three_first(run) for name, run in contenders.items()}
        yield compare(f"{case.name}, batch {case.batch}", "training step", contenders, tolerance=1e-3)


def three_first(run: Run) -> Run:
    """A run whose first call makes three steps and gives their losses."""
    called = False

    def first_or_next() -> Any:
        nonlocal called
        if called:
            return run()
        called = True
        return np.stack([run() for _ in range(3)])

    return first_or_next


def own_step(case: Step, x: np.ndarray, labels: np.ndarray) -> tuple[dict[str, np.ndarray], Run]:
    """The weights by name as they are before, and our step, which gives the loss."""
    from cnnjax import models
    from cnnjax.train import optimizers, state, step

    rule = optimizers.optimizer("momentum", RATE)
    net, current = state.initial(models.build({"model": case.model}), rule)
    arrays = state.to_arrays(current)
    params = {name.removeprefix("params/"): array for name, array in arrays.items() if name.startswith("params/")}
    train = step.make_train_step(step.make_update(net, rule))
    batch = jnp.asarray(x[None]), jnp.asarray(labels[None])

    def run() -> Any:
        nonlocal current
        current, metrics = train(current, *batch)
        return np.asarray(metrics["loss"])[0]

    return params, run


def flax_net(case: Step, params: dict[str, np.ndarray]) -> Any:
    """The same net of flax's own layers, with these weights."""
    from flax import nnx

    keys = nnx.Rngs(0)
    pool = {"window_shape": (2, 2), "strides": (2, 2)}

    class ConvNorm(nnx.Module):
        def __init__(self, below: int, width: int, window: int, stride: int):
            how: dict[str, Any] = {"strides": stride, "padding": window // 2, "use_bias": False}
            self.conv = nnx.Conv(below, width, (window, window), **how, rngs=keys)
            self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=keys)

        def __call__(self, x: Any) -> Any:
            return self.norm(self.conv(x))

    class Residual(nnx.Module):
        def __init__(self, below: int, width: int, stride: int):
            self.first, self.second = ConvNorm(below, width, 3, stride), ConvNorm(width, width, 3, 1)
            self.shortcut = ConvNorm(below, width, 1, stride) if stride > 1 else None

        def __call__(self, x: Any) -> Any:
            y = self.second(nnx.relu(self.first(x)))
            return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))

    class Plain(nnx.Module):
        """LeNet-5 and the MNIST net: convolutions with pools between, dense layers."""

        def __init__(self, widths: list[int], window: int, last_pool: bool, dense: list[int]):
            self.count, self.last_pool = len(widths) - 1, last_pool
            for n, (below, width) in enumerate(itertools.pairwise(widths), 1):
                setattr(self, f"conv{n}", nnx.Conv(below, width, (window, window), padding="VALID", rngs=keys))
            for n, (below, width) in enumerate(itertools.pairwise(dense), 1):
                setattr(self, f"dense{n}", nnx.Linear(below, width, rngs=keys))
            self.dense = len(dense) - 1

        def __call__(self, x: Any) -> Any:
            for n in range(1, self.count + 1):
                x = nnx.relu(getattr(self, f"conv{n}")(x))
                x = nnx.max_pool(x, **pool) if n < self.count or self.last_pool else x
            x = x.reshape(len(x), -1)
            for n in range(1, self.dense):
                x = nnx.relu(getattr(self, f"dense{n}")(x))
            return getattr(self, f"dense{self.dense}")(x)

    class Cifar(nnx.Module):
        def __init__(self) -> None:
            self.blocks = nnx.List([ConvNorm(*widths, 3, 1) for widths in itertools.pairwise((3, 32, 64, 128))])
            self.dense1, self.dense2 = nnx.Linear(2048, 128, rngs=keys), nnx.Linear(128, 10, rngs=keys)

        def __call__(self, x: Any) -> Any:
            for block in self.blocks:
                x = nnx.max_pool(nnx.relu(block(x)), **pool)
            return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))

    class ResNet(nnx.Module):
        def __init__(self) -> None:
            self.stem = ConvNorm(3, 64, 3, 1)
            self.blocks = nnx.List([Residual(*widths) for widths in residual_widths()])
            self.dense = nnx.Linear(512, 10, rngs=keys)

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.stem(x))
            for block in self.blocks:
                x = block(x)
            return self.dense(x.mean((1, 2)))

    net = {
        "lenet5": lambda: Plain([1, 6, 16], 5, True, [400, 120, 84, 10]),
        "mnist_cnn": lambda: Plain([1, 32, 64, 128], 3, False, [1152, 128, 10]),
        "cifar_cnn": Cifar,
        "resnet18": ResNet,
    }[case.model["name"]]()
    state = nnx.state(net, nnx.Param)
    for path, variable in nnx.to_flat_state(state):
        variable[...] = jnp.asarray(params["/".join(map(str, path))])
    nnx.update(net, state)
    net.train()
    return net


def residual_widths() -> list[tuple[int, int, int]]:
    """ResNet-18's blocks: channels below, width, stride."""
    widths = [64, 64, 64, 128, 128, 256, 256, 512, 512]
    return [(below, width, 1 if below == width else 2) for below, width in itertools.pairwise(widths)]


def flax_step(case: Step, params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray) -> Run:
    """A step as flax's own tutorials write it."""
    import optax
    from flax import nnx

    net = flax_net(case, params)
    optimizer = nnx.Optimizer(net, optax.sgd(RATE, momentum=0.9), wrt=nnx.Param)
    batch = jnp.asarray(x), jnp.asarray(labels)

    @nnx.jit
    def train(net: Any, optimizer: Any, x: jax.Array, labels: jax.Array) -> jax.Array:
        def objective(net: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(net(x), labels).mean()

        loss, grads = nnx.value_and_grad(objective)(net)
        optimizer.update(net, grads)
        return loss

    return lambda: np.asarray(train(net, optimizer, *batch))


def flax_step_with_options(case: Step, params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray) -> Run:
    """flax's net in our training step, with its compiler options and donation."""
    from cnnjax.train import optimizers, state, step

    rule = optimizers.optimizer("momentum", RATE)
    net, current = state.initial(flax_net(case, params), rule)
    train = step.make_train_step(step.make_update(net, rule))
    batch = jnp.asarray(x[None]), jnp.asarray(labels[None])

    def run() -> Any:
        nonlocal current
        current, metrics = train(current, *batch)
        return np.asarray(metrics["loss"])[0]

    return run


def torch_net(case: Step) -> Any:
    """The same net of PyTorch's layers; names as ours."""
    import torch
    from torch import nn
    from torch.nn import functional

    class ConvNorm(nn.Module):
        def __init__(self, below: int, width: int, window: int, stride: int):
            super().__init__()
            self.conv = nn.Conv2d(below, width, window, stride, window // 2, bias=False)
            self.norm = nn.BatchNorm2d(width)

        def forward(self, x: Any) -> Any:
            return self.norm(self.conv(x))

    class Residual(nn.Module):
        def __init__(self, below: int, width: int, stride: int):
            super().__init__()
            self.first, self.second = ConvNorm(below, width, 3, stride), ConvNorm(width, width, 3, 1)
            self.shortcut = ConvNorm(below, width, 1, stride) if stride > 1 else None

        def forward(self, x: Any) -> Any:
            y = self.second(torch.relu(self.first(x)))
            return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))

    class Plain(nn.Module):
        def __init__(self, widths: list[int], window: int, last_pool: bool, dense: list[int]):
            super().__init__()
            self.count, self.last_pool, self.dense = len(widths) - 1, last_pool, len(dense) - 1
            for n, (below, width) in enumerate(itertools.pairwise(widths), 1):
                self.add_module(f"conv{n}", nn.Conv2d(below, width, window))
            for n, (below, width) in enumerate(itertools.pairwise(dense), 1):
                self.add_module(f"dense{n}", nn.Linear(below, width))

        def forward(self, x: Any) -> Any:
            for n in range(1, self.count + 1):
                x = torch.relu(self.get_submodule(f"conv{n}")(x))
                x = functional.max_pool2d(x, 2) if n < self.count or self.last_pool else x
            x = x.flatten(1)
            for n in range(1, self.dense):
                x = torch.relu(self.get_submodule(f"dense{n}")(x))
            return self.get_submodule(f"dense{self.dense}")(x)

    class Cifar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([ConvNorm(*widths, 3, 1) for widths in itertools.pairwise((3, 32, 64, 128))])
            self.dense1, self.dense2 = nn.Linear(2048, 128), nn.Linear(128, 10)

        def forward(self, x: Any) -> Any:
            for block in self.blocks:
                x = functional.max_pool2d(torch.relu(block(x)), 2)
            return self.dense2(torch.relu(self.dense1(x.flatten(1))))

    class ResNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = ConvNorm(3, 64, 3, 1)
            self.blocks = nn.ModuleList([Residual(*widths) for widths in residual_widths()])
            self.dense = nn.Linear(512, 10)

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.stem(x))
            for block in self.blocks:
                x = block(x)
            return self.dense(x.mean((2, 3)))

    return {
        "lenet5": lambda: Plain([1, 6, 16], 5, True, [400, 120, 84, 10]),
        "mnist_cnn": lambda: Plain([1, 32, 64, 128], 3, False, [1152, 128, 10]),
        "cifar_cnn": Cifar,
        "resnet18": ResNet,
    }[case.model["name"]]()


def torch_step(
    case: Step, params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray, layout: str, compiled: bool
) -> Run:
    """A step of PyTorch's net, with these weights."""
    import torch

    net = torch_net(case)
    weights = {}
    for name, array in params.items():
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        if name == "dense1/kernel":  # flattened there are the maps first
            array = array.reshape(len(array), -1, case.maps).swapaxes(1, 2).reshape(len(array), -1)
        name = name.replace("/kernel", "/weight").replace("/scale", "/weight").replace("/", ".")
        weights[name] = torch.tensor(array.copy())
    missing, unexpected = net.load_state_dict(weights, strict=False)
    assert not unexpected and all("running" in name or "batches" in name for name in missing), (missing, unexpected)
    net = net.train().to(memory_format=getattr(torch, layout))
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)
    batch, targets = to_torch(x, kernel=False, layout=layout), torch.tensor(labels).long()
    called = torch.compile(net) if compiled else net

    def run() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(called(batch), targets)
        loss.backward()
        optimizer.step()
        return np.float32(loss.item())

    return run


# ---- epochs ----

EPOCHS = {
    "LeNet-5 on MNIST": ["lenet5.py", "--dataset=mnist", "--epochs=1"],
    "CIFAR net on CIFAR-10": ["cifar10.py", "--epochs=1"],
    "CIFAR net of flax's convolutions": ["cifar10.py", "--epochs=1", "--conv=flax"],
}


def time_epochs(peers: list[str]) -> Iterator[dict[str, Any]]:
    """Time one epoch of the scripts from launch to finish: with an empty compilation cache, and with its own."""
    for name, (script, *arguments) in EPOCHS.items():
        if FLAGS.only not in name:
            continue
        seconds: dict[str, list[float]] = {"warm": [], "cold": []}
        for _ in range(FLAGS.rounds):
            with tempfile.TemporaryDirectory() as folder:
                environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
                for state in ("cold", "warm"):
                    command = [sys.executable, str(Path(__file__).parent / script), *arguments]
                    started = time.perf_counter()
                    done = subprocess.run(
                        [*command, f"--workdir={folder}/{state}"], env=environment, capture_output=True, text=True
                    )
                    seconds[state].append(time.perf_counter() - started)
                    if done.returncode:
                        raise UserError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
        ratios = [warm / cold for warm, cold in zip(*seconds.values(), strict=True)]
        yield {
            "case": name,
            "measure": "launch to finish",
            "seconds": seconds,
            "ratios": {"cold": median(ratios)},
            "spread": {"cold": [min(ratios), max(ratios)]},
        }


if __name__ == "__main__":
    process.run(main)
