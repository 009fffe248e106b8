"""Optimisers of groups of parameters, by their paths; and the two that airbench trains with."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from cnnjax.train.muon import muon

NORM_BIASES = r"norms?(/\d+)?/bias$"
WHITENING_EPOCHS = 3
"""Epochs in which airbench trains the bias of its first layer."""
MUON_RATE, BIAS_RATE, HEAD_RATE = 0.24, 0.053 * 2000, 0.67 * 2000
"""Peak learning rates of airbench94_muon; of biases and head for the mean loss of a batch, of 2,000."""


def path_name(path: jax.tree_util.KeyPath) -> str:
    """Returns the path of a parameter as `conv1/kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_group(
    groups: Mapping[str, optax.GradientTransformation], others: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimiser with a rule of its own for some groups of parameters.

    Args:
      groups: regular expressions and what trains the parameters in whose path, such as `conv1/kernel`, they are found;
        of several the first counts. One that is found in none has no effect.
      others: trains all other parameters.

    Example:
      >>> rule = by_group({"bias$": optax.sgd(2.0)}, optax.sgd(1.0))
      >>> params = {"conv1": {"bias": jnp.ones(1), "kernel": jnp.ones(1)}}
      >>> rule.update(params, rule.init(params))[0]["conv1"]
      {'bias': Array([-2.], dtype=float32), 'kernel': Array([-1.], dtype=float32)}
    """
    names = ["others", *groups]

    def labels(params: optax.Params) -> optax.Params:
        def label(path: jax.tree_util.KeyPath, _: jax.Array) -> str:
            return next((name for name in groups if re.search(name, path_name(path))), names[0])

        return jax.tree_util.tree_map_with_path(label, params)

    rules = dict(zip(names, (others, *groups.values()), strict=True))
    return optax.partition(rules, labels, mask_compatible_extra_args=True)


def until(optimizer: optax.GradientTransformation, updates: int | None) -> optax.GradientTransformation:
    """Trains for so many updates, and then leaves the parameters as they are; None means throughout."""
    if updates is None:
        return optimizer
    return optax.chain(optimizer, optax.scale_by_schedule(lambda count: jnp.where(count < updates, 1.0, 0.0)))


def nesterov_sgd(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Returns SGD with Nesterov momentum and weight decay, in PyTorch's form.

    g <- grad + weight_decay w,   m <- momentum m + g,   w <- w - learning_rate (g + momentum m)
    """
    decayed = optax.add_decayed_weights(weight_decay)
    return optax.chain(decayed, optax.sgd(learning_rate, momentum=momentum, nesterov=True))


def airbench(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.0,
    updates_per_epoch: int | None = None,
    momentum: float = 0.85,
    bias_scaler: float = 64.0,
    train_whitening: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Returns airbench's optimiser: SGD with Nesterov momentum, in four groups.

    Biases of norms have `bias_scaler` times the learning rate, and their weight decay divided by it, so that all
    parameters shrink alike. The kernel of the layer `whiten` stays as it is; its bias is trained for 3 epochs. With
    `train_whitening` both are trained throughout, like those of other layers.

    Airbench sums the loss over a batch of B and states its rates l and d so that momentum and B leave them alone:
    where the loss is a mean, `learning_rate` is l B / (1024 (1 + 1 / (1 - momentum))) and `weight_decay` is d / l.

    Args:
      learning_rate: a number or a schedule.
      weight_decay: adds `weight_decay * w` to the gradient, as in PyTorch.
      updates_per_epoch: None trains the bias of `whiten` throughout.
      momentum: kept of the last updates.
      bias_scaler: for the biases of norms.
      train_whitening: for nets whose first layer was drawn.

    References:
      Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024, arXiv:2404.00498, section 3 and its listings. The
      scaled biases: Page, How to train your ResNet 8: bag of tricks, 2019.
    """

    def scaled(count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        rate = learning_rate(count) if callable(learning_rate) else learning_rate
        return rate * bias_scaler

    plain = nesterov_sgd(learning_rate, momentum=momentum, weight_decay=weight_decay)
    biases = nesterov_sgd(scaled, momentum=momentum, weight_decay=weight_decay / bias_scaler)
    whitening = None if updates_per_epoch is None else WHITENING_EPOCHS * updates_per_epoch
    groups = {NORM_BIASES: biases}
    if not train_whitening:
        groups |= {"^whiten/kernel$": optax.set_to_zero(), "^whiten/bias$": until(plain, whitening)}
    return by_group(groups, plain)


def airbench_muon(
    learning_rate: optax.ScalarOrSchedule, *, weight_decay: float = 0.0, updates_per_epoch: int | None = None
) -> optax.GradientTransformationExtraArgs:
    """Returns the optimiser of airbench94_muon: `muon` for the 3x3 kernels, SGD with Nesterov momentum for the rest.

    Biases learn at 442 times the rate of the kernels, the last layer at 5,583 times: 106 and 1,340 beside 0.24, for the
    mean loss of a batch of 2,000. The kernel of the layer `whiten` stays as it is; the rate of its bias falls to 0
    within 3 epochs.

    Args:
      learning_rate: of the kernels, 0.24 as published; a number or a schedule.
      weight_decay: share of biases and of the last layer's weights that an update at the published rates takes off.
      updates_per_epoch: None trains the bias of `whiten` throughout.

    References:
      Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; airbench94_muon, 2024.
    """

    def rate_at(count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        return learning_rate(count) if callable(learning_rate) else learning_rate

    def sgd(peak: float, rate: optax.Schedule = rate_at) -> optax.GradientTransformation:
        def scaled(count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
            return rate(count) * (peak / MUON_RATE)

        return nesterov_sgd(scaled, momentum=0.85, weight_decay=weight_decay / peak)

    def falling(count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
        if updates_per_epoch is None:
            return rate_at(count)
        share = jnp.asarray(count, jnp.float32) / (WHITENING_EPOCHS * updates_per_epoch)
        return rate_at(0) * jnp.maximum(1 - share, 0)

    groups = {
        "^whiten/kernel$": optax.set_to_zero(),
        "^whiten/bias$": sgd(BIAS_RATE, falling),
        NORM_BIASES: sgd(BIAS_RATE),
        r"convs?(/\d+)?/kernel$": muon(learning_rate, momentum=0.6, steps=3),
    }
    return by_group(groups, sgd(HEAD_RATE))
