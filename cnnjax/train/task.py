"""The arguments of `fit`, checked and completed."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from cnnjax.data import BatchInfo, batches, held_out, rng
from cnnjax.errors import UserError
from cnnjax.train import calls, fingerprint, optimizers, run_dir
from cnnjax.train.examples import Examples, Rows, Split, is_read_one_by_one, specs, take, to_splits
from cnnjax.train.loss_scale import scale_loss
from cnnjax.train.losses import Loss, Metric, are_classes, is_cross_entropy
from cnnjax.train.options import MOST_WORKERS, OF_THE_OPTIMIZER, Options
from cnnjax.train.state import GraphDefs, Tree, apply_inference, split
from cnnjax.train.step import Augment, Prepare, Views, apply_augment, pixels_to_float
from cnnjax.train.update import Update
from cnnjax.train.watch import Watch

FIRST_SCALE = 2.0**15
"""Of the loss, where it is dynamic."""
MakeUpdate = Callable[[GraphDefs, optax.GradientTransformationExtraArgs], Update]


class BeforeEpoch(NamedTuple):
    """Says what a run computes before each epoch from some training examples.

    Attributes:
      examples: number of examples, drawn anew for each epoch, without augmentation.
      compute: `compute(params, x, y)` returns `state.extra`, the extra arguments of the optimiser's update by name. It
        is jitted.
    """

    examples: int
    compute: Callable[[Tree, jax.Array, jax.Array], dict[str, Tree]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """Holds what a run is to do; `fit`'s docstring says what each one means.

    Attributes:
      splits: the examples, by name.
      options: the settings.
      folder: the workdir, or None.
      rate: the learning rate by updates done; None where the optimiser is the caller's own.
      optimizer: the transformation of the gradients.
      probabilities: whether outputs are logits, see `make_predict`.
    """

    splits: Mapping[str, Split]
    options: Options
    folder: Path | None
    optimizer: optax.GradientTransformationExtraArgs
    rate: optax.Schedule | None
    loss: Loss
    metrics: Mapping[str, Metric] | None
    prepare: Prepare | None
    augment: Augment | None
    views: Views | None
    before_epoch: BeforeEpoch | None
    make_update: MakeUpdate | None
    config: Mapping[str, Any]
    probabilities: bool
    watch: Watch

    @property
    def per_epoch(self) -> int:
        """Updates in an epoch."""
        return batches.steps_per_epoch(len(self.splits["train"]), self.options.batch_size)

    @property
    def total(self) -> int:
        """Updates of the whole run."""
        return batches.updates_of_run(len(self.splits["train"]), self.options.batch_size, self.options.epochs)

    @property
    def updates_per_call(self) -> int:
        """Updates in a call."""
        assert self.options.updates_per_call is not None, "make_task decides it"
        return self.options.updates_per_call

    @property
    def workers(self) -> int:
        """Threads that read a source."""
        return self.options.workers or min(run_dir.available_cores(), MOST_WORKERS)


def make_task(
    model: nnx.Module,
    data: Mapping[str, Any],
    workdir: str | Path | None,
    optimizer: optax.GradientTransformation | str | None,
    options: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None,
    watch: Watch | None,
    **functions: Any,
) -> Task:
    """Checks and completes the arguments of `fit`.

    Raises:
      UserError: see `fit`.
    """
    if not isinstance(model, nnx.Module):
        raise UserError(f"`model` must be a flax.nnx.Module, was {type(model).__name__}.")
    if watch is not None and not isinstance(watch, Watch):
        raise UserError(f"`watch` must be a train.Watch, was {watch!r}.")
    try:
        json.dumps(config)
    except (TypeError, ValueError) as error:
        raise UserError(f"`config` must hold JSON values alone: {error}.") from None
    if not isinstance(config, Mapping | None):
        raise UserError(f"`config` must be a dict of JSON values, was {type(config).__name__}.")
    _check_functions(functions)
    splits, settings = to_splits(data), _options(optimizer, options)
    if workdir is None and settings.profile:
        raise UserError("`profile` writes its traces into `workdir`, which was None: give a folder.")
    if settings.stream == "never" and is_read_one_by_one(splits["train"]):
        raise UserError("`stream=never` needs arrays, but the training examples are read one by one: leave it out.")
    splits = _hold_out(splits, settings)
    net, params, rest = split(model)
    try:
        chosen, rate = _optimizer(optimizer, settings, params, len(splits["train"]), functions["before_epoch"])
    except ValueError as error:
        sentence = re.sub(rf"^({'|'.join(OF_THE_OPTIMIZER)}) ", r"`\1` ", str(error).rstrip("."))
        sentence = re.sub("^pattern ", "`freeze`: pattern ", sentence)
        raise UserError(f"the optimiser cannot be made: {sentence}.") from error
    if functions["make_update"] is not None:
        _check_unused(settings)
    else:
        _check_labels(net, params, rest, splits, functions)
    if settings.ema is not None and any(leaf.dtype.itemsize < 4 for leaf in jax.tree.leaves(params)):
        raise UserError(
            f"`ema={settings.ema}` needs parameters of float32: an average in halves stands still. Keep them so, and "
            "compute in halves by the layers' `dtype`."
        )
    folder = None if workdir is None else _folder(workdir)
    settings = _with_updates_per_call(settings, folder, splits["train"])
    decided = _decided(model, optimizer, settings, splits, functions)
    for name in decided.keys() & (config or {}).keys():
        if decided[name] != (config or {})[name]:
            raise UserError(f"`config` has {name!r}, which `fit` writes itself: give it another name.")
    return Task(
        splits=splits,
        options=settings,
        folder=folder,
        optimizer=chosen,
        rate=rate,
        config={**(config or {}), **decided},
        probabilities=is_cross_entropy(functions["loss"]),
        watch=watch or Watch(),
        **functions,
    )


def _folder(workdir: Any) -> Path:
    try:
        return Path(workdir)
    except TypeError:
        raise UserError(
            f"`workdir` must be a path as str or Path, or None for nothing on disk, was {type(workdir).__name__}."
        ) from None


def _with_updates_per_call(options: Options, folder: Path | None, training: Split) -> Options:
    """Decides `updates_per_call` where it is not given: that of the run in the folder, else by the platform."""
    if options.updates_per_call is not None:
        return options
    begun = None if folder is None else run_dir.begun(folder)
    number = (begun or {}).get("updates_per_call")
    if number is None:
        values = options.batch_size * sum(leaf.size for leaf in jax.tree.leaves(specs(training).x))
        per_epoch = batches.steps_per_epoch(len(training), options.batch_size)
        number = calls.default_updates_per_call(
            jax.local_devices()[0].platform, values, per_epoch, options.log_every, options.checkpoint_every
        )
    return dataclasses.replace(options, updates_per_call=number)


def _options(optimizer: Any, given: Mapping[str, Any]) -> Options:
    own = optimizer is not None and not isinstance(optimizer, str)
    if own and not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise UserError(
            f"`optimizer` must be an optax transformation, such as optax.adam(1e-3), or one of "
            f"{', '.join(optimizers.OPTIMIZERS)}; was {optimizer!r}."
        )
    for name in OF_THE_OPTIMIZER:
        if own and name in given:
            raise UserError(f"`{name}={given[name]}` has no use where `optimizer` is your own: leave it out.")
    return Options.of(given if own or optimizer is None else {**given, "optimizer": optimizer})


def _hold_out(splits: dict[str, Split], options: Options) -> dict[str, Split]:
    """Takes `options.validation` examples out of the training examples."""
    count = options.validation
    if count and "validation" in splits:
        raise UserError(
            f"`validation={count}` would hold out examples, but `data` has a validation split: leave one of them out."
        )
    if options.patience is not None and not count and "validation" not in splits:
        raise UserError("`patience` needs `validation`: early stopping never looks at the test set.")
    if not count:
        return splits
    training, n = splits["train"], len(splits["train"])
    if count >= n:
        raise UserError(f"`validation={count}` must leave something of the {n} training examples to train on.")
    held = held_out(n, count, options.seed)
    return {
        **splits,
        "train": take(training, np.flatnonzero(~held)),
        "validation": take(training, np.flatnonzero(held)),
    }


def named_optimizer(options: Options, examples: int) -> tuple[optax.GradientTransformationExtraArgs, optax.Schedule]:
    """Returns the optimiser that the options name, and its learning rate by updates done.

    Args:
      options: of the run.
      examples: number of training examples, without those held out.

    Raises:
      ValueError: two options contradict each other.
    """
    per_epoch = batches.steps_per_epoch(examples, options.batch_size)
    updates = batches.updates_of_run(examples, options.batch_size, options.epochs)
    rate = optimizers.schedule(options.schedule, options.learning_rate, updates, warmup=options.warmup)
    optimizer = optimizers.optimizer(
        options.optimizer, rate, weight_decay=options.weight_decay, decay=options.decay, grad_clip=options.grad_clip,
        nesterov=options.nesterov, updates_per_epoch=per_epoch, options=options.optimizer_options,
    )  # fmt: skip
    return optimizer, rate


def _optimizer(
    given: Any, options: Options, params: Tree, examples: int, before_epoch: BeforeEpoch | None
) -> tuple[optax.GradientTransformationExtraArgs, optax.Schedule | None]:
    if given is not None and not isinstance(given, str):
        optimizer, rate = given, None
    else:
        optimizer, rate = named_optimizer(options, examples)
        if options.optimizer == "sdlm" and before_epoch is None:
            raise ValueError("optimizer 'sdlm' needs `before_epoch`, which computes the curvature")
    if options.freeze is not None:
        optimizer = optimizers.freeze(optimizer, options.freeze)
    if options.loss_scale is not None:
        dynamic = options.loss_scale == "dynamic"
        optimizer = scale_loss(optimizer, FIRST_SCALE if dynamic else float(options.loss_scale), dynamic=dynamic)
    jax.eval_shape(optimizer.init, params)  # says what does not fit these parameters
    return optax.with_extra_args_support(optimizer), rate


def _check_functions(functions: Mapping[str, Any]) -> None:
    for name in ("loss", "prepare", "augment", "views", "make_update"):
        if functions[name] is not None and not callable(functions[name]):
            raise UserError(f"`{name}` must be a function, was {functions[name]!r}.")
    before_epoch = functions["before_epoch"]
    if before_epoch is not None and not isinstance(before_epoch, BeforeEpoch):
        raise UserError(f"`before_epoch` must be a train.BeforeEpoch(examples, compute), was {before_epoch!r}.")
    metrics = functions["metrics"]
    if metrics is not None and not (isinstance(metrics, Mapping) and all(map(callable, metrics.values()))):
        raise UserError(f"`metrics` must be functions by name, such as {{'accuracy': accuracy}}, was {metrics!r}.")
    for name in metrics or {}:
        if not isinstance(name, str):
            raise UserError(f"`metrics` must be named by str, had {name!r}.")
        if name in ("loss", "step", "epoch"):
            raise UserError(f"`metrics` has a function named {name!r}, which the records have already: rename it.")


def _check_unused(options: Options) -> None:
    """Refuses what `train.make_update` does, where an update of one's own takes its place."""
    for name, unset in (("accumulate", 1), ("ema", None), ("loss_scale", None), ("lookahead", None)):
        if getattr(options, name) != unset:
            raise UserError(
                f"`{name}={getattr(options, name)}` has no use where `make_update` makes the update: build it in there."
            )


def _check_labels(
    net: GraphDefs, params: Tree, rest: Tree, splits: Mapping[str, Split], functions: Mapping[str, Any]
) -> None:
    """Refuses labels that the cross-entropy cannot take: outside of the classes, or of another shape."""
    if not is_cross_entropy(functions["loss"]):
        return
    prepare, augment = functions["prepare"], functions["augment"]

    def outputs(x: Tree, y: Tree) -> Tree:
        x = pixels_to_float(x)
        if augment is not None:
            key = rng.key(0, rng.AUGMENT, 0)
            info = BatchInfo(jnp.zeros(len(jax.tree.leaves(x)[0]), jnp.int32), jnp.int32(0), key)
            x, _ = apply_augment(augment, key, x, y, info)
        return apply_inference(net, params, rest, x if prepare is None else prepare(x))

    found = jax.eval_shape(outputs, *specs(splits["train"]))
    if getattr(found, "shape", ())[-1:] == (1,):
        raise UserError(
            "the net has one output, of which a softmax is always 1: for two classes give it two, or a `loss` of your "
            "own such as optax.sigmoid_binary_cross_entropy."
        )
    for name, one in splits.items():
        y = specs(one).y
        soft = hasattr(y, "shape") and hasattr(found, "shape") and y.shape[1:] == found.shape[1:]
        if are_classes(found, y):
            _check_range(name, one, found.shape[-1])
        elif not soft:
            shape = getattr(found, "shape", "a pytree")
            raise UserError(
                f"the labels of `data['{name}']` are {getattr(y, 'dtype', 'a pytree')}{getattr(y, 'shape', '')} for "
                f"outputs {shape}: the cross-entropy takes int classes (N,) or shares (N, classes) of logits "
                "(N, classes). Give a `loss` of your own for anything else."
            )


def _check_range(name: str, examples: Split, classes: int) -> None:
    examples = examples.of if isinstance(examples, Rows) else examples
    if isinstance(examples, Examples):
        low, high = int(np.min(examples.y)), int(np.max(examples.y))
        if low < 0 or high >= classes:
            raise UserError(
                f"the labels of `data['{name}']` go from {low} to {high}; with {classes} outputs they must be 0 to "
                f"{classes - 1}."
            )


def _decided(
    model: nnx.Module, optimizer: Any, options: Options, splits: Mapping[str, Split], functions: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what decides the numbers, as JSON values."""
    settings = dataclasses.asdict(options)
    environment = {**run_dir.environment(), "shard": settings.pop("shard")}  # may change, and the bits with it
    named: dict[str, Any] = {"model": model, **functions}
    if optimizer is not None and not isinstance(optimizer, str):
        settings.update({**dict.fromkeys(OF_THE_OPTIMIZER), "optimizer_options": {}})  # as in earlier runs
        named["optimizer"] = optimizer
    if (metrics := named.pop("metrics")) is not None:
        named.update({f"metric {name}": metric for name, metric in metrics.items()})
    if named["before_epoch"] is not None:
        settings["before_epoch_examples"] = named["before_epoch"].examples
        named["before_epoch"] = named["before_epoch"].compute
    return {
        **settings,
        "data": {name: fingerprint.of_data(one) for name, one in splits.items()},
        "functions": {
            name: fingerprint.of_function(one, parameters=name != "model")
            for name, one in named.items()
            if one is not None
        },
        "environment": environment,
    }
