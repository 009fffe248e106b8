"""Optax optimisers and learning-rate schedules by name, and what may be put around any optimiser."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax

from cnnjax.train.by_group import airbench, airbench_muon, path_name

OPTIMIZERS: dict[str, dict[str, float]] = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
    "adadelta": {"rho": 0.95, "eps": 1e-6},
    "sdlm": {},
    "airbench": {"momentum": 0.85, "bias_scaler": 64.0, "train_whitening": False},
    "airbench_muon": {},
}
"""Optimisers by name, with the values of their own options where these are not given."""
GROUPED = {"airbench": airbench, "airbench_muon": airbench_muon}
"""Optimisers with groups of parameters, and a weight decay for each."""
SHARES = ("momentum", "b1", "b2", "rho")
"""Options that say how much of the past is kept, below 1."""
SCHEDULES = ("constant", "linear", "cosine", "onecycle", "lenet5", "triangle")
DECAYS = ("all", "kernels")


def schedule(name: str, learning_rate: float, updates: int, *, warmup: int = 0) -> optax.Schedule:
    """Returns the learning rate as a function of the number of updates done.

    Args:
      name: `constant`: `learning_rate` throughout.
        `linear`: from `learning_rate` to 0 along a line.
        `cosine`: from `learning_rate` to 0 along half a cosine.
        `onecycle`: from 1/25 of `learning_rate` up to it over the first 30 % of the updates, then down to 1/10,000 of
        the start, both along half a cosine, with the constants of PyTorch's `OneCycleLR`.
        `lenet5`: `learning_rate` times 1, 0.4, 0.2, 0.1 and 0.02 for 2, 3, 3, 4 and 8 twentieths of the updates; in
        the paper 5e-4, 2e-4, 1e-4, 5e-5, 1e-5 in 20 epochs.
        `triangle`: from 0.2 of `learning_rate` up to it over the first 23 % of the updates, then down to 0.07 of it,
        both linearly, as airbench has it.
      learning_rate: the (peak) rate.
      updates: number of updates of the whole run.
      warmup: updates before the schedule, which takes the rest of the run. In them the rate rises linearly to where the
        schedule starts: update t, counted from 0, has (t + 1) / (warmup + 1) of that.

    Raises:
      ValueError: no such schedule, or `warmup` is not from 0 to below `updates`.

    References:
      Smith, Topin, Super-convergence, 2018. LeCun et al. 1998, section III.A. Warm-up: Goyal et al., Accurate, large
      minibatch SGD, 2017, arXiv:1706.02677, section 2.2.
    """
    if warmup:
        if not 0 < warmup < updates:
            raise ValueError(f"warmup must be from 0 to {updates - 1}, fewer than the {updates} updates, was {warmup}")
        after = schedule(name, learning_rate, updates - warmup)

        def rise(count: jax.typing.ArrayLike) -> jax.Array:
            return after(0) * (jnp.asarray(count, jnp.float32) + 1) / (warmup + 1)

        return optax.join_schedules([rise, after], [warmup])
    if name == "constant":
        return optax.constant_schedule(learning_rate)
    if name == "linear":
        return optax.linear_schedule(learning_rate, 0.0, updates)
    if name == "cosine":
        return optax.cosine_decay_schedule(learning_rate, updates)
    if name == "onecycle":
        return optax.cosine_onecycle_schedule(updates, learning_rate)
    if name == "lenet5":
        factors = {2: 0.4, 5: 0.5, 8: 0.5, 12: 0.2}  # each on top of those before it
        return optax.piecewise_constant_schedule(learning_rate, {updates * at // 20: f for at, f in factors.items()})
    if name == "triangle":
        peak = int(0.23 * updates)
        points = jnp.array([0, peak, updates], jnp.float32), learning_rate * jnp.array([0.2, 1.0, 0.07], jnp.float32)
        return lambda count: jnp.interp(jnp.asarray(count, jnp.float32), *points)
    raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, was {name!r}")


def optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    decay: str = "all",
    grad_clip: float | None = None,
    nesterov: bool = False,
    updates_per_epoch: int | None = None,
    options: Mapping[str, float] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimiser of that name.

    Args:
      name: one of `OPTIMIZERS`: `sgd`; `momentum`, SGD with it; `adam`, `adamw`, `adadelta`; `sdlm`, see
        `scale_by_curvature`; `airbench` and `airbench_muon`, see `by_group`.
      learning_rate: a number or a schedule.
      weight_decay: adds `weight_decay * w` to the gradient, as in PyTorch; adamw subtracts it from the weight instead,
        times the learning rate.
      decay: which parameters decay: `all`, or `kernels`, those of two or more dimensions, which spares biases and
        the scales of norms.
      grad_clip: bound of the gradient's global norm, applied first; `None` means no bound.
      nesterov: of `momentum` alone: the gradient is taken where the momentum leads, in Sutskever's form, as in PyTorch.
      updates_per_epoch: for `airbench` and `airbench_muon`, which train one bias for 3 epochs; None trains it
        throughout.
      options: values of the optimiser's own options, such as `{"b2": 0.99}` for Adam; others are as in `OPTIMIZERS`.

    Raises:
      ValueError: no such optimiser, no such `decay`, `nesterov` of another than `momentum`, or `options` names one
        that the optimiser does not have or gives one a value that it cannot have.

    References:
      Zeiler, Adadelta, 2012. Loshchilov, Hutter, Decoupled weight decay regularization, 2019. Sutskever et al., On the
      importance of initialization and momentum in deep learning, ICML 2013.
    """
    if decay not in DECAYS:
        raise ValueError(f"decay must be one of {', '.join(DECAYS)}, was {decay!r}")
    decays = is_kernel if decay == "kernels" else None
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, was {name!r}")
    settings = {**OPTIMIZERS[name], **_checked(name, options or {})}
    makers = {
        "sgd": lambda: optax.sgd(learning_rate),
        "momentum": lambda: optax.sgd(learning_rate, nesterov=nesterov, **settings),
        "adam": lambda: optax.adam(learning_rate, **settings),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay, mask=decays, **settings),
        "adadelta": lambda: optax.adadelta(learning_rate, **settings),
        "sdlm": lambda: optax.chain(scale_by_curvature(), optax.scale_by_learning_rate(learning_rate)),
    }
    for one, make in GROUPED.items():
        makers[one] = partial(
            make, learning_rate, weight_decay=weight_decay, updates_per_epoch=updates_per_epoch, **settings
        )
    if decays and name in GROUPED:
        raise ValueError(f"decay must be 'all' where the optimizer is {name!r}, was {decay!r}")
    if nesterov and name != "momentum":
        raise ValueError(f"nesterov must be False where the optimizer is {name!r}: only momentum has it")
    parts = [] if grad_clip is None else [optax.clip_by_global_norm(grad_clip)]
    if weight_decay and name not in ("adamw", *GROUPED):
        parts.append(optax.add_decayed_weights(weight_decay, mask=decays))
    return optax.with_extra_args_support(optax.chain(*parts, makers[name]()))


def _checked(name: str, options: Mapping[str, float]) -> Mapping[str, float]:
    """Returns the options given for an optimiser; ValueError names one that it does not have, or a wrong value."""
    known = OPTIMIZERS[name]
    for option, value in options.items():
        if option not in known:
            advice = f"must be among {', '.join(known)}" if known else "must be empty"
            raise ValueError(f"optimizer_options {advice} where the optimizer is {name!r}, was {option!r}")
        share = option in SHARES
        if isinstance(known[option], bool):
            fits, text = isinstance(value, bool), "True or False"
        else:
            fits = isinstance(value, numbers.Real) and not isinstance(value, bool)
            fits = fits and 0 <= value < (1 if share else math.inf)
            text = "a number from 0 to below 1" if share else "a finite number of at least 0"
        if not fits:
            raise ValueError(f"optimizer_options must give {option!r} {text}, was {value!r}")
    return options


def is_kernel(params: optax.Params) -> optax.Params:
    """Returns a tree of bools: True for parameters of two or more dimensions, but for those named `bias`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, param: jnp.ndim(param) >= 2 and path_name(path).rpartition("/")[2] != "bias", params
    )


def freeze(optimizer: optax.GradientTransformation, pattern: str) -> optax.GradientTransformationExtraArgs:
    """Keeps some parameters as they are: they get no update, and the optimiser keeps no state of them.

    A bound of the gradient's norm counts the others alone.

    Args:
      optimizer: of the others.
      pattern: a regular expression. Parameters in whose path, such as `conv1/kernel`, it is found are frozen:
        `conv` is found in all layers of that name, `^conv1/` in one, `bias$` in all biases.

    Raises:
      ValueError: `pattern` is no regular expression; or, of `init`, it is found in no path, or in all.

    Example:
      >>> rule = freeze(optax.sgd(1.0), "^first")
      >>> params = {"first": {"kernel": jnp.ones(2)}, "second": {"kernel": jnp.ones(2)}}
      >>> rule.update(params, rule.init(params))[0]["first"]["kernel"]
      Array([0., 0.], dtype=float32)
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern must be a regular expression, was {pattern!r}: {error}") from None

    def labels(params: optax.Params) -> optax.Params:
        def label(path: jax.tree_util.KeyPath, _: jax.Array) -> str:
            return "frozen" if expression.search(path_name(path)) else "trained"

        return jax.tree_util.tree_map_with_path(label, params)

    apart = optax.partition(
        {"trained": optimizer, "frozen": optax.set_to_zero()}, labels, mask_compatible_extra_args=True
    )

    def init(params: optax.Params) -> optax.OptState:
        found = set(jax.tree.leaves(labels(params)))
        if found != {"trained", "frozen"}:
            names = ", ".join(path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0])
            which = "every path: nothing would be trained" if found == {"frozen"} else "no path of a parameter"
            raise ValueError(f"pattern {pattern!r} is found in {which}. The parameters are {names}.")
        return apart.init(params)

    return optax.GradientTransformationExtraArgs(init, apart.update)


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

    def init(params: optax.Params) -> optax.EmptyState:
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
        if kernel not in map(path_name, paths):
            raise ValueError(f"kernel must be the path of a parameter, was {kernel!r}")
        return optax.EmptyState()

    def bound(path: jax.tree_util.KeyPath, change: jax.Array, weights: jax.Array) -> jax.Array:
        if path_name(path) != kernel:
            return change
        after = weights + change
        norms = jnp.linalg.norm(after, axis=0, keepdims=True)
        return jnp.where(norms > limit, after * (limit / norms) - weights, change)

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        return jax.tree_util.tree_map_with_path(bound, updates, params), state

    return optax.GradientTransformation(init, update)
