"""The jitted functions of a run: its batches, its updates, its outputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.data import BatchInfo, WeightedViews, rng
from cnnjax.train import devices
from cnnjax.train.losses import Scalars
from cnnjax.train.state import GraphDefs, TrainState, Tree, apply_inference
from cnnjax.train.update import Update

Prepare = Callable[[Any], Any]
Augment = Callable[..., Any]
Views = Callable[[Any], Any]
Batches = Callable[[Tree, Tree, Any, Any], tuple[Tree, Tree]]
Predict = Callable[[TrainState, Any], Any]
LARGEST_BATCH = 256
"""Examples per device and call of a prediction, if it is not told."""


def pixels_to_float(examples: Tree) -> Tree:
    """Casts uint8 pixels to float32; leaves other dtypes unchanged."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.uint8 else leaf, examples)


def make_batches(
    mesh: Mesh, seed: int, prepare: Prepare | None, augment: Augment | None, updates_per_epoch: int | None = None
) -> Batches:
    """Returns the jitted function that makes the batches of some updates.

    It is `batches(x, y, indices, step, numbers=None) -> (x, y)`, for the updates from `step` on.

    `x` and `y`, arrays or pytrees of arrays `(N, ...)`, are the examples to choose from, on the device; `indices`,
    int32 `(K, B)`, choose them. Where `indices` is None, `x` and `y` are the chosen ones, `(K, B, ...)`, and `numbers`,
    where `augment` asks for them, their indices. The batches are `(K, B, ...)`, each sharded over the mesh.

    It is jitted apart from the update: fused into it, XLA would compute each pixel again for every tap of the first
    convolution.

    Args:
      mesh: with the axis `"batch"`, of type `jax.sharding.AxisType.Auto`.
      seed: with the step, decides the augmentation.
      prepare: turns examples, uint8 made float32, into the model's input; `None` leaves them.
      augment: `augment(key, x)` or `augment(key, x, y) -> (x, y)`, comes before `prepare`; `None` for none. Where it
        has a keyword-only argument `info`, that is the `data.BatchInfo` of the batch.
      updates_per_epoch: by which the epoch of a batch is known, for `info`.
    """
    over_devices = NamedSharding(mesh, PartitionSpec(None, "batch"))

    def info(numbers: jax.Array, step: jax.Array) -> BatchInfo:
        epoch = step // updates_per_epoch if updates_per_epoch else jnp.zeros_like(step)
        return BatchInfo(numbers, epoch, rng.key(seed, rng.FLIP))

    @jax.jit
    def batches(
        x: Tree, y: Tree, indices: jax.Array | None, step: jax.Array, numbers: jax.Array | None = None
    ) -> tuple[Tree, Tree]:
        def make_batch(x: Tree, y: Tree, numbers: jax.Array | None, step: jax.Array) -> tuple[Tree, Tree]:
            x = pixels_to_float(x)
            if augment is not None:
                told = None if numbers is None else info(numbers, step)
                x, y = apply_augment(augment, rng.key(seed, rng.AUGMENT, step), x, y, told)
            return x if prepare is None else prepare(x), y

        if indices is not None:
            chosen = jax.lax.with_sharding_constraint(indices, over_devices)
            x, y = jax.tree.map(lambda leaf: leaf[chosen], (x, y))
            numbers = chosen
        return jax.vmap(make_batch)(x, y, numbers, step + jnp.arange(len(jax.tree.leaves(x)[0])))

    return batches


def apply_augment(augment: Augment, key: jax.Array, x: Tree, y: Tree, info: BatchInfo | None) -> tuple[Tree, Tree]:
    """Returns examples and labels as `augment` changes them, which takes the labels and `info` or not."""
    told = {"info": info} if takes_info(augment) else {}
    return augment(key, x, y, **told) if takes_labels(augment) else (augment(key, x, **told), y)


def takes_info(augment: Augment) -> bool:
    """True for an augmentation with the keyword-only argument `info`."""
    found = inspect.signature(augment).parameters.get("info")
    return found is not None and found.kind is inspect.Parameter.KEYWORD_ONLY


def takes_labels(augment: Augment) -> bool:
    """True for `augment(key, x, y)`, False for `augment(key, x)`, by the arguments without a default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(augment).parameters.values()
    needed = [one for one in parameters if one.kind in kinds and one.default is inspect.Parameter.empty]
    return len(needed) >= 3


def make_train_step(update: Update, platform: str | None = None, *, shardings: TrainState | None = None) -> Update:
    """Returns the jitted function of K updates; it donates the state.

    It is `train_step(state, x, y) -> (state, values)`.

    `x` and `y`, `(K, B, ...)`, are the batches; the values are arrays `(K,)`.

    Args:
      update: as `make_update` returns it.
      platform: `"cpu"`, `"gpu"` or `"tpu"`, where the function is only compiled here and will run there; `None` means
        the platform of this process.
      shardings: of the state's arrays, which they keep; the values are then replicated. `None` leaves both to XLA.
    """
    placed: dict[str, Any] = {}
    if shardings is not None:
        placed["out_shardings"] = shardings, shardings.step  # a scalar, which is on all devices
    return jax.jit(several(update), donate_argnums=0, compiler_options=compiler_options(platform), **placed)


def several(update: Update) -> Update:
    """Returns the function of K updates, not jitted: `(state, x, y)` of batches `(K, B, ...)`, values `(K,)`."""

    def updates(state: TrainState, x: Tree, y: Tree) -> tuple[TrainState, Scalars]:
        if len(jax.tree.leaves(x)[0]) == 1:  # outside a loop XLA spreads elementwise work over the cores
            state, values = update(state, *jax.tree.map(lambda leaf: leaf[0], (x, y)))
            return state, jax.tree.map(lambda value: value[None], values)
        return jax.lax.scan(lambda state, batch: update(state, *batch), state, (x, y))

    return updates


def make_predict(
    net: GraphDefs,
    mesh: Mesh,
    prepare: Prepare | None,
    batch_size: int | None = None,
    *,
    views: Views | None = None,
    probabilities: bool = True,
) -> Predict:
    """Returns the function `predict(state, x) -> outputs`.

    The outputs are float32 `(N, ...)` on the host, or a pytree of such; each example once, in order.

    Args:
      net: as `split` returns it.
      mesh: with the axis `"batch"`, of type `jax.sharding.AxisType.Auto`.
      prepare: turns examples into the model's input; `None` leaves them.
      batch_size: examples per device and call; the last batch is padded with zeros, whose outputs are dropped. `None`
        means 256, as in evaluation, and of fewer examples the next power of two per device; each is compiled at its
        first use. The bits of an output depend on the size of its batch.
      views: turns a batch `(B, H, W, C)` into V views of it, `(V, B, H', W', C)`; `data.WeightedViews` also says how
        much each counts, and averages logits as they are.
      probabilities: whether outputs are logits, so that views are averaged as the logarithm of the mean softmax;
        otherwise by the mean of the outputs.

    Raises:
      ValueError: of `predict`, there is no example.
    """
    apply = make_apply(net, mesh, prepare, views=views, probabilities=probabilities)

    def predict(state: TrainState, x: Tree) -> Tree:
        params, n = state.evaluated(), len(jax.tree.leaves(x)[0])
        if not n:
            raise ValueError("x must have at least one example, had none")
        size = mesh.size * (batch_size or min(LARGEST_BATCH, power_of_two(-(-n // mesh.size))))
        calls = [(apply(params, state.rest, padded), count) for padded, count in padded_batches(x, size)]
        parts = [jax.tree.map(lambda leaf, count=count: np.asarray(leaf)[:count], outputs) for outputs, count in calls]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return predict


def power_of_two(count: int) -> int:
    """Returns the smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()


def make_apply(
    net: GraphDefs, mesh: Mesh, prepare: Prepare | None, *, views: Views | None, probabilities: bool
) -> Callable[[Tree, Tree, Tree], Tree]:
    """Returns the jitted `apply(params, rest, x) -> outputs` of one batch in evaluation mode, see `make_predict`."""
    over_devices = NamedSharding(mesh, PartitionSpec("batch"))

    @jax.jit
    def apply(params: Tree, rest: Tree, x: Tree) -> Tree:
        def one_view(x: Tree) -> Tree:
            x = pixels_to_float(x)
            return jax.tree.map(to_float32, apply_inference(net, params, rest, x if prepare is None else prepare(x)))

        x = jax.lax.with_sharding_constraint(x, over_devices)
        params = devices.gather(mesh, params)
        if views is None:
            return one_view(x)
        of_batch = views(x)
        if isinstance(views, WeightedViews):
            weights = jnp.array(views.weights, jnp.float32)
            return jax.tree.map(
                lambda leaf: jnp.tensordot(weights, leaf, 1, precision="highest"), jax.lax.map(one_view, of_batch)
            )
        if not probabilities:
            return jax.tree.map(lambda leaf: leaf.mean(0), jax.lax.map(one_view, of_batch))
        each = jax.lax.map(lambda view: jax.nn.log_softmax(one_view(view)), of_batch)  # one by one, to save memory
        return jax.nn.logsumexp(each, axis=0) - jnp.log(jnp.float32(len(each)))

    return apply


def padded_batches(x: Tree, size: int) -> Iterator[tuple[Tree, int]]:
    """Yields the examples in batches of `size`, the last one padded with zeros, and how many of each are real."""
    n = len(jax.tree.leaves(x)[0])
    for start in range(0, n, size):
        count = min(size, n - start)
        yield pad_batch(jax.tree.map(lambda leaf, at=start: np.asarray(leaf[at : at + size]), x), size), count


def pad_batch(x: Tree, size: int) -> Tree:
    """Pads arrays `(n, ...)` with zeros to `(size, ...)`; returns whole ones as they are."""

    def pad(leaf: np.ndarray) -> np.ndarray:
        missing = size - len(leaf)
        return np.pad(leaf, [(0, missing), *[(0, 0)] * (leaf.ndim - 1)]) if missing else leaf

    return jax.tree.map(pad, x)


def to_float32(outputs: jax.Array) -> jax.Array:
    """Casts floats of half precision to float32; leaves other dtypes unchanged."""
    half = outputs.dtype in (jnp.bfloat16, jnp.float16)
    return outputs.astype(jnp.float32) if half else outputs


@functools.cache
def compiler_options(platform: str | None = None) -> dict[str, str] | None:
    """Returns XLA options for the outermost jit of a step, on the CPU only.

    There are none where this XLA does not know them.

    YNNPACK makes XLA's reductions faster, but its products and convolutions slower.

    Args:
      platform: the one that the step is compiled for; `None` means that of this process.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    if (platform or jax.default_backend()) != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(jnp.zeros(())).compile()
    except Exception:  # the type of the error for an unknown option differs by version
        return None
    return options
