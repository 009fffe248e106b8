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
    from cnnjax.app import garbage, interruptions

    interruptions.install()
    garbage.pause()

import re
from typing import Any

from absl import flags

from cnnjax.app import experiment, process, settings
from cnnjax.app import flags as shared

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
shared.define_model_flags()


def main(arguments: list[str]) -> None:
    """Trains, resumes and reports."""
    settings.no_arguments(arguments)
    size = FLAGS.image_size
    model = {"name": FLAGS.model, **settings.model_options(), **({"size": size} if size else {})}
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


if __name__ == "__main__":
    process.run(main)
