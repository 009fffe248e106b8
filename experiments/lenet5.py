"""LeNet-5 on the embedded digits, or on any TFDS set of images up to 32x32.

  python experiments/lenet5.py
  python experiments/lenet5.py --dataset=mnist
  python experiments/lenet5.py --variant=classic --dataset=fashion_mnist

The same command with the same --workdir goes on where the run was stopped, and ends with the same bits.

Flags that are not given come from the variant's recipe:
  modern   5 epochs, batch_size 64, adamw, learning_rate 0.004, onecycle, weight_decay 0.01
           (digits: 100 epochs with augmentation)
  classic  10 epochs, batch_size 256, sgd, learning_rate 0.9, constant: the settings of d2l
"""

from __future__ import annotations

from typing import Any

from absl import flags

from cnnjax import experiment
from cnnjax import flags as shared
from cnnjax.models.lenet import VARIANTS

FLAGS = flags.FLAGS
shared.define_training_flags()
flags.DEFINE_enum(
    "variant", "modern", VARIANTS, "modern: ReLU and max-pool; classic: sigmoid and average-pool, as in d2l"
)

RECIPES: dict[str, dict[str, Any]] = {
    "modern": {
        "epochs": 5,
        "batch_size": 64,
        "learning_rate": 4e-3,
        "optimizer": "adamw",
        "schedule": "onecycle",
        "weight_decay": 0.01,
        "augment": False,
    },
    "classic": {"epochs": 10, "batch_size": 256, "learning_rate": 0.9, "optimizer": "sgd", "schedule": "constant"},
}
FEW_EXAMPLES = {"epochs": 100, "augment": True}  # the digits: 1,437 to learn from, each time distorted


def main(arguments: list[str]) -> None:
    """Train, resume and report."""
    shared.no_arguments(arguments)
    recipe = RECIPES[FLAGS.variant]
    if FLAGS.dataset == "digits" and FLAGS.variant == "modern":
        recipe = recipe | FEW_EXAMPLES
    model = {"name": "lenet5", "variant": FLAGS.variant}
    experiment.run("lenet5", model, recipe, size=32, standardize=FLAGS.variant == "modern")


if __name__ == "__main__":
    shared.run(main)
