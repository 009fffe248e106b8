"""Losses and metrics: functions of a batch's outputs and labels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnnjax.data.mixing import one_hot
from cnnjax.errors import UserError

Arrays = Any  # an array, or a pytree of them
Scalars = dict[str, jax.Array]
Loss = Callable[[Any, Any], jax.Array | tuple[jax.Array, Scalars]]
"""`loss(outputs, y)`: a scalar, or a scalar and further scalars to log."""
Metric = Callable[[Any, Any], jax.Array]
"""`metric(outputs, y)`: a scalar, the mean over the batch."""


def cross_entropy(outputs: jax.Array, y: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Computes the cross-entropy of softmax, in float32, averaged over the batch.

        -sum_c q_c log softmax(outputs)_c,   q = (1 - s) y + s / C

    Args:
      outputs: logits `(N, C)`.
      y: classes `(N,)`, int, or shares of the classes `(N, C)`, such as one-hot or mixed labels, int or float.
      label_smoothing: s, from 0 to below 1.

    Returns:
      A float32 scalar; NaN where a class is none of the C.

    Raises:
      ValueError: labels of another shape.

    References:
      Szegedy et al., Rethinking the Inception architecture, 2016, section 7 (label smoothing).
    """
    _check_labels(outputs, y)
    logits = outputs.astype(jnp.float32)
    if y.ndim > 1:
        shares = y.astype(jnp.float32)
    elif label_smoothing:
        chosen = one_hot(y, logits.shape[-1])
        shares = jnp.where(chosen.any(-1, keepdims=True), chosen.astype(jnp.float32), jnp.nan)
    else:
        return _cross_entropy_of_classes(logits, y).mean()
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(shares, label_smoothing)).mean()


def _cross_entropy_of_classes(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Computes `logsumexp(logits) - logits[class]` of each example; NaN where there is no such class.

    The gradient of a gather would be a scatter, in which a GPU may add in any order.
    """
    chosen = one_hot(classes, logits.shape[-1])
    of_class = jnp.where(chosen, logits, 0).sum(-1)
    return jnp.where(chosen.any(-1), jax.nn.logsumexp(logits, axis=-1) - of_class, jnp.nan)


def accuracy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Computes the share of examples whose largest output is the label's class; labels as in `cross_entropy`."""
    return (outputs.argmax(-1) == _classes(outputs, y)).astype(jnp.float32).mean()


def top_k(k: int) -> Metric:
    """Returns the metric: the share of examples whose class is among the k largest outputs.

    Among equal outputs those of lower index come first. With at most k classes it is 1.
    """

    def share(outputs: jax.Array, y: jax.Array) -> jax.Array:
        _, chosen = jax.lax.top_k(outputs, min(k, outputs.shape[-1]))
        return (chosen == _classes(outputs, y)[:, None]).any(-1).astype(jnp.float32).mean()

    return share


def default_metrics(outputs: Arrays, y: Arrays) -> Mapping[str, Metric]:
    """Returns the accuracy where outputs are logits `(N, C)`, C above 1, and labels classes `(N,)`, else nothing."""
    return {"accuracy": accuracy} if are_classes(outputs, y) and outputs.shape[-1] > 1 else {}


def are_classes(outputs: Arrays, y: Arrays) -> bool:
    """True for logits `(N, C)` and int labels `(N,)`, given as arrays or as their shapes and dtypes."""
    shaped = all(hasattr(a, "ndim") and hasattr(a, "dtype") for a in (outputs, y))
    return shaped and outputs.ndim == 2 and y.ndim == 1 and bool(jnp.issubdtype(y.dtype, jnp.integer))


def is_cross_entropy(loss: Loss) -> bool:
    """True for `cross_entropy`, with its keywords given or not."""
    return (loss.func if isinstance(loss, functools.partial) else loss) is cross_entropy


def batch_values(
    loss: Loss, metrics: Mapping[str, Metric] | None, outputs: Arrays, y: Arrays
) -> tuple[jax.Array, Scalars]:
    """Returns the loss of a batch, and all scalars by name: the loss, what it returns beside it, the metrics.

    Raises:
      UserError: one of them is no scalar, or two have the same name.
    """
    result = loss(outputs, y)
    value, scalars = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    if jnp.shape(value) != () or not isinstance(scalars, Mapping):
        raise UserError(
            f"`loss` must return a scalar, the mean over the batch, or that and a dict of scalars; returned "
            f"{_described(result)}."
        )
    chosen = default_metrics(outputs, y) if metrics is None else metrics
    values = {"loss": value, **scalars, **{name: metric(outputs, y) for name, metric in chosen.items()}}
    if len(values) < 1 + len(scalars) + len(chosen):
        raise UserError(
            f"`loss` and `metrics` name a scalar twice: loss, {', '.join([*scalars, *chosen])}. Rename one of them."
        )
    for name, scalar in values.items():
        if jnp.shape(scalar) != ():
            raise UserError(f"the metric {name!r} must be a scalar, the mean over the batch; was {_described(scalar)}.")
    return jnp.asarray(value), {name: jnp.asarray(scalar) for name, scalar in values.items()}


def _described(result: Any) -> str:
    leaves = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in map(jnp.asarray, jax.tree.leaves(result)))
    return f"{type(result).__name__} of {leaves}" if isinstance(result, tuple | list | Mapping) else leaves


def _classes(outputs: jax.Array, y: jax.Array) -> jax.Array:
    _check_labels(outputs, y)
    return y if y.ndim == 1 else y.argmax(-1)


def _check_labels(outputs: jax.Array, y: jax.Array) -> None:
    """Raises ValueError unless labels are those of logits: else the two would be broadcast to each other."""
    if not (are_classes(outputs, y) and len(y) == len(outputs)) and not (
        outputs.ndim == 2 and y.shape == outputs.shape
    ):
        raise ValueError(
            f"labels must be int classes (N,) or shares (N, classes) of logits (N, classes), were {y.dtype}{y.shape} "
            f"for outputs {outputs.shape}"
        )
