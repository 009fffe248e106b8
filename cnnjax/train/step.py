"""The training update, and the jitted training and evaluation steps around it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnnjax.data import rng
from cnnjax.train.state import Net, TrainState, apply_inference, apply_training

Metrics = dict[str, jax.Array]
Update = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]
Prepare = Callable[[jax.Array], jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
Views = Callable[[jax.Array], jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the batch of ``-log softmax(logits)[label]``, in float32. logits (N, C), labels int (N,)."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def make_update(
    net: Net,
    optimizer: optax.GradientTransformationExtraArgs,
    loss: Loss = cross_entropy,
    seed: int = 0,
) -> Update:
    """The pure function ``update(state, x, labels) -> (state, metrics)`` of one gradient step. Not jitted.

    x is a batch as the model takes it, labels int32 (N,), or whatever `loss` takes; metrics are the batch's loss and,
    of classes, accuracy before the step. What random layers draw is a function of (seed, state.step).
    """

    def update(state: TrainState, x: jax.Array, labels: jax.Array) -> tuple[TrainState, Metrics]:
        key = rng.key(seed, rng.DROPOUT, state.step) if net.streams else None

        def objective(params: Any) -> tuple[jax.Array, Any]:
            logits, rest = apply_training(net, params, state.rest, x, key)
            return loss(logits, labels), (logits, rest)

        (value, (logits, rest)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params, **state.extra)
        params = optax.apply_updates(state.params, changes)
        metrics = {"loss": value}
        if jnp.issubdtype(labels.dtype, jnp.integer):  # classes, not values to come near to
            metrics["accuracy"] = (logits.argmax(-1) == labels).astype(jnp.float32).mean()
        return TrainState(params, rest, opt_state, state.step + 1, state.extra), metrics

    return update


def data_mesh() -> Mesh:
    """All local devices along one axis, ``"batch"``."""
    devices = jax.local_devices()
    return jax.make_mesh((len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put a copy of every array on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def pixels_to_float(examples: jax.Array) -> jax.Array:
    """Pixels, uint8, as float32 0..255; what is of another dtype, as the ids of words, as it is."""
    return examples.astype(jnp.float32) if examples.dtype == jnp.uint8 else examples


def make_batches(mesh: Mesh, seed: int, prepare: Prepare, augment: Augment | None) -> Callable:
    """Jit ``batches(images, labels, indices, step) -> (x, labels)``: the batches of the updates from `step` on.

    images uint8 (N, H, W, C), or other examples (N, ...), and labels int32 (N,) are the whole training set, on the
    device; indices int32 (K, B) name the examples. x (K, B, ...) is what `update` takes; each batch is shared out over
    the mesh.

    Apart from the update: fused into it, XLA computes each pixel again for every tap of the first convolution
    (on 2 CPU cores LeNet-5's step with `data.affine` took 10.3 ms so, and 7.5 ms apart).
    """
    over_devices = NamedSharding(mesh, PartitionSpec(None, "batch"))

    @jax.jit
    def batches(images: jax.Array, labels: jax.Array, indices: jax.Array, step: jax.Array):
        def one(chosen: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = pixels_to_float(images[chosen])
            if augment is not None:
                x = augment(rng.key(seed, rng.AUGMENT, step), x)
            return prepare(x), labels[chosen]

        indices = jax.lax.with_sharding_constraint(indices, over_devices)
        return jax.vmap(one)(indices, step + jnp.arange(len(indices)))

    return batches


def make_train_step(update: Update) -> Callable:
    """Jit ``train_step(state, x, labels) -> (state, metrics)``: K updates in turn; the state given is donated.

    x (K, B, ...) and labels (K, B) are the batches, and the metrics come back as arrays (K,).
    """

    def train_step(state: TrainState, x: jax.Array, labels: jax.Array) -> tuple[TrainState, Metrics]:
        if len(x) == 1:  # outside a loop XLA spreads elementwise work over the cores
            state, metrics = update(state, x[0], labels[0])
            return state, jax.tree.map(lambda m: m[None], metrics)
        return jax.lax.scan(lambda state, batch: update(state, *batch), state, (x, labels))

    return jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options())


def make_predict(
    net: Net, mesh: Mesh, prepare: Prepare, batch_size: int = 256, *, views: Views | None = None
) -> Callable:
    """``predict(state, images) -> logits``: float32 (N, classes) on the host, each image once, in order.

    Works through the images by `batch_size` per device; the last batch is filled up with zeros, whose logits go.
    `views` makes of a batch (B, H, W, C) several ways to look at it, (V, B, H', W', C): the logits are then the
    logarithm of the mean over these of the softmax.
    """
    over_devices = NamedSharding(mesh, PartitionSpec("batch"))
    size = batch_size * mesh.size

    @jax.jit
    def logits(params: Any, rest: Any, images: jax.Array) -> jax.Array:
        def one(images: jax.Array) -> jax.Array:
            return apply_inference(net, params, rest, prepare(pixels_to_float(images))).astype(jnp.float32)

        images = jax.lax.with_sharding_constraint(images, over_devices)
        if views is None:
            return one(images)
        seen = views(images)
        each = jax.lax.map(lambda view: jax.nn.log_softmax(one(view)), seen)  # in turn, for the sake of the memory
        return jax.nn.logsumexp(each, axis=0) - jnp.log(jnp.float32(len(seen)))

    def predict(state: TrainState, images: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            padded = np.pad(part, [(0, size - len(part)), *[(0, 0)] * (images.ndim - 1)])
            parts.append(logits(state.params, state.rest, padded)[: len(part)])
        return np.concatenate([np.asarray(part) for part in parts])

    return predict


@functools.cache
def compiler_options() -> dict[str, str] | None:
    """XLA options for the outermost jit of a step: none but on the CPU, and there only if this XLA knows them.

    XLA's reductions are fastest by YNNPACK, its products and convolutions are not (a CIFAR step with batch norm, where
    convolutions are XLA's own: 203 ms by default, 175 without YNNPACK, 129 with it for reductions alone).
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(jnp.zeros(())).compile()
    except Exception:  # what XLA raises for an option it does not know differs by version
        return None
    return options
