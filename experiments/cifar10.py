"""CIFAR-10 by the tutorial's net, with our convolutions or flax's, or by a ResNet-18.

  python experiments/cifar10.py
  python experiments/cifar10.py --conv=flax
  python experiments/cifar10.py --algorithm=winograd
  python experiments/cifar10.py --batch_norm --width=64 --augment --epochs=20 --optimizer=momentum \
      --learning_rate=0.1 --schedule=onecycle --weight_decay=5e-4
  python experiments/cifar10.py --model=resnet18

The net is --blocks of [3x3 convolution, batch norm if asked for, ReLU, 2x2 max-pool], each twice as wide as the one
before, and a dense layer of 128. curves.png shows train and test over the epochs; a word is printed where the test
loss turns while the train loss falls.

The first command: 74.08 %, one seed, 405 s on two CPU cores partly beside other work; the test loss turns after
epoch 6.
With batch norm, augmentation and the recipe of the ResNet-18, the fourth command: 87.06 %, one seed, 7,800 updates, 5.3
a second on two CPU cores. With adam, a peak rate of 4e-3 and no weight decay: 86.96 %, one seed.

Flags that are not given come from the model's recipe:
  cnn       10 epochs, batch_size 128, adam, learning_rate 0.001, constant
  resnet18  20 epochs, batch_size 128, momentum, learning_rate 0.1, onecycle, weight_decay 5e-4, augment
"""

from __future__ import annotations

from typing import Any

from absl import flags

from cnnjax.app import classify, process
from cnnjax.app import flags as shared
from cnnjax.errors import UserError
from cnnjax.models.cifar import CONVS
from cnnjax.ops.conv.choose import ALGORITHM_NAMES

FLAGS = flags.FLAGS
shared.define_training_flags(dataset="cifar10")
flags.DEFINE_enum("model", "cnn", ["cnn", "resnet18"], "the tutorial's net, or a ResNet-18")
flags.DEFINE_enum("conv", "own", CONVS, "cnn: whose convolution layers")
flags.DEFINE_enum("algorithm", "auto", ALGORITHM_NAMES, "cnn: how the own convolutions are computed")
flags.DEFINE_integer("blocks", 3, "cnn: how many blocks, each halves the image", lower_bound=1, upper_bound=5)
flags.DEFINE_integer("width", 32, "cnn: the maps of the first block", lower_bound=1)
flags.DEFINE_bool("batch_norm", False, "cnn: batch norm behind each convolution")

RECIPES: dict[str, dict[str, Any]] = {
    "cnn": {
        "epochs": 10,
        "batch_size": 128,
        "learning_rate": 1e-3,
        "optimizer": "adam",
        "schedule": "constant",
        "augment": False,
    },
    "resnet18": {
        "epochs": 20,
        "batch_size": 128,
        "learning_rate": 0.1,
        "optimizer": "momentum",
        "schedule": "onecycle",
        "weight_decay": 5e-4,
        "augment": True,
    },
}


def main(arguments: list[str]) -> None:
    """Trains, resumes and reports."""
    shared.no_arguments(arguments)
    if FLAGS.model == "resnet18":
        for name in ("conv", "algorithm", "blocks", "width", "batch_norm"):
            if FLAGS[name].present:
                raise UserError(f"--{name} is for --model=cnn; leave it out with --model=resnet18.")
        model, first_layer = {"name": "resnet18"}, "stem/conv"
    else:
        model, first_layer = cnn(), "blocks/0/conv"
    experiment = classify.Experiment(
        name="cifar10", model=model, recipe=RECIPES[FLAGS.model], size=32, first_layer=first_layer
    )
    classify.run(experiment)


def cnn() -> dict[str, Any]:
    """Returns name and keywords of the tutorial's net, as the flags have them."""
    return {
        "name": "cifar_cnn",
        "widths": [FLAGS.width * 2**block for block in range(FLAGS.blocks)],
        "batch_norm": FLAGS.batch_norm,
        "conv": FLAGS.conv,
        "algorithm": FLAGS.algorithm,
    }


if __name__ == "__main__":
    process.run(main)
