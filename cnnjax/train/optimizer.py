"""Optimisers and learning-rate schedules by name, out of optax."""

from __future__ import annotations

import optax

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "onecycle")


def schedule(name: str, learning_rate: float, updates: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates done.

    constant: `learning_rate`. cosine: from it to 0 along half a cosine. onecycle: up from 1/25 of it over the first
    30 % of the updates and down to 1/10,000 of that start, both along half a cosine
    (Smith & Topin 2018, with the constants of PyTorch's ``OneCycleLR``).
    """
    if name == "constant":
        return optax.constant_schedule(learning_rate)
    if name == "cosine":
        return optax.cosine_decay_schedule(learning_rate, updates)
    if name == "onecycle":
        return optax.cosine_onecycle_schedule(updates, learning_rate)
    raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, was {name!r}")


def optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    grad_clip: float | None = None,
) -> optax.GradientTransformation:
    """``sgd``, ``momentum`` (0.9), ``adam`` or ``adamw`` (betas 0.9 and 0.999).

    grad_clip bounds the global norm of the gradient first. weight_decay adds ``weight_decay * w`` to the gradient,
    as in PyTorch; adamw takes it off the weight instead, times the learning rate (Loshchilov & Hutter 2019).
    """
    rules = {
        "sgd": lambda: optax.sgd(learning_rate),
        "momentum": lambda: optax.sgd(learning_rate, momentum=0.9),
        "adam": lambda: optax.adam(learning_rate),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay),
    }
    if name not in rules:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, was {name!r}")
    parts = [] if grad_clip is None else [optax.clip_by_global_norm(grad_clip)]
    if weight_decay and name != "adamw":
        parts.append(optax.add_decayed_weights(weight_decay))
    return optax.chain(*parts, rules[name]())
