"""Training steps: ours, those of flax's layers, and PyTorch's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax_nets
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags
from flax import nnx
from single_ops import normal, to_torch
from timing import Arrays, Contenders, Result, Run, compare

from cnnjax import models
from cnnjax.train import make_update, optimizers, state, step

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
    """

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


def time_steps(peers: list[str]) -> Iterator[Result]:
    """Times training steps: ours, flax's, PyTorch's.

    Ours are as the scripts take them; flax's are as shipped, and with our options.
    """
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
    """Returns a run whose first call makes three steps and returns their losses."""
    called = False

    def first_or_next() -> Arrays:
        nonlocal called
        if called:
            return run()
        called = True
        return np.stack([run() for _ in range(3)])

    return first_or_next


def own_step(case: Step, x: np.ndarray, labels: np.ndarray) -> tuple[dict[str, np.ndarray], Run]:
    """Returns the initial weights by path, and our step, which returns the loss."""
    optimizer = optimizers.optimizer("momentum", RATE)
    net, current = state.initial(models.build({"model": case.model}), optimizer)
    arrays = state.to_arrays(current)
    params = {name.removeprefix("params/"): array for name, array in arrays.items() if name.startswith("params/")}
    train = step.make_train_step(make_update(net, optimizer))
    batch = jnp.asarray(x[None]), jnp.asarray(labels[None])

    def run() -> Arrays:
        nonlocal current
        current, metrics = train(current, *batch)
        return np.asarray(metrics["loss"])[0]

    return params, run


def flax_step(case: Step, params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray) -> Run:
    """Returns a step as flax's own tutorials write it."""
    net = flax_nets.make_net(case.model["name"], params)
    optimizer = nnx.Optimizer(net, optax.sgd(RATE, momentum=0.9), wrt=nnx.Param)
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
    optimizer = optimizers.optimizer("momentum", RATE)
    net, current = state.initial(flax_nets.make_net(case.model["name"], params), optimizer)
    train = step.make_train_step(make_update(net, optimizer))
    batch = jnp.asarray(x[None]), jnp.asarray(labels[None])

    def run() -> Arrays:
        nonlocal current
        current, metrics = train(current, *batch)
        return np.asarray(metrics["loss"])[0]

    return run


def torch_step(
    case: Step, params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray, layout: str, compiled: bool
) -> Run:
    """Returns a step of PyTorch's net, with these weights."""
    import torch
    import torch_nets

    net = torch_nets.make_net(case.model["name"], params, case.maps, layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)
    batch, targets = to_torch(x, kernel=False, layout=layout), torch.tensor(labels).long()
    called = torch.compile(net) if compiled else net

    def run() -> Arrays:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(called(batch), targets)
        loss.backward()
        optimizer.step()
        return np.float32(loss.item())

    return run
