"""The programs of a run, lowered for devices that are not there: nothing is drawn, allocated or run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from cnnjax.errors import UserError
from cnnjax.train import at_once
from cnnjax.train.losses import Loss, cross_entropy
from cnnjax.train.state import GraphDefs, TrainState, initial
from cnnjax.train.step import make_apply, make_train_step
from cnnjax.train.update import Update, make_update


def lower_update(
    make_model: Callable[[], Any],
    optimizer: optax.GradientTransformation,
    devices: Sequence[jax.Device],
    *,
    example_shape: Sequence[int],
    batch_size: int,
    example_dtype: DTypeLike = "float32",
    label: jax.ShapeDtypeStruct | None = None,
    loss: Loss = cross_entropy,
    accumulate: int = 1,
    ema: float | None = None,
    lookahead: int | None = None,
    updates: int = 1,
    nets: int = 1,
) -> jax.stages.Lowered:
    """Lowers training updates, as `train.fit` jits a call: the state is donated and replicated, the batch sharded.

    Args:
      make_model: makes any `nnx.Module`, called as `model(x)`. It is traced, so no weights are drawn.
      optimizer: any transformation of optax.
      devices: of one platform, such as `Target.devices()` or `jax.devices()`.
      example_shape: of one example as the model takes it, `(*S, C)`.
      batch_size: examples over all devices; each part of it, see `accumulate`, is a multiple of their number.
      example_dtype: of the examples.
      label: of one example; by default a class, int32 `()`.
      loss: as for `train.fit`.
      accumulate: as for `train.fit`.
      ema: as for `train.fit`.
      lookahead: as for `train.fit`.
      updates: in the call, see `train.Options.updates_per_call`.
      nets: trained at once on a single device, see `train.fit_at_once`; each has a state and batches of its own.

    Returns:
      The lowered program of `(state, x, y) -> (state, values)`; x is `(updates, batch_size, *example_shape)`. Its
      `compile()` needs the compiler of that platform. Of several nets all three are lists.

    Raises:
      UserError: the batch cannot be shared out over the devices; or there are several nets and devices.
    """
    if batch_size < 1 or batch_size % (len(devices) * accumulate):
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise UserError(
            f"`batch_size={batch_size}` cannot be shared out over {len(devices)} devices{parts}: give a multiple of "
            f"{len(devices) * accumulate}."
        )
    mesh = _mesh(devices)
    net, state = _shapes(make_model, optimizer, average=ema is not None, lookahead=lookahead is not None)
    label = label or jax.ShapeDtypeStruct((), jnp.int32)
    x = jax.ShapeDtypeStruct((updates, batch_size, *example_shape), example_dtype)
    y = jax.ShapeDtypeStruct((updates, batch_size, *label.shape), label.dtype)

    def update_of(seed: int | jax.Array) -> Update:
        return make_update(
            net, optimizer, loss, seed, accumulate=accumulate, ema=ema, lookahead_every=lookahead, total=1
        )

    platform, (state,) = devices[0].platform, _on(mesh, PartitionSpec(), state)
    batch = _on(mesh, PartitionSpec(None, "batch"), x, y)
    if nets == 1:
        return make_train_step(update_of(0), platform).lower(state, *batch)  # type: ignore[attr-defined]
    if len(devices) > 1:
        raise UserError(f"nets that are trained at once have one device, and {len(devices)} were given: plan for one.")
    of_all = ([each] * nets for each in (state, *batch))
    return at_once.make_step(update_of, range(nets), platform=platform).lower(*of_all)


def lower_evaluation(
    make_model: Callable[[], Any],
    devices: Sequence[jax.Device],
    *,
    example_shape: Sequence[int],
    batch_size: int,
    example_dtype: DTypeLike = "float32",
) -> jax.stages.Lowered:
    """Lowers the outputs of one batch in evaluation mode, as `train.fit` jits them; arguments as for `lower_update`.

    Returns:
      The lowered program of `(params, rest, x) -> outputs`; x is `(batch_size, *example_shape)`.
    """
    mesh = _mesh(devices)
    net, state = _shapes(make_model, optax.identity())
    x = jax.ShapeDtypeStruct((batch_size, *example_shape), example_dtype)
    apply = make_apply(net, mesh, None, views=None, probabilities=True)
    params, rest = _on(mesh, PartitionSpec(), state.params, state.rest)
    return apply.lower(params, rest, *_on(mesh, PartitionSpec("batch"), x))  # type: ignore[attr-defined]


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    return Mesh(np.array(devices), ("batch",), axis_types=(AxisType.Auto,))


def _shapes(
    make_model: Callable[[], Any],
    optimizer: optax.GradientTransformation,
    *,
    average: bool = False,
    lookahead: bool = False,
) -> tuple[GraphDefs, TrainState]:
    """Returns the graph definitions, and the state as shapes and dtypes."""
    found: list[GraphDefs] = []

    def start() -> TrainState:
        net, state = initial(make_model(), optimizer, average=average, lookahead=lookahead)
        found.append(net)
        return state

    state = jax.eval_shape(start)
    return found[0], state


def _on(mesh: Mesh, spec: PartitionSpec, *trees: Any) -> Any:
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), trees)
