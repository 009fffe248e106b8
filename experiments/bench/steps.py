"""Training steps: ours, those of flax's layers, and PyTorch's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import flax_nets
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from dtypes import chosen_dtypes
from flax import nnx
from single_ops import normal, to_torch
from timing import Arrays, Contenders, Result, Run, compare

from cnnjax import models
from cnnjax.train import cross_entropy, make_update, optimizers, state, step

FLAGS = flags.FLAGS


class Step(NamedTuple):
    """Describes a training step of a net, with momentum 0.9, on one batch.

    Attributes:
      name: of the case.
      batch: number of images.
      size: their side.
      channels: their channels.
      maps: number of channels that the first dense layer reads.
      model: name and keywords for `models.build`.
      rate: of learning; the losses of three steps must differ by far more than they are rounded.
      deviation: of the pixels. AlexNet's weights are made for pixels of 0..255: of smaller ones little reaches the last
        poolings but biases, and rounding decides which of many equal pixels is the largest.
      optimizer: `"momentum"`, or `"airbench"`, with all that belongs to its recipe.
      wrong: contenders that compute something else in float32, and are left out.
    """

    name: str
    batch: int
    size: int
    channels: int
    maps: int
    model: dict[str, Any]
    rate: float = 0.001
    deviation: float = 1.0
    optimizer: str = "momentum"
    wrong: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of the twins, by PyTorch and flax."""
        return {"depth": self.model["depth"]} if "depth" in self.model else {}


#: PyTorch 2.13, compiled, takes wrong gradients of AlexNet's convolutions: 100 % off in norm from those in float64.
WRONG = ("torch contiguous_format compiled",)
STEPS = [
    Step("LeNet-5", 128, 32, 1, 16, {"name": "lenet5"}),
    Step("MNIST net", 64, 28, 1, 128, {"name": "mnist_cnn"}),
    Step("CIFAR net, batch norm", 128, 32, 3, 128, {"name": "cifar_cnn", "batch_norm": True, "channels": 3}),
    Step("ResNet-18", 64, 32, 3, 512, {"name": "resnet18", "channels": 3}),
    Step("AlexNet", 32, 224, 3, 256, {"name": "alexnet", "channels": 3}, deviation=60, wrong=WRONG),
    Step("VGG-11", 8, 224, 3, 512, {"name": "vgg", "depth": 11, "channels": 3}, rate=0.01),
    Step("airbench94", 1024, 32, 3, 256, {"name": "airbench94"}, rate=0.03, optimizer="airbench"),
]
AIRBENCH_DECAY, AIRBENCH_UPDATES = 0.0153 / 11.5, 476
"""Weight decay and updates of airbench94."""
TOLERANCES = {"float32": 1e-3, "bfloat16": 2**-8}  # of the losses, by dtype; bfloat16 rounds by as much


def time_steps(peers: list[str]) -> Iterator[Result]:
    """Times training steps: ours, flax's, PyTorch's, without dropout, so that all compute the same numbers.

    Ours are as the scripts take them; flax's are as shipped, and with our options. In bfloat16 ours stand beside our
    own in float32, and PyTorch's under autocast.
    """
    for case, dtype in itertools.product(STEPS, chosen_dtypes(["float32"], known=tuple(TOLERANCES))):
        if FLAGS.only not in case.name:
            continue
        # the losses of the first three steps: a wrong gradient shows in the second
        contenders = {name: three_first(run) for name, run in contenders_of(case, dtype, peers).items()}
        name = f"{case.name}, batch {case.batch}{'' if dtype == 'float32' else f', {dtype}'}"
        reference = "own" if dtype == "float32" else "own float32"
        yield compare(name, "training step", contenders, TOLERANCES[dtype], reference)


def contenders_of(case: Step, dtype: str, peers: list[str]) -> Contenders:
    """Returns the steps of a net."""
    x = case.deviation * normal((case.batch, case.size, case.size, case.channels))[0]
    labels = np.random.default_rng(1).integers(0, 10, case.batch).astype(np.int32)
    params, own = own_step(case, x, labels, dtype)
    contenders: Contenders = {"own": own, "own again": own_step(case, x, labels, dtype)[1]}
    if dtype != "float32":
        contenders["own float32"] = own_step(case, x, labels, "float32")[1]
    elif "flax" in peers and case.optimizer == "momentum":
        contenders["flax"] = flax_step(case, params, x, labels)
        contenders["flax with our options"] = flax_step_with_options(case, params, x, labels)
    if "torch" in peers:
        for compiled, layout in itertools.product((False, True), ("contiguous_format", "channels_last")):
            name = f"torch {layout}{' compiled' if compiled else ''}"
            if name in case.wrong and dtype == "float32":
                print(f"{case.name}: {name} computes other numbers, and is left out", flush=True)
                continue
            contenders[name] = torch_step(case, params, x, labels, dtype, layout, compiled)
    return contenders


def three_first(run: Run) -> Run:
    """Returns a run whose first call makes three steps and returns their losses."""
    called = False

    def first_or_next() -> Arrays:
        nonlocal called
        if called:
            return run()
        called = True
        return np.stack([run() for _ in range(3)])

    return first_or_next


def own_step(case: Step, x: np.ndarray, labels: np.ndarray, dtype: str) -> tuple[dict[str, np.ndarray], Run]:
    """Returns the initial weights by path, and our step, which returns the loss."""
    airbench = case.optimizer == "airbench"
    optimizer = optimizers.optimizer(case.optimizer, case.rate, weight_decay=AIRBENCH_DECAY if airbench else 0.0)
    model = without_dropout(models.build({"model": case.model, "dtype": dtype}))
    net, current = state.initial(model, optimizer, lookahead=airbench)
    arrays = state.to_arrays(current)
    params = {name.removeprefix("params/"): array for name, array in arrays.items() if name.startswith("params/")}
    others: dict[str, Any] = {}
    if airbench:
        smoothed = partial(cross_entropy, label_smoothing=0.2)
        others = {"loss": smoothed, "lookahead_every": 5, "total": AIRBENCH_UPDATES}
    train = step.make_train_step(make_update(net, optimizer, **others))
    batch = jnp.asarray(x[None]), jnp.asarray(labels[None])

    def run() -> Arrays:
        nonlocal current
        current, metrics = train(current, *batch)
        return np.asarray(metrics["loss"])[0]

    return params, run


def without_dropout(net: nnx.Module) -> nnx.Module:
    """Sets the rates of a net's dropouts to 0, in place."""
    for _, layer in nnx.iter_modules(net):
        if isinstance(layer, nnx.Dropout):
            layer.rate = 0.0
    return net


def flax_step(case: Step, params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray) -> Run:
    """Returns a step as flax's own tutorials write it."""
    net = without_dropout(flax_nets.make_net(case.model["name"], params, **case.options))
    optimizer = nnx.Optimizer(net, optax.sgd(case.rate, momentum=0.9), wrt=nnx.Param)
    batch = jnp.asarray(x), jnp.asarray(labels)

    @nnx.jit
    def train(net: nnx.Module, optimizer: nnx.Optimizer, x: jax.Array, labels: jax.Array) -> jax.Array:
        def objective(net: nnx.Module) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(net(x), labels).mean()

        loss, grads = nnx.value_and_grad(objective)(net)
        optimizer.update(net, grads)
        return loss

    return lambda: np.asarray(train(net, optimizer, *batch))


def flax_step_with_options(case: Step, params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray) -> Run:
    """Returns our training step, with its compiler options and donation, of flax's net."""
    optimizer = optimizers.optimizer("momentum", case.rate)
    made = without_dropout(flax_nets.make_net(case.model["name"], params, **case.options))
    net, current = state.initial(made, optimizer)
    train = step.make_train_step(make_update(net, optimizer))
    batch = jnp.asarray(x[None]), jnp.asarray(labels[None])

    def run() -> Arrays:
        nonlocal current
        current, metrics = train(current, *batch)
        return np.asarray(metrics["loss"])[0]

    return run


def torch_step(
    case: Step,
    params: dict[str, np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    dtype: str,
    layout: str,
    compiled: bool,
) -> Run:
    """Returns a step of PyTorch's net, with these weights; in bfloat16 its forward pass is under autocast."""
    import torch
    import torch_nets

    if case.optimizer == "airbench":
        return torch_airbench_step(case, params, x, labels, dtype, layout, compiled)
    net = torch_nets.make_net(case.model["name"], params, case.maps, layout, **case.options)
    optimizer = torch.optim.SGD(net.parameters(), lr=case.rate, momentum=0.9)
    batch, targets = to_torch(x, kernel=False, layout=layout), torch.tensor(labels).long()
    called = torch.compile(net) if compiled else net

    def run() -> Arrays:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=getattr(torch, dtype), enabled=dtype != "float32"):
            loss = torch.nn.functional.cross_entropy(called(batch), targets)
        loss.backward()
        optimizer.step()
        return np.float32(loss.item())

    return run


def torch_airbench_step(
    case: Step,
    params: dict[str, np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    dtype: str,
    layout: str,
    compiled: bool,
) -> Run:
    """Returns a step of airbench in PyTorch, with these weights; in bfloat16 its forward pass is under autocast."""
    import torch
    import torch_airbench

    net = torch_airbench.load(torch_airbench.Airbench(), params, layout)
    train = torch_airbench.make_step(
        net, torch.compile(net) if compiled else net, case.rate, AIRBENCH_DECAY, AIRBENCH_UPDATES, case.batch,
        partial(torch.autocast, "cpu", dtype=getattr(torch, dtype), enabled=dtype != "float32"),
    )  # fmt: skip
    batch, targets = to_torch(x, kernel=False, layout=layout), torch.tensor(labels).long()
    return lambda: np.float32(train(batch, targets).item())
