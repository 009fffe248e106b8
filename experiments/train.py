"""Train any net on any data set of images: one of ours by name, or a class of your own.

  python experiments/train.py --model=resnet18 --dataset=cifar10 --augment
  python experiments/train.py --model=my_nets.py:Small --dataset=folder:photos --image_size=64
  python experiments/train.py --model=package.module:Net --dataset=npz:data.npz --model_options='{"width": 32}'

A class of your own is a flax.nnx.Module, called as model(x) -> logits; it gets those of the keywords num_classes,
channels, size, dtype and rngs that its signature has, and those of --model_options. Every flag of the other scripts
works, the run resumes, and predict.py, visualize.py and compare.py know it by its config.json, from which they import
the class again: files and modules are looked for from the folder in which the command is given.

Flags that are not given come from the recipe, by default adamw:
  adamw     10 epochs, batch_size 64, adamw, learning_rate 0.001, onecycle, weight_decay 0.01, decay kernels
  momentum  20 epochs, batch_size 128, momentum, nesterov, learning_rate 0.1, cosine, warmup 100, weight_decay 5e-4,
            decay kernels, label_smoothing 0.1
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from cnnjax.app import interruptions

    interruptions.install()

import json
import re
from typing import Any

from absl import flags

from cnnjax.app import experiment, process, settings
from cnnjax.app import flags as shared
from cnnjax.errors import UserError
from cnnjax.models.build import OFFERED

FLAGS = flags.FLAGS
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "optimizer": "adamw",
        "schedule": "onecycle",
        "weight_decay": 0.01,
        "decay": "kernels",
    },
    "momentum": {
        "epochs": 20,
        "batch_size": 128,
        "learning_rate": 0.1,
        "optimizer": "momentum",
        "nesterov": True,
        "schedule": "cosine",
        "warmup": 100,
        "weight_decay": 5e-4,
        "decay": "kernels",
        "label_smoothing": 0.1,
    },
}
shared.define_training_flags(recipes=list(RECIPES), image_size=0)
flags.DEFINE_string("model", None, "NAME, package.module:Class, or path/file.py:Class", required=True)
flags.DEFINE_string("model_options", "{}", "keywords of the net, as JSON")


def main(arguments: list[str]) -> None:
    """Trains, resumes and reports."""
    settings.no_arguments(arguments)
    size = FLAGS.image_size
    model = {"name": FLAGS.model, **model_options(), **({"size": size} if size else {})}
    experiment.run(
        experiment.Experiment(
            name=re.sub(r"\W+", "_", FLAGS.model.rpartition(":")[2]),
            model=model,
            recipe=RECIPES[FLAGS.recipe or "adamw"],
            size=size,
            resize=True,
            first_layer=None,
        )
    )


def model_options() -> dict[str, Any]:
    """Returns the keywords of `--model_options`."""
    try:
        options = json.loads(FLAGS.model_options)
    except ValueError as error:
        raise UserError(
            f"--model_options={FLAGS.model_options!r} is not JSON ({error}), as in '{{\"width\": 32}}'."
        ) from (None)
    if not isinstance(options, dict):
        raise UserError(f"--model_options={FLAGS.model_options!r} must be keywords, as in '{{\"width\": 32}}'.")
    for name in ("name", *OFFERED):
        if name in options:
            raise UserError(f"--model_options: {name} comes from other flags or from the data set: leave it out.")
    return options


if __name__ == "__main__":
    process.run(main)
