"""Optimisers and learning-rate schedules by name, out of optax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "adadelta", "sdlm")
SCHEDULES = ("constant", "cosine", "onecycle", "lenet5")


def schedule(name: str, learning_rate: float, updates: int) -> optax.Schedule:
    """The learning rate as a function of the number of updates done.

    constant: `learning_rate`. cosine: from it to 0 along half a cosine. onecycle: up from 1/25 of it over the first
    30 % of the updates and down to 1/10,000 of that start, both along half a cosine
    (Smith & Topin 2018, with the constants of PyTorch's ``OneCycleLR``). lenet5: of 20 parts, 2 at it, 3 at 0.4, 3 at
    0.2, 4 at 0.1 and 8 at 0.02 of it (LeCun et al. 1998, section III.A: 5e-4, 2e-4, 1e-4, 5e-5, 1e-5 in 20 passes).
    """
    if name == "constant":
        return optax.constant_schedule(learning_rate)
    if name == "cosine":
        return optax.cosine_decay_schedule(learning_rate, updates)
    if name == "onecycle":
        return optax.cosine_onecycle_schedule(updates, learning_rate)
    if name == "lenet5":
        factors = {2: 0.4, 5: 0.5, 8: 0.5, 12: 0.2}  # each on top of those before it
        return optax.piecewise_constant_schedule(learning_rate, {updates * at // 20: f for at, f in factors.items()})
    raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, was {name!r}")


def optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    grad_clip: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """``sgd``, ``momentum`` (0.9), ``adam``, ``adamw`` (betas 0.9 and 0.999), ``adadelta`` or ``sdlm``.

    adadelta is Zeiler's of 2012 with rho 0.95 and epsilon 1e-6; sdlm is `scale_by_curvature`.

    grad_clip bounds the global norm of the gradient first. weight_decay adds ``weight_decay * w`` to the gradient,
    as in PyTorch; adamw takes it off the weight instead, times the learning rate (Loshchilov & Hutter 2019).
    """
    rules = {
        "sgd": lambda: optax.sgd(learning_rate),
        "momentum": lambda: optax.sgd(learning_rate, momentum=0.9),
        "adam": lambda: optax.adam(learning_rate),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay),
        "adadelta": lambda: optax.adadelta(learning_rate, rho=0.95, eps=1e-6),
        "sdlm": lambda: optax.chain(scale_by_curvature(), optax.scale_by_learning_rate(learning_rate)),
    }
    if name not in rules:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, was {name!r}")
    parts = [] if grad_clip is None else [optax.clip_by_global_norm(grad_clip)]
    if weight_decay and name != "adamw":
        parts.append(optax.add_decayed_weights(weight_decay))
    return optax.with_extra_args_support(optax.chain(*parts, rules[name]()))


def scale_by_curvature(mu: float = 0.02) -> optax.GradientTransformationExtraArgs:
    """Stochastic diagonal Levenberg-Marquardt: each gradient over mu plus the curvature of its weight.

        update_k = g_k / (mu + h_kk)

    ``update`` takes the h_kk as the extra argument ``curvature``, a tree like the parameters, none of them negative.

    References:
      LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998, appendix C.
    """

    def update(updates, state, params=None, *, curvature, **extra):
        return jax.tree.map(lambda g, h: g / (mu + h), updates, curvature), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def max_norm(kernel: str, limit: float) -> optax.GradientTransformation:
    """Bounds the norm of each unit's weights after the update: the last link of a chain.

        w <- w min(1, limit / |w|_2)   for each column w of the kernel, the weights that lead to one unit

    Args:
      kernel: the path of a dense layer's kernel (inputs, units) in the parameters, as "dense/kernel".
      limit: of the norms, above 0.

    Raises:
      ValueError: there is no such kernel.

    References:
      Srivastava et al., Dropout, JMLR 2014, section 5.1.
    """

    def is_kernel(path: tuple) -> bool:
        return jax.tree_util.keystr(path, simple=True, separator="/") == kernel

    def init(params):
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        if not any(map(is_kernel, paths)):
            raise ValueError(f"kernel must be the path of a parameter, was {kernel!r}")
        return optax.EmptyState()

    def bounded(path, change, weights):
        if not is_kernel(path):
            return change
        after = weights + change
        norms = jnp.linalg.norm(after, axis=0)
        return jnp.where(norms > limit, after * (limit / norms) - weights, change)

    def update(updates, state, params=None):
        return jax.tree_util.tree_map_with_path(bounded, updates, params), state

    return optax.GradientTransformation(init, update)
