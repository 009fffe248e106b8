"""CIFAR-10 by the tutorial's net, with our convolutions or flax's, or by a ResNet-18.

  python experiments/cifar10.py
  python experiments/cifar10.py --conv=flax
  python experiments/cifar10.py --algorithm=winograd
  python experiments/cifar10.py --recipe=cnn_batch_norm
  python experiments/cifar10.py --recipe=resnet18

The net is --blocks of [3x3 convolution, batch norm if asked for, ReLU, 2x2 max-pool], each twice as wide as the one
before, and a dense layer of 128. curves.png shows train and test over the epochs; a word is printed where the test
loss turns while the train loss falls.

The first command: 74.08 %, one seed, 405 s on two CPU cores partly beside other work; the test loss turns after
epoch 6.
With batch norm, augmentation and the recipe of the ResNet-18, the fourth command: 87.06 %, one seed, 7,800 updates, 5.3
a second on two CPU cores. With adam, a peak rate of 4e-3 and no weight decay: 86.96 %, one seed.
The ResNet-18 by its recipe, the fifth command, but with --epochs=6: 87.00 %, one seed, 2,340 updates of 2.3 to 2.6 s
where nothing ran beside it, on two cores of an AMD EPYC without AVX-512.

Flags that are not given come from the recipe, by default the model's:
  cnn             10 epochs, batch_size 128, adam, learning_rate 0.001, constant
  cnn_batch_norm  batch_norm, width 64, 20 epochs, batch_size 128, momentum, learning_rate 0.1, onecycle,
                  weight_decay 5e-4, augment
  resnet18        model resnet18, and the rest as cnn_batch_norm
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from cnnjax.app import garbage, interruptions

    interruptions.install()
    garbage.pause()

from typing import Any

from absl import flags

from cnnjax.app import experiment, process, settings
from cnnjax.app import flags as shared
from cnnjax.errors import UserError
from cnnjax.models.cifar import CONVS
from cnnjax.ops.conv.choose import ALGORITHM_NAMES

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "cnn", ["cnn", "resnet18"], "the tutorial's net, or a ResNet-18")
flags.DEFINE_enum("conv", "own", CONVS, "cnn: whose convolution layers")
flags.DEFINE_enum("algorithm", "auto", ALGORITHM_NAMES, "cnn: how the own convolutions are computed")
flags.DEFINE_integer("blocks", 3, "cnn: how many blocks, each halves the image", lower_bound=1, upper_bound=5)
flags.DEFINE_integer("width", 32, "cnn: the maps of the first block", lower_bound=1)
flags.DEFINE_bool("batch_norm", False, "cnn: batch norm behind each convolution")

ONE_CYCLE: dict[str, Any] = {
    "learning_rate": 0.1,
    "optimizer": "momentum",
    "schedule": "onecycle",
    "weight_decay": 5e-4,
    "augment": True,
}
RECIPES: dict[str, dict[str, Any]] = {
    "cnn": {
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "optimizer": "adam",
        "schedule": "constant",
        "augment": False,
    },
    "cnn_batch_norm": {"batch_norm": True, "width": 64, "epochs": 20, "batch_size": 128, **ONE_CYCLE},
    "resnet18": {"model": "resnet18", "epochs": 20, "batch_size": 128, **ONE_CYCLE},
}
shared.define_training_flags(dataset="cifar10", recipes=list(RECIPES), image_size=32, smallest=2)


def main(arguments: list[str]) -> None:
    """Trains, resumes and reports."""
    settings.no_arguments(arguments)
    recipe = RECIPES[FLAGS.recipe or FLAGS.model]
    others = settings.apply_recipe(recipe)
    assert not others, "every entry of these recipes is a flag"
    if FLAGS.recipe is not None and recipe.get("model", "cnn") != FLAGS.model:
        raise UserError(
            f"--recipe={FLAGS.recipe} is for another net than --model={FLAGS.model}: leave one of them out."
        )
    if FLAGS.model == "resnet18":
        for name in ("conv", "algorithm", "blocks", "width", "batch_norm"):
            if FLAGS[name].present:
                raise UserError(f"--{name} is for --model=cnn; leave it out with --model=resnet18.")
        model, first_layer = {"name": "resnet18"}, "stem/conv"
    else:
        model, first_layer = cnn(), "blocks/0/conv"
    experiment.run(
        experiment.Experiment(
            name="cifar10",
            model=model,
            recipe=recipe,
            size=FLAGS.image_size,
            resize=FLAGS["image_size"].present > 0,
            first_layer=first_layer,
        )
    )


def cnn() -> dict[str, Any]:
    """Returns name and keywords of the tutorial's net, as the flags have them."""
    return {
        "name": "cifar_cnn",
        "widths": [FLAGS.width * 2**block for block in range(FLAGS.blocks)],
        "batch_norm": FLAGS.batch_norm,
        "size": FLAGS.image_size,
        "conv": FLAGS.conv,
        "algorithm": FLAGS.algorithm,
    }


if __name__ == "__main__":
    process.run(main)
