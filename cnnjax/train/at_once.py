"""`fit_at_once`: trains several nets at the same time, those on one device as one program."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from cnnjax.data import rng
from cnnjax.errors import UserError
from cnnjax.train import devices, fingerprint, run_dir, step
from cnnjax.train.clock import Clock
from cnnjax.train.examples import specs
from cnnjax.train.fit import fit
from cnnjax.train.loop import Run
from cnnjax.train.losses import Scalars
from cnnjax.train.result import Result
from cnnjax.train.signals import catch_signals
from cnnjax.train.state import TrainState, Tree, copy, split
from cnnjax.train.task import Task, make_task
from cnnjax.train.update import Update
from cnnjax.train.watch import Warnings

FOR_ONE = {
    "make_update": "knows one seed",
    "profile": "traces one run",
    "shard": "splits one net over the devices, of which each has nets of its own here",
}
"""Arguments of `fit` that are for one net alone, and why."""


def fit_at_once(
    models: Sequence[nnx.Module],
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    workdirs: Sequence[str | Path | None],
    seeds: Sequence[int],
    **arguments: Any,
) -> list[Result]:
    """Trains nets at once that differ in their parameters, seeds and examples alone, each as `fit` does.

    The nets are dealt out over the devices of this process: of D devices, net i goes to device i mod D. The nets on one
    device make their updates in one program, `jax.vmap` of the update: many small nets keep an accelerator busy that
    would wait for one of them. Each computes what it would alone, but for rounding, as a product of matrices for k nets
    may be summed up in another order: the number of nets on its device is among what decides its bits.

    A net keeps its place in the program to the end: one that stops early, or is ahead of others after a kill, is
    computed along and its results are dropped.

    Args:
      models: the nets, of one structure.
      data: as for `fit`: the same for all, or of each its own, of the same shapes and number of updates.
      workdirs: of each its own folder, see `fit`; all of them new, or to go on with.
      seeds: of each its `seed`.
      **arguments: the others of `fit`, for all of them. `watch` is told what the first net does, and the warnings of
        all.

    Returns:
      What `fit` returns, for each net; `seconds` is the time of all.

    Raises:
      UserError: as `fit`, by any net, which ends all of them; not as many models, workdirs and seeds; nets that differ
        in more; several processes; an argument for one net alone.

    Example:
      >>> import numpy as np, optax
      >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
      >>> results = fit_at_once(
      ...     [nnx.Linear(1, 1, rngs=nnx.Rngs(seed)) for seed in range(3)], {"train": (x, 3 * x)}, [None] * 3, range(3),
      ...     optimizer=optax.sgd(0.5), epochs=20, batch_size=64, loss=lambda outputs, y: ((outputs - y) ** 2).mean(),
      ... )
      >>> [round(float(result.model(x[:1])[0, 0]), 1) for result in results]
      [-3.0, -3.0, -3.0]
    """
    own_data: Any = [data] * len(models) if isinstance(data, Mapping) and hasattr(models, "__len__") else data
    _check(models, own_data, workdirs, seeds, arguments)
    tasks = [_task(*own, arguments) for own in zip(models, own_data, workdirs, seeds, strict=True)]
    _check_alike(tasks)
    count = len(models)
    places = jax.local_devices()[:count]
    with contextlib.ExitStack() as stack:
        caught = stack.enter_context(catch_signals(tasks[0].watch.stopping))
        for task in tasks:
            if task.folder is not None:
                stack.enter_context(run_dir.claim(task.folder))
        groups = []
        for place, device in enumerate(places):
            numbers = range(place, count, len(places))
            group = Group(devices.data_mesh([device]))
            stack.callback(group.close)
            for number in numbers:
                group.add(models[number], _at_once(tasks[number], len(numbers), shown=number == 0))
            groups.append(group)
        return _until_end([groups[n % len(places)].runs[n // len(places)] for n in range(count)], groups, caught)


class Group:
    """Holds the runs on one device, whose updates are one program; of a single run it is that run's own."""

    def __init__(self, mesh: jax.sharding.Mesh):
        self.mesh, self.runs = mesh, list[Run]()
        self._step: Any = None

    def add(self, model: nnx.Module, task: Task) -> None:
        """Adds a run."""
        self.runs.append(Run(model, task, mesh=self.mesh, like=self.runs[0] if self.runs else None))

    def going(self) -> list[Run]:
        """Returns the runs whose turn it is: those not at their end and not ahead of others; none at the end of all."""
        left = [run for run in self.runs if not run.finished()]
        return [run for run in left if run.step == min(other.step for other in left)]

    def make_updates(self) -> list[tuple[Run, int]]:
        """Makes the updates of one call; returns the runs that made them, and how many."""
        going = self.going()
        if len(self.runs) == 1:
            return [(run, run.make_updates()) for run in going]
        if self._step is None:
            self._step = make_step(self.runs[0].update_of, [run.options.seed for run in self.runs], mesh=self.mesh)
        batches = {id(run): run.next_batches() for run in going}
        spare = batches[id(going[0])]
        states = [run.state if id(run) in batches else copy(run.state) for run in self.runs]  # it is donated
        xs, ys = zip(*(batches.get(id(run), spare) for run in self.runs), strict=True)
        found = zip(self.runs, *self._step(states, xs, ys), strict=True)
        return [(run, run.take(state, values)) for run, state, values in found if id(run) in batches]

    def close(self) -> None:
        """Closes the files of all runs."""
        with contextlib.ExitStack() as stack:
            for run in self.runs:
                stack.callback(run.close)


def make_step(
    update_of: Callable[[jax.Array], Update],
    seeds: Sequence[int],
    *,
    mesh: jax.sharding.Mesh | None = None,
    platform: str | None = None,
) -> Any:
    """Returns the jitted function of K updates of several nets at once; it donates the states.

    It is `step(states, xs, ys) -> (states, values)`, each a list with one entry a net, see `step.make_train_step`.

    Args:
      update_of: `update_of(root)` returns the update for the key of a seed, see `rng.root`.
      seeds: of the nets.
      mesh: of one device, where the states lie.
      platform: as for `step.make_train_step`.
    """

    def update(state: TrainState, x: Tree, y: Tree) -> tuple[TrainState, Scalars]:
        roots = jnp.stack([rng.root(seed) for seed in seeds])
        return jax.vmap(lambda root, *own: update_of(root)(*own))(roots, state, x, y)

    def updates(states: Sequence[TrainState], xs: Sequence[Tree], ys: Sequence[Tree]) -> tuple[list, list]:
        state, values = step.several(update)(_stack(states), *(_stack(each, axis=1) for each in (xs, ys)))
        return _unstack(state, len(seeds)), _unstack(values, len(seeds), axis=1)

    placed: dict[str, Any] = {} if mesh is None else {"out_shardings": NamedSharding(mesh, PartitionSpec())}
    return jax.jit(updates, donate_argnums=0, compiler_options=step.compiler_options(platform), **placed)


def _stack(trees: Sequence[Tree], axis: int = 0) -> Tree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *trees)


def _unstack(tree: Tree, count: int, axis: int = 0) -> list[Tree]:
    return [jax.tree.map(lambda leaf, n=n: leaf[(slice(None),) * axis + (n,)], tree) for n in range(count)]


def _until_end(runs: Sequence[Run], groups: Sequence[Group], caught: list[signal.Signals]) -> list[Result]:
    """Updates until all runs are at their end, or until a signal."""
    for run in runs:
        run.begin()
    try:
        with Clock() as clock, ThreadPoolExecutor(len(groups)) as pool:  # on the CPU a call returns when it is done
            while not caught and (going := [group for group in groups if group.going()]):
                others = [pool.submit(group.make_updates) for group in going[1:]]
                made = [*going[0].make_updates(), *(one for other in others for one in other.result())]
                for run, count in made:
                    run.follow_up(count)
            for run in runs:
                run.drain()
    finally:
        for run in runs:
            run.watch.end()
    return [run.result(clock) for run in runs]


def _task(model: nnx.Module, data: Mapping[str, Any], workdir: Any, seed: int, arguments: Mapping[str, Any]) -> Task:
    bound = inspect.signature(fit).bind(model, data, workdir, seed=seed, **arguments)
    bound.apply_defaults()
    return make_task(**bound.arguments)


def _at_once(task: Task, count: int, *, shown: bool) -> Task:
    """Returns a task for one of `count` nets on a device."""
    environment = {**task.config["environment"], "devices": 1, "at_once": count}
    watch = task.watch if shown else Warnings(task.watch)
    return dataclasses.replace(task, config={**task.config, "environment": environment}, watch=watch)


def _check(
    models: Sequence[nnx.Module],
    data: Sequence[Mapping[str, Any]],
    workdirs: Sequence[Any],
    seeds: Sequence[int],
    arguments: Mapping[str, Any],
) -> None:
    """Raises UserError where the arguments are not those of nets that can be trained at once."""
    for name, each in (("models", models), ("data", data), ("workdirs", workdirs), ("seeds", seeds)):
        if not hasattr(each, "__len__"):
            raise UserError(f"`{name}` must have one entry for each net, was {each!r}.")
    if not models:
        raise UserError("`models` must be the nets to train, was empty.")
    for name, each in (("data", data), ("workdirs", workdirs), ("seeds", seeds)):
        if len(each) != len(models):
            raise UserError(f"`{name}` must have one entry for each of the {len(models)} nets, had {len(each)}.")
    paths = [Path(path).resolve() for path in workdirs if path is not None]
    if len(set(paths)) < len(paths):
        raise UserError(f"`workdirs` must be folders of their own for each net, were {', '.join(map(str, workdirs))}.")
    if jax.process_count() > 1:
        raise UserError(f"nets are trained at once by one process, and there are {jax.process_count()} here.")
    if "seed" in arguments:
        raise UserError(f"`seed={arguments['seed']}` is one seed for all nets: give `seeds`, one for each.")
    for name, why in FOR_ONE.items():
        if arguments.get(name):
            raise UserError(f"`{name}={arguments[name]}` {why}: leave it out, or train the nets one after the other.")
    first = _structure(models[0])
    for number, model in enumerate(models):
        if _structure(model) != first:
            raise UserError(f"`models` must be of one structure, but net {number} is not as net 0: train it by itself.")


def _check_alike(tasks: Sequence[Task]) -> None:
    """Refuses examples of which a run makes other updates, or of other shapes: one program is for all nets."""

    def described(task: Task) -> str:
        x, y = specs(task.splits["train"])
        shapes = [f"{leaf.dtype}{list(leaf.shape[1:])}" for leaf in jax.tree.leaves((x, y))]
        return f"{', '.join(shapes)} in {task.per_epoch} updates an epoch"

    first = described(tasks[0])
    for number, task in enumerate(tasks):
        if (own := described(task)) != first:
            raise UserError(
                f"`data` of nets that are trained at once must be alike: net {number} has examples of {own}, and net 0 "
                f"{first}. Train it by itself."
            )


def _structure(model: nnx.Module) -> tuple[str | None, Any]:
    """Returns what two nets must share: the code and attributes of their layers, and shapes."""
    if not isinstance(model, nnx.Module):
        raise UserError(f"`models` must be flax.nnx.Modules, had a {type(model).__name__}.")
    _, *arrays = split(model)
    return fingerprint.of_function(model, parameters=False), jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), arrays)
