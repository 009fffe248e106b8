"""cnnjax beside PyTorch, flax and plain lax: the same numbers, timed in turns on this machine.

  python experiments/bench --suite=ops
  python experiments/bench --suite=pool
  python experiments/bench --suite=step --peers=torch,flax
  python experiments/bench --suite=step --dtypes=bfloat16
  python experiments/bench --suite=predict
  python experiments/bench --suite=epoch
  python experiments/bench --suite=data --photos=DIR
  python experiments/bench --suite=aot --target=tpu:v5e,gpu:h100

ops: convolutions as the nets have them, forward and forward+backward; pool: poolings alike; step: whole training
steps, without dropout; predict: outputs of batches of 1, 32 and 256 images; epoch: the training scripts from launch to
finish, with an empty and with a filled compilation cache; data: random crops of JPEGs of ImageNet's size, beside
PyTorch's loader with torchvision's transforms, each stage from the file to the update, and updates whose examples are
read on the host beside those in memory. In each round every contender runs once, in a drawn order; a ratio is the
median over the rounds of our time over theirs in the same round. "own again" is ours a second time: how far it is from
1 is the noise. Before and after each round a spin test tells whether other processes keep cores busy: such a round is
timed again, and where they stay busy the run ends, see --busy. PyTorch runs in both memory layouts, and "torch" is the
better one, case by case. A contender that does not compute our numbers ends the run.

aot: training steps compiled for accelerators that are not here, beside the same nets of flax's layers: XLA's own step
time and bytes on a TPU, temporaries and kernels on a GPU. It needs their compilers (pip install -e '.[aot]', '.[cuda]')
and times nothing. Compiling all takes an hour; a run goes on with what an earlier one in the same --out has compiled.

Prints a table, and leaves SUITE.json and SUITE.png in --out. A timed suite takes 2 to 20 minutes on 2 cores.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and any(word.endswith("aot") for word in sys.argv):  # of --suite, before JAX is imported
    from cnnjax.app import compile_only

    compile_only.install()

import importlib.util
import itertools
import json
from pathlib import Path

from absl import flags
from compiled import compile_steps
from convolutions import time_ops
from epochs import time_epochs
from feeds import time_feeds
from loaders import time_data
from poolings import time_pools
from predictions import time_predictions
from results import line, machine, means, plot
from steps import time_steps
from timing import alone

from cnnjax.app import process, settings
from cnnjax.errors import UserError

FLAGS = flags.FLAGS
PEERS = ("torch", "flax", "lax")
SUITES = {
    "ops": time_ops,
    "pool": time_pools,
    "step": time_steps,
    "predict": time_predictions,
    "epoch": time_epochs,
    "data": lambda peers: itertools.chain(time_data(peers), time_feeds(peers)),
    "aot": compile_steps,
}
flags.DEFINE_enum("suite", "ops", list(SUITES), "what is compared")
flags.DEFINE_list("peers", None, f"whom with, of {', '.join(PEERS)}; by default all that are installed")
flags.DEFINE_integer("rounds", 7, "how often each contender is timed", lower_bound=1)
flags.DEFINE_enum(
    "busy", "refuse", ["refuse", "mark"], "beside busy processes: end the run, or go on and mark what was disturbed"
)
flags.DEFINE_string("only", "", "run the cases with this in their name alone")
flags.DEFINE_string("out", "runs/bench", "the folder for the JSON file and the plot")
flags.DEFINE_bool("options", False, "ops, pool: give ours and lax the compiler options of our training step")


def main(arguments: list[str]) -> None:
    """Times the cases of a suite, prints the table, writes the JSON file and the plot."""
    settings.no_arguments(arguments)
    peers = chosen_peers()
    results = []
    if FLAGS.suite != "aot":
        alone(lambda: None)  # refuses before anything is compiled
    for result in SUITES[FLAGS.suite](peers):
        results.append(result)
        print(line(result), flush=True)
    if not results:
        raise UserError(f"--only={FLAGS.only!r}: no case of the suite {FLAGS.suite} has that in its name.")
    summary = means(results)
    for row in summary:
        print(f"{row['measure']}: ours over {row['peer']}: geometric mean {row['mean']:.2f}, worst {row['worst']:.2f}")
    folder = Path(FLAGS.out)
    folder.mkdir(parents=True, exist_ok=True)
    report = {"suite": FLAGS.suite, "machine": machine(), "flags": FLAGS.flags_into_string().split(), "cases": results}
    (folder / f"{FLAGS.suite}.json").write_text(json.dumps({**report, "summary": summary}, indent=1))
    compared = [result for result in results if result["ratios"]]  # stages of a loader have no peer
    if compared:
        plot(compared, folder / f"{FLAGS.suite}.png")
    print(f"on {machine()['processor']}: {folder / FLAGS.suite}.json{' and .png' if compared else ''}")


def chosen_peers() -> list[str]:
    """Returns the peers asked for, or all that are installed.

    Raises UserError for one that is not installed.
    """
    installed = [name for name in PEERS if name == "lax" or importlib.util.find_spec(name)]
    for name in FLAGS.peers or []:
        if name not in PEERS:
            raise UserError(f"--peers={','.join(FLAGS.peers)}: {name!r} must be one of {', '.join(PEERS)}.")
        if name not in installed:
            raise UserError(f"--peers={','.join(FLAGS.peers)}: {name} is not installed: pip install {name}.")
    return installed if FLAGS.peers is None else FLAGS.peers


if __name__ == "__main__":
    process.run(main)
