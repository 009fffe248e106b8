"""ImageNet, or any data set of photographs, by a ResNet, VGG or AlexNet of torchvision's form.

  python experiments/imagenet.py --model=resnet50
  python experiments/imagenet.py --model=resnet18 --dataset=folder:photos --image_size=64 --epochs=10 --batch_size=32
  python experiments/imagenet.py --model=resnet50 --dataset=folder:photos --init_from=resnet50.safetensors --epochs=5
  python experiments/imagenet.py --model=resnet50 --batch_size=2048 --dtype=bfloat16 --distributed --workdir=runs/many

Nothing is held in memory: images are read, decoded and cropped as they are needed. Training sees random crops of random
shape, resized to --image_size and mirrored; the net is tested on the centre of images resized to 8/7 of that. Pixels
are standardised by ImageNet's mean and deviation, so that --init_from takes weights of torchvision as they are. The
number of classes is that of the data set.

The first command is a recipe after flax's example, which has 100 epochs and reaches 76.5 % with a ResNet-50 on one
crop, and Goyal et al. (76.4 %, with rates divided by ten in steps). It was not run here. What was run: see the README.

Flags that are not given come from the recipe: 90 epochs, batch_size 256, momentum, nesterov, learning_rate 0.1 for each
256 images of a batch (alexnet and vgg without norm: 0.01), warm-up of 5 epochs (at most half of the run), cosine,
weight_decay 1e-4 of kernels alone, augment. The last norm of each residual block starts at zero.

References:
  Goyal et al., Accurate, large minibatch SGD: training ImageNet in 1 hour, 2017, arXiv:1706.02677.
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
from cnnjax.models import vgg

FLAGS = flags.FLAGS
MODELS: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}": {"name": f"resnet{depth}", "stem": "imagenet"} for depth in (18, 34, 50, 101)},
    **{f"vgg{depth}": {"name": "vgg", "depth": depth} for depth in vgg.STAGES},
    **{f"vgg{depth}_bn": {"name": "vgg", "depth": depth, "batch_norm": True} for depth in vgg.STAGES},
    "alexnet": {"name": "alexnet", "form": "one-tower"},
}
"""Nets by torchvision's names."""
FIRST_LAYERS = {"resnet": "stem/conv", "vgg": "convs/0", "alexnet": "conv1"}

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of the colours of ImageNet, as torchvision's weights take them."""
IMAGES_OF_A_RATE = 256
"""Batch size that the learning rates are for; others get them in proportion."""

flags.DEFINE_enum("model", "resnet50", list(MODELS), "the net, by torchvision's name")
shared.define_training_flags(dataset="imagenet2012", image_size=224)


def main(arguments: list[str]) -> None:
    """Trains, resumes and reports."""
    settings.no_arguments(arguments)
    size = FLAGS.image_size
    model = dict(MODELS[FLAGS.model])
    if FLAGS.model.startswith("resnet"):
        model["zero_init_residual"] = True
    else:
        model["size"] = size
    experiment.run(
        experiment.Experiment(
            name=FLAGS.model,
            model=model,
            recipe=recipe(FLAGS.model, FLAGS.batch_size or IMAGES_OF_A_RATE),
            size=size,
            random_resized=True,
            channels=3,
            standard=IMAGENET,
            warmup_epochs=5,
            first_layer=next(layer for name, layer in FIRST_LAYERS.items() if FLAGS.model.startswith(name)),
        )
    )


def recipe(model: str, batch_size: int) -> dict[str, Any]:
    """Returns the recipe, the learning rate in proportion to the batch."""
    normed = model.startswith("resnet") or model.endswith("_bn")
    return {
        "epochs": 90,
        "batch_size": IMAGES_OF_A_RATE,
        "learning_rate": (0.1 if normed else 0.01) * batch_size / IMAGES_OF_A_RATE,
        "optimizer": "momentum",
        "nesterov": True,
        "schedule": "cosine",
        "weight_decay": 1e-4,
        "decay": "kernels",
        "augment": True,
    }


if __name__ == "__main__":
    process.run(main)
