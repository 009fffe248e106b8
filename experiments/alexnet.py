"""AlexNet on CIFAR-10, Fashion-MNIST, or any TFDS set of images, resized on the way in.

  python experiments/alexnet.py
  python experiments/alexnet.py --form=one-tower --dataset=fashion_mnist
  python experiments/alexnet.py --dataset=imagenet2012 --image_size=224 --width=96 --dense=4096 --epochs=90

The first two train a small AlexNet on images of 64x64 in minutes: a quarter of the paper's maps, an eighth of its dense
layers. The third is the paper's net and data; images that do not fit in memory are read when they are needed.

The first: 74.08 %, one seed, 366 s on two CPU cores, evaluations by ten crops and compiling included. One epoch of
Fashion-MNIST (--dataset=fashion_mnist --epochs=1 --noten_crop) gave 71.8 %, one seed.

With --augment, as the recipe has it, images are resized to 8/7 of --image_size, and the net sees random crops of these,
mirrored and with jittered colours; it is tested by the mean over ten crops. kernels.png shows the first layer.

Flags that are not given come from the recipe: 15 epochs, batch_size 128, momentum, learning_rate 0.01, cosine,
weight_decay 5e-4, augment. The paper divided the rate by ten whenever the validation error stood still, three times in
90 epochs; here it falls along a cosine.
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
from cnnjax.models.alexnet import FORMS, SMALLEST

FLAGS = flags.FLAGS
shared.define_training_flags(dataset="cifar10", image_size=64, smallest=SMALLEST)
flags.DEFINE_enum(
    "form", "towers", list(FORMS), "the paper's two towers; the same without groups; torchvision's one tower"
)
flags.DEFINE_integer("width", 24, "the maps of the first layer; published: 96, of one tower 64", lower_bound=1)
flags.DEFINE_integer("dense", 512, "the width of the hidden dense layers; published: 4096", lower_bound=1)
flags.DEFINE_bool("ten_crop", None, "test by the mean over ten crops, not by the middle; by default with --augment")

RECIPE: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 128,
    "learning_rate": 0.01,
    "optimizer": "momentum",
    "schedule": "cosine",
    "weight_decay": 5e-4,
    "augment": True,
}


def main(arguments: list[str]) -> None:
    """Trains, resumes and reports."""
    settings.no_arguments(arguments)
    size = FLAGS.image_size
    model = {"name": "alexnet", "form": FLAGS.form, "width": FLAGS.width, "dense": FLAGS.dense, "size": size}
    # the paper's weights are made for pixels of 0..255 less their mean
    pixels = None if FLAGS.form == "one-tower" else "centred"
    described = experiment.Experiment(
        name="alexnet",
        model=model,
        recipe=RECIPE,
        size=size,
        crops=True,
        ten_crop=FLAGS.ten_crop,
        pixels=pixels,
    )
    experiment.run(described)


if __name__ == "__main__":
    process.run(main)
