"""`fit`: trains any net on any data, or goes on with a run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from flax import nnx

from cnnjax.train import run_dir, step
from cnnjax.train.loop import Run
from cnnjax.train.losses import Loss, Metric, cross_entropy
from cnnjax.train.result import Result
from cnnjax.train.signals import catch_signals
from cnnjax.train.task import BeforeEpoch, MakeUpdate, make_task
from cnnjax.train.watch import Watch


def fit(
    model: nnx.Module,
    data: Mapping[str, Any],
    workdir: str | Path | None,
    *,
    loss: Loss = cross_entropy,
    metrics: Mapping[str, Metric] | None = None,
    optimizer: optax.GradientTransformation | str | None = None,
    prepare: step.Prepare | None = None,
    augment: step.Augment | None = None,
    views: step.Views | None = None,
    before_epoch: BeforeEpoch | None = None,
    config: Mapping[str, Any] | None = None,
    make_update: MakeUpdate | None = None,
    watch: Watch | None = None,
    **options: Any,
) -> Result:
    """Trains a net until the last epoch, resuming from the newest intact checkpoint in `workdir`.

    What decides the numbers is written into `config.json` at the start and compared at a resume: the options, shapes,
    dtypes and a checksum of the data, the names and the code of the functions. Going on with others is refused by name.

    Args:
      model: the net, called as `model(x)`; read, not changed.
      data: `{"train": (x, y), "validation": (x, y), "test": (x, y)}`, the last two if there are any: arrays or memmaps
        with one row an example, pytrees of such, or a `grain.MapDataset` of `(x, y)`. By the loss on the validation
        set the best checkpoint is kept and `patience` stops; the test set is scored, never selected on.
      workdir: the run's folder, new or to go on with; `None` leaves nothing on disk.
      loss: `loss(outputs, y)`: a scalar, the mean over a batch, or that and a dict of scalars to log.
      metrics: `metric(outputs, y)` by name, each a mean over a batch; the records have the means over all examples.
        `{}` for none; by default the accuracy where labels are classes.
      optimizer: any optax transformation, or a name of `train.optimizers.OPTIMIZERS`; then the options
        `optimizer_options`, `learning_rate`, `schedule`, `warmup`, `weight_decay`, `decay`, `nesterov` and `grad_clip`
        count.
      prepare: `prepare(x)` turns a batch, uint8 made float32, into the model's input, each example by itself: in
        evaluation the last batch is filled up with zeros, whose outputs are dropped.
      augment: `augment(key, x)` or `augment(key, x, y) -> (x, y)`, comes before `prepare` in training.
      views: `views(x)`, comes before `prepare` in evaluation: turns `(B, ...)` into V views `(V, B, ...)`, likewise,
        over which the outputs are averaged (logits as probabilities).
      before_epoch: what to compute before each epoch.
      config: further JSON values for `config.json`, such as what `models.build` needs to build the net again.
      make_update: `make_update(net, optimizer)` returns an update of your own, see `train.make_update`; `loss` and
        `metrics` then serve in evaluations alone.
      watch: is told what happens; by default the logger `cnnjax`.
      **options: the fields of `train.Options`: `epochs`, `batch_size`, `learning_rate`, `seed`, ...

    Returns:
      The trained net, the last state, all records, and the outputs of the test set.

    Raises:
      UserError: an argument is not what it must be, other settings than the run's, a batch that does not fit, a loss
        that is not finite, a save that failed, a checkpoint of another net, no intact checkpoint left.

    Example:
      >>> import numpy as np, optax
      >>> from flax import nnx
      >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
      >>> result = fit(
      ...     nnx.Linear(1, 1, rngs=nnx.Rngs(0)), {"train": (x, 3 * x)}, None, optimizer=optax.sgd(0.5), epochs=20,
      ...     batch_size=64, loss=lambda outputs, y: ((outputs - y) ** 2).mean(),
      ... )
      >>> round(float(result.model(x[:1])[0, 0]), 1)
      -3.0
    """
    task = make_task(
        model, data, workdir, optimizer, options, config=config, watch=watch, loss=loss, metrics=metrics,
        prepare=prepare, augment=augment, views=views, before_epoch=before_epoch, make_update=make_update,
    )  # fmt: skip
    holding = contextlib.nullcontext() if task.folder is None else run_dir.claim(task.folder)
    with (
        catch_signals(task.watch.stopping, group=jax.process_count() > 1) as caught,
        holding,
        contextlib.closing(Run(model, task)) as run,
    ):
        return run.until_end(caught)
