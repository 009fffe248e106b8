"""VGG on CIFAR-10, Fashion-MNIST, or any TFDS set of images, resized on the way in.

  python experiments/vgg.py
  python experiments/vgg.py --depth=16 --batch_norm --width=32
  python experiments/vgg.py --dataset=fashion_mnist --image_size=224 --dense=4096 --noaugment --optimizer=sgd
      --schedule=constant --weight_decay=0 --epochs=10
  python experiments/vgg.py --dataset=imagenet2012 --depth=16 --image_size=224 --width=64 --dense=4096 --epochs=74

The first trains a VGG-11 of a quarter of the published maps on images of 32x32: 76.22 %, one seed, 26 minutes on 2 CPU
cores beside other work, with pauses. The third is that of Dive into Deep Learning, section 8.2: test accuracy 0.920
there; it was not run here. The fourth is the paper's net and data; images that do not fit in memory are read when they
are needed. imagenet.py has crops of random shape, as torchvision's.

With --augment, as the recipe has it, images are resized to 8/7 of --image_size, and the net sees random crops of these,
mirrored and with jittered colours; it is tested by the mean over ten crops.

Flags that are not given come from the recipe: 15 epochs, batch_size 128, momentum, learning_rate 0.01, cosine,
weight_decay 5e-4, augment. The paper had batches of 256, and divided the rate by ten whenever the validation accuracy
stood still, three times in 74 epochs; here it falls along a cosine.
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
from cnnjax.models.vgg import SMALLEST, STAGES

FLAGS = flags.FLAGS
shared.define_training_flags(dataset="cifar10", image_size=32, smallest=SMALLEST)
flags.DEFINE_enum("depth", "11", [str(depth) for depth in STAGES], "layers with weights: configurations A, B, D and E")
flags.DEFINE_bool("batch_norm", False, "batch norm behind each convolution")
flags.DEFINE_integer("width", 16, "the maps of the first stage; published: 64", lower_bound=1)
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
    model = {
        "name": "vgg",
        "depth": int(FLAGS.depth),
        "batch_norm": FLAGS.batch_norm,
        "width": FLAGS.width,
        "dense": FLAGS.dense,
        "size": FLAGS.image_size,
    }
    described = experiment.Experiment(
        name="vgg",
        model=model,
        recipe=RECIPE,
        size=FLAGS.image_size,
        crops=True,
        ten_crop=FLAGS.ten_crop,
        first_layer="convs/0",
    )
    experiment.run(described)


if __name__ == "__main__":
    process.run(main)
