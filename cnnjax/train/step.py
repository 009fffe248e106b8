"""Training update, and the jitted training and evaluation steps around it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.data import rng
from cnnjax.train.state import GraphDefs, TrainState, Tree, apply_inference, apply_training

Metrics = dict[str, jax.Array]
Update = Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]
Prepare = Callable[[jax.Array], jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Augment = Callable[[jax.Array, jax.Array], jax.Array]
Views = Callable[[jax.Array], jax.Array]
Batches = Callable[[jax.Array, jax.Array, np.ndarray, np.int32], tuple[jax.Array, jax.Array]]
Predict = Callable[[TrainState, np.ndarray], np.ndarray]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the mean of `-log softmax(logits)[label]`, in float32.

    Logits are (N, C), labels (N,), int.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()


def make_update(
    net: GraphDefs,
    optimizer: optax.GradientTransformationExtraArgs,
    loss: Loss = cross_entropy,
    seed: int = 0,
) -> Update:
    """Returns the pure `update(state, x, labels) -> (state, metrics)`, not jitted.

    `x` is a batch as the model takes it; labels are int32 `(N,)`, or whatever `loss` takes. Metrics are the batch's
    loss before the step and, where labels are ints, its accuracy.

    Args:
      net: as `split` returns it.
      optimizer: any transformation of optax.
      loss: `loss(logits, labels)`, a scalar.
      seed: with `state.step`, decides what random layers draw.
    """

    def update(state: TrainState, x: jax.Array, labels: jax.Array) -> tuple[TrainState, Metrics]:
        key = rng.key(seed, rng.DROPOUT, state.step) if net.streams else None

        def objective(params: Tree) -> tuple[jax.Array, tuple[jax.Array, Tree]]:
            logits, rest = apply_training(net, params, state.rest, x, key)
            return loss(logits, labels), (logits, rest)

        (value, (logits, rest)), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params, **state.extra)
        params = optax.apply_updates(state.params, changes)
        metrics = {"loss": value}
        if jnp.issubdtype(labels.dtype, jnp.integer):  # classes, not regression targets
            metrics["accuracy"] = (logits.argmax(-1) == labels).astype(jnp.float32).mean()
        return TrainState(params, rest, opt_state, state.step + 1, state.extra), metrics

    return update


def pixels_to_float(examples: jax.Array) -> jax.Array:
    """Casts uint8 pixels to float32; leaves other dtypes unchanged."""
    return examples.astype(jnp.float32) if examples.dtype == jnp.uint8 else examples


def make_batches(mesh: Mesh, seed: int, prepare: Prepare, augment: Augment | None) -> Batches:
    """Returns the jitted function that makes the batches of some updates.

    It is `batches(images, labels, indices, step) -> (x, labels)`, for the updates from `step` on.

    `images`, uint8 `(N, H, W, C)` or other examples `(N, ...)`, and `labels`, `(N,)`, are the whole training set, on
    the device; `indices`, int32 `(K, B)`, choose the examples. `x` is `(K, B, ...)`, each batch sharded over the mesh.

    It is jitted apart from the update: fused into it, XLA would compute each pixel again for every tap of the first
    convolution.

    Args:
      mesh: with the axis `"batch"`.
      seed: with the step, decides the augmentation.
      prepare: turns examples into the model's input.
      augment: comes before `prepare`; `None` for no augmentation.
    """
    over_devices = NamedSharding(mesh, PartitionSpec(None, "batch"))

    @jax.jit
    def batches(
        images: jax.Array, labels: jax.Array, indices: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def make_batch(chosen: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
            x = pixels_to_float(images[chosen])
            if augment is not None:
                x = augment(rng.key(seed, rng.AUGMENT, step), x)
            return prepare(x), labels[chosen]

        indices = jax.lax.with_sharding_constraint(indices, over_devices)
        return jax.vmap(make_batch)(indices, step + jnp.arange(len(indices)))

    return batches


def make_train_step(update: Update) -> Update:
    """Returns the jitted function of K updates; it donates the state.

    It is `train_step(state, x, labels) -> (state, metrics)`.

    `x`, `(K, B, ...)`, and `labels`, `(K, B)`, are the batches; the metrics are arrays `(K,)`.
    """

    def train_step(state: TrainState, x: jax.Array, labels: jax.Array) -> tuple[TrainState, Metrics]:
        if len(x) == 1:  # outside a loop XLA spreads elementwise work over the cores
            state, metrics = update(state, x[0], labels[0])
            return state, jax.tree.map(lambda m: m[None], metrics)
        return jax.lax.scan(lambda state, batch: update(state, *batch), state, (x, labels))

    return jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options())


def make_predict(
    net: GraphDefs, mesh: Mesh, prepare: Prepare, batch_size: int = 256, *, views: Views | None = None
) -> Predict:
    """Returns the function `predict(state, images) -> logits`.

    The logits are float32 `(N, classes)` on the host, each image once, in order.

    Args:
      net: as `split` returns it.
      mesh: with the axis `"batch"`.
      prepare: turns images into the model's input.
      batch_size: images per device and call. The last batch is padded with zeros, whose logits are dropped.
      views: turns a batch `(B, H, W, C)` into V views of it, `(V, B, H', W', C)`; the logits are then the logarithm
        of the mean softmax over the views.
    """
    over_devices = NamedSharding(mesh, PartitionSpec("batch"))
    size = batch_size * mesh.size

    @jax.jit
    def logits(params: Tree, rest: Tree, images: jax.Array) -> jax.Array:
        def apply(images: jax.Array) -> jax.Array:
            return apply_inference(net, params, rest, prepare(pixels_to_float(images))).astype(jnp.float32)

        images = jax.lax.with_sharding_constraint(images, over_devices)
        if views is None:
            return apply(images)
        of_batch = views(images)
        each = jax.lax.map(lambda view: jax.nn.log_softmax(apply(view)), of_batch)  # one by one, to save memory
        return jax.nn.logsumexp(each, axis=0) - jnp.log(jnp.float32(len(of_batch)))

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
    """Returns XLA options for the outermost jit of a step, on the CPU only.

    There are none where this XLA does not know them.

    YNNPACK makes XLA's reductions faster, but its products and convolutions slower.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(jnp.zeros(())).compile()
    except Exception:  # the type of the error for an unknown option differs by version
        return None
    return options
