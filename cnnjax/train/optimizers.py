"""Optax optimisers and learning-rate schedules by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "adadelta", "sdlm")
SCHEDULES = ("constant", "cosine", "onecycle", "lenet5")


def schedule(name: str, learning_rate: float, updates: int) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates done.

    Args:
      name: `constant`: `learning_rate` throughout.
        `cosine`: from `learning_rate` to 0 along half a cosine.
        `onecycle`: from 1/25 of `learning_rate` up to it over the first 30 % of the updates, then down to 1/10,000 of
        the start, both along half a cosine, with the constants of PyTorch's `OneCycleLR`.
        `lenet5`: `learning_rate` times 1, 0.4, 0.2, 0.1 and 0.02 for 2, 3, 3, 4 and 8 twentieths of the updates; in
        the paper 5e-4, 2e-4, 1e-4, 5e-5, 1e-5 in 20 epochs.
      learning_rate: the (peak) rate.
      updates: number of updates of the whole run.

    Raises:
      ValueError: no such schedule.

    References:
      Smith, Topin, Super-convergence, 2018. LeCun et al. 1998, section III.A.
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
    """Returns the optimiser of that name.

    Args:
      name: `sgd`; `momentum`, SGD with momentum 0.9; `adam` and `adamw`, with betas 0.9 and 0.999; `adadelta`, with
        rho 0.95 and epsilon 1e-6; or `sdlm`, see `scale_by_curvature`.
      learning_rate: a number or a schedule.
      weight_decay: adds `weight_decay * w` to the gradient, as in PyTorch; adamw subtracts it from the weight instead,
        times the learning rate.
      grad_clip: bound of the gradient's global norm, applied first; `None` means no bound.

    Raises:
      ValueError: no such optimiser.

    References:
      Zeiler, Adadelta, 2012. Loshchilov, Hutter, Decoupled weight decay regularization, 2019.
    """
    makers = {
        "sgd": lambda: optax.sgd(learning_rate),
        "momentum": lambda: optax.sgd(learning_rate, momentum=0.9),
        "adam": lambda: optax.adam(learning_rate),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay),
        "adadelta": lambda: optax.adadelta(learning_rate, rho=0.95, eps=1e-6),
        "sdlm": lambda: optax.chain(scale_by_curvature(), optax.scale_by_learning_rate(learning_rate)),
    }
    if name not in makers:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, was {name!r}")
    parts = [] if grad_clip is None else [optax.clip_by_global_norm(grad_clip)]
    if weight_decay and name != "adamw":
        parts.append(optax.add_decayed_weights(weight_decay))
    return optax.with_extra_args_support(optax.chain(*parts, makers[name]()))


def scale_by_curvature(mu: float = 0.02) -> optax.GradientTransformationExtraArgs:
    """Divides each gradient by mu plus its weight's curvature.

    This is stochastic diagonal Levenberg-Marquardt:

        update_k = g_k / (mu + h_kk)

    The h_kk are the extra argument `curvature` of `update`, a tree like the parameters, none of them negative.

    References:
      LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998, appendix C.
    """

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        curvature: optax.Updates,
        **extra: object,
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree.map(lambda g, h: g / (mu + h), updates, curvature), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def max_norm(kernel: str, limit: float) -> optax.GradientTransformation:
    """Bounds the norm of each unit's weights after the update; comes last in a chain.

        w <- w min(1, limit / |w|_2)   for each column w of the kernel, the weights of one unit

    Args:
      kernel: path of a dense layer's kernel `(inputs, units)` in the parameters, such as `"dense/kernel"`.
      limit: largest norm, above 0.

    Raises:
      ValueError: there is no such kernel.

    References:
      Srivastava et al., Dropout, JMLR 2014, section 5.1.
    """

    def is_kernel(path: jax.tree_util.KeyPath) -> bool:
        return jax.tree_util.keystr(path, simple=True, separator="/") == kernel

    def init(params: optax.Params) -> optax.EmptyState:
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        if not any(map(is_kernel, paths)):
            raise ValueError(f"kernel must be the path of a parameter, was {kernel!r}")
        return optax.EmptyState()

    def bound(path: jax.tree_util.KeyPath, change: jax.Array, weights: jax.Array) -> jax.Array:
        if not is_kernel(path):
            return change
        after = weights + change
        norms = jnp.linalg.norm(after, axis=0)
        return jnp.where(norms > limit, after * (limit / norms) - weights, change)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree_util.tree_map_with_path(bound, updates, params), state

    return optax.GradientTransformation(init, update)
