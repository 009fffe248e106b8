"""Several runs of one command, one a seed, and the mean over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from cnnjax import train
from cnnjax.app import deterministic
from cnnjax.app.flags import LARGEST_SEED
from cnnjax.errors import UserError
from cnnjax.train import run_dir

FLAGS = flags.FLAGS


def run_each(
    name: str, options: train.Options, run_some: Callable[[Mapping[Path, train.Options]], list[train.Result]]
) -> None:
    """Makes the run, or those of `--seeds`, each in a folder of its own, and prints their mean.

    Args:
      name: of the experiment, for the default workdir.
      options: of the first run.
      run_some: makes or goes on with the runs in some folders, at once: with `--at_once` all of them, else one a call.

    Raises:
      UserError: the workdir holds a single run and `--seeds` is given, or the reverse; `--at_once` without `--seeds`.
    """
    if FLAGS.at_once and FLAGS.seeds is None:
        raise UserError("--at_once is for several runs: give --seeds=N, or leave it out.")
    folder = Path(FLAGS.workdir) if FLAGS.workdir else run_dir.dated(Path("runs"), name)
    deterministic.keep_compiled_in(folder)
    if FLAGS.seeds is None:
        if folder.is_dir() and any(folder.glob("seed*/config.json")):
            raise UserError(f"--workdir={folder} holds the runs of several seeds: give --seeds=N to go on with them.")
        run_some({folder: options})
        return
    if (folder / "config.json").exists():
        raise UserError(f"--workdir={folder} holds a single run: leave --seeds out, or give another folder.")
    if options.seed + FLAGS.seeds - 1 > LARGEST_SEED:
        raise UserError(f"--seeds={FLAGS.seeds} from --seed={options.seed} on passes {LARGEST_SEED}, the largest seed.")
    seeds = range(options.seed, options.seed + FLAGS.seeds)
    runs = {folder / f"seed{seed}": dataclasses.replace(options, seed=seed) for seed in seeds}
    results: list[train.Result] = []
    for some in [runs] if FLAGS.at_once else [{own: of_seed} for own, of_seed in runs.items()]:
        results += run_some(some)
        if not all(result.finished for result in results):
            return
    print(table([result.records[-1] for result in results]))


def table(scores: Sequence[Mapping[str, float]]) -> str:
    """Returns a table of the last scores of several runs: mean, standard deviation, and each of them.

    The deviation is that of a sample, with n - 1.
    """
    names = [name for name in scores[0] if name not in ("step", "epoch")]
    title = f"{len(scores)} seed{'' if len(scores) == 1 else 's'}"
    width = max(map(len, [title, *names]))
    lines = [f"\n{title:{width}} {'mean':>8} {'sd':>9}  each"]
    for name in names:
        values = np.array([score[name] for score in scores])
        spread = f"{values.std(ddof=1):9.4f}" if len(values) > 1 else f"{'-':>9}"
        lines.append(f"{name:{width}} {values.mean():8.4f} {spread}  {' '.join(f'{value:.4f}' for value in values)}")
    return "\n".join(lines)
