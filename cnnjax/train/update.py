"""The training update: a pure function of the state and a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from cnnjax.data import rng
from cnnjax.train.averages import ema as moving_average
from cnnjax.train.averages import lookahead
from cnnjax.train.loss_scale import loss_scale_of
from cnnjax.train.losses import Loss, Metric, Scalars, batch_values, cross_entropy
from cnnjax.train.state import GraphDefs, TrainState, Tree, apply_training

GATHERED = "gathered"
"""Name of the parameters that were made whole on every device."""
Update = Callable[[TrainState, Tree, Tree], tuple[TrainState, Scalars]]


def make_update(
    net: GraphDefs,
    optimizer: optax.GradientTransformation,
    loss: Loss = cross_entropy,
    seed: int | jax.Array = 0,
    *,
    metrics: Mapping[str, Metric] | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    lookahead_every: int | None = None,
    total: int | None = None,
    gather: Callable[[Tree], Tree] | None = None,
) -> Update:
    """Returns the pure `update(state, x, y) -> (state, values)`, not jitted.

    `x` is a batch as the model takes it, `y` whatever `loss` takes. The values are scalars of the batch before the
    step: the loss, what the loss returns beside it, and the metrics.

    Args:
      net: as `split` returns it.
      optimizer: any transformation of optax.
      loss: `loss(outputs, y)`: a scalar, or a scalar and a dict of scalars.
      seed: with `state.step`, decides what random layers draw; or its `rng.root`.
      metrics: `metric(outputs, y)` by name; by default the accuracy where labels are classes.
      accumulate: parts of the batch that are computed one after the other; divides the batch's size.
      ema: decay of `state.average`, which must be there: see `initial`.
      lookahead_every: of `averages.lookahead`, for `state.slow`, which must be there; `None` for none.
      total: updates of the whole run, which the same needs.
      gather: makes sharded parameters whole, within the derivative; `None` where they are replicated.

    Raises:
      ValueError: `lookahead_every` without `total`.
    """
    if lookahead_every is not None and total is None:
        raise ValueError(f"lookahead_every={lookahead_every} needs total, the updates of the whole run")
    optimizer = optax.with_extra_args_support(optimizer)

    def gradients(state: TrainState, rest: Tree, x: Tree, y: Tree, key: jax.Array | None) -> tuple[Tree, Tree, Scalars]:
        scale = loss_scale_of(state.opt_state)

        def objective(params: Tree) -> tuple[jax.Array, tuple[Tree, Scalars]]:
            whole = params if gather is None else checkpoint_name(gather(params), GATHERED)
            outputs, after = apply_training(net, whole, rest, x, key)
            value, values = batch_values(loss, metrics, outputs, y)
            return value * jnp.asarray(scale, value.dtype), (after, values)

        if gather is not None:  # whole parameters are not kept for the backward pass, but gathered again
            others = jax.checkpoint_policies.save_anything_except_these_names(GATHERED)
            objective = jax.checkpoint(objective, policy=others)
        grads, (after, values) = jax.grad(objective, has_aux=True)(state.params)
        return grads, after, values

    def update(state: TrainState, x: Tree, y: Tree) -> tuple[TrainState, Scalars]:
        key = rng.key(seed, rng.DROPOUT, state.step) if net.streams else None
        if accumulate == 1:
            grads, rest, values = gradients(state, state.rest, x, y, key)
        else:
            grads, rest, values = in_parts(gradients, accumulate, state, x, y, key)
        changes, opt_state = optimizer.update(grads, state.opt_state, state.params, value=values["loss"], **state.extra)
        params = optax.apply_updates(state.params, changes)
        slow, done = state.slow, state.step + 1
        if lookahead_every is not None and total is not None:
            slow, (params, rest) = lookahead(slow, (params, rest), done, every=lookahead_every, total=total)
        average = state.average if ema is None else moving_average(state.average, params, ema)
        return TrainState(params, rest, opt_state, done, state.extra, average, slow), values

    return update


def in_parts(
    gradients: Callable[..., tuple[Tree, Tree, Scalars]],
    parts: int,
    state: TrainState,
    x: Tree,
    y: Tree,
    key: jax.Array | None,
) -> tuple[Tree, Tree, Scalars]:
    """Returns the mean gradients and values of a batch, computed part by part.

    Part i has the examples i, i + parts, ...: where the batch is sharded over devices, so is each part.
    """

    def split(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(len(leaf) // parts, parts, *leaf.shape[1:]).swapaxes(0, 1)

    def step(rest: Tree, part: tuple[Tree, Tree, jax.Array]) -> tuple[Tree, tuple[Tree, Scalars]]:
        x, y, number = part
        own = None if key is None else jax.random.fold_in(key, number)
        grads, rest, values = gradients(state, rest, x, y, own)
        return rest, (grads, values)

    def add(carry: tuple[Tree, Tree], part: tuple[Tree, Tree, jax.Array]) -> tuple[tuple[Tree, Tree], None]:
        rest, sums = carry
        rest, found = step(rest, part)
        return (rest, jax.tree.map(jnp.add, sums, found)), None

    each = (*jax.tree.map(split, (x, y)), jnp.arange(parts))
    first, others = jax.tree.map(lambda leaf: leaf[0], each), jax.tree.map(lambda leaf: leaf[1:], each)
    (rest, (grads, values)), _ = jax.lax.scan(add, step(state.rest, first), others)
    return jax.tree.map(lambda total: total / parts, grads), rest, jax.tree.map(lambda total: total / parts, values)
