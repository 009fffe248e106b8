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


def run_each(name: str, options: train.Options, run_one: Callable[[Path, train.Options], train.Result]) -> None:
    """Makes the run, or those of `--seeds`, each in a folder of its own; prints their mean.

    Args:
      name: of the experiment, for the default workdir.
      options: of the first run.
      run_one: makes or goes on with the run in a folder.

    Raises:
      UserError: the workdir holds a single run and `--seeds` is given, or the reverse.
    """
    folder = Path(FLAGS.workdir) if FLAGS.workdir else run_dir.dated(Path("runs"), name)
    deterministic.keep_compiled_in(folder)
    if FLAGS.seeds is None:
        if folder.is_dir() and any(folder.glob("seed*/config.json")):
            raise UserError(f"--workdir={folder} holds the runs of several seeds: give --seeds=N to go on with them.")
        run_one(folder, options)
        return
    if (folder / "config.json").exists():
        raise UserError(f"--workdir={folder} holds a single run: leave --seeds out, or give another folder.")
    if options.seed + FLAGS.seeds - 1 > LARGEST_SEED:
        raise UserError(f"--seeds={FLAGS.seeds} from --seed={options.seed} on passes {LARGEST_SEED}, the largest seed.")
    scores = []
    for seed in range(options.seed, options.seed + FLAGS.seeds):
        result = run_one(folder / f"seed{seed}", dataclasses.replace(options, seed=seed))
        if not result.finished:
            return
        scores.append(result.records[-1])
    print(table(scores))


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
