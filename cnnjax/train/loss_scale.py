"""Loss scaling: gradients in float16 that would round to zero are computed times a large number."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

LARGEST = 2.0**127
"""The largest power of two in float32."""


class LossScaleState(NamedTuple):
    """Holds the scale and what decides when it grows.

    Attributes:
      scale: float32 scalar, what the next loss must be multiplied by.
      finite: int32 scalar, how many gradients in a row were finite since the scale last changed.
      inner: the state of the wrapped optimiser.
    """

    scale: jax.Array
    finite: jax.Array
    inner: optax.OptState


def scale_loss(
    inner: optax.GradientTransformation,
    initial: float = 2.0**15,
    *,
    dynamic: bool = True,
    growth_interval: int = 2000,
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimiser for gradients of a loss that was multiplied by `loss_scale_of(state)`.

    The gradients are divided by the scale. Where one of them is not finite, nothing is updated, neither the parameters
    nor the state of `inner`, and the scale is halved, but not below 1. After `growth_interval` finite ones in a row the
    scale is doubled. It stays a power of two where `initial` is one, so that no gradient is rounded by it.

    Args:
      inner: the optimiser; a bound of the gradient's norm belongs into it.
      initial: the scale at first, at least 1.
      dynamic: whether the scale changes.
      growth_interval: updates, at least 1.

    Raises:
      ValueError: `initial` or `growth_interval` is below 1.

    Example:
      >>> rule = scale_loss(optax.sgd(1.0), 8.0)
      >>> state = rule.init(jnp.ones(2))
      >>> changes, state = rule.update(jnp.array([8.0, jnp.inf]), state)
      >>> changes, loss_scale_of(state)
      (Array([0., 0.], dtype=float32), Array(4., dtype=float32))

    References:
      Micikevicius et al., Mixed precision training, ICLR 2018, arXiv:1710.03740.
    """
    if not 1 <= initial <= LARGEST:
        raise ValueError(f"initial must be from 1 to 2^127, was {initial}")
    if growth_interval < 1:
        raise ValueError(f"growth_interval must be at least 1, was {growth_interval}")
    inner = optax.with_extra_args_support(inner)

    def init(params: optax.Params) -> LossScaleState:
        return LossScaleState(jnp.float32(initial), jnp.int32(0), inner.init(params))

    def update(
        updates: optax.Updates, state: LossScaleState, params: optax.Params | None = None, **extra: object
    ) -> tuple[optax.Updates, LossScaleState]:
        grads = jax.tree.map(lambda g: divided(g, state.scale), updates)
        is_finite = all_finite(grads)
        changes, stepped = inner.update(grads, state.inner, params, **extra)
        changes = jax.tree.map(lambda change: jnp.where(is_finite, change, jnp.zeros_like(change)), changes)
        kept = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), stepped, state.inner)
        if not dynamic:
            return changes, LossScaleState(state.scale, state.finite, kept)
        return changes, LossScaleState(*next_scale(state, is_finite, growth_interval), kept)

    return optax.GradientTransformationExtraArgs(init, update)


def divided(gradient: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns gradient / scale in the gradient's dtype; divides in float32 or better, where the scale is finite."""
    wide = jnp.float64 if gradient.dtype == jnp.float64 else jnp.float32
    return (gradient.astype(wide) / scale.astype(wide)).astype(gradient.dtype)


def next_scale(state: LossScaleState, is_finite: jax.Array, growth_interval: int) -> tuple[jax.Array, jax.Array]:
    """Returns the scale after a gradient, and how many in a row were finite since it last changed."""
    count = jnp.where(is_finite, state.finite + 1, 0)
    grows = count >= growth_interval
    larger = jnp.minimum(2 * state.scale, LARGEST)
    smaller = jnp.maximum(state.scale / 2, 1.0)
    scale = jnp.where(is_finite, jnp.where(grows, larger, state.scale), smaller)
    return scale, jnp.where(grows, 0, count)


def all_finite(tree: optax.Updates) -> jax.Array:
    """Returns a bool scalar: True where no leaf holds a NaN or an infinity."""
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)], bool).all()


def loss_scale_of(opt_state: optax.OptState) -> jax.Array | float:
    """Returns the scale in an optimiser's state, by which the loss must be multiplied; 1.0 where there is none."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, LossScaleState))
    return next((node.scale for node in nodes if isinstance(node, LossScaleState)), 1.0)
