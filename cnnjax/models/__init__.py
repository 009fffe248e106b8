"""The nets, one paper per file, and `build`, which makes one from a run's configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.alexnet import AlexNet
from cnnjax.models.cifar import CifarCNN
from cnnjax.models.lenet import LeNet5, LeNet5Of1998
from cnnjax.models.mnist_cnn import MnistCNN
from cnnjax.models.resnet import ResNet18
from cnnjax.models.textcnn import TextCNN
from cnnjax.models.vgg import VGG

__all__ = ["VGG", "AlexNet", "CifarCNN", "LeNet5", "LeNet5Of1998", "MnistCNN", "ResNet18", "TextCNN", "build"]

MODELS: dict[str, Callable[..., nnx.Module]] = {
    "alexnet": AlexNet,
    "cifar_cnn": CifarCNN,
    "lenet5": LeNet5,
    "lenet5-1998": LeNet5Of1998,
    "mnist_cnn": MnistCNN,
    "resnet18": ResNet18,
    "textcnn": TextCNN,
    "vgg": VGG,
}


def build(config: Mapping[str, Any]) -> nnx.Module:
    """Builds the model that a run's config describes, freshly initialised.

    Args:
      config: `config["model"]` holds the model's name and keywords, `{"name": "lenet5", "channels": 1, ...}`;
        `config["dtype"]` is the computation's dtype (default float32), `config["seed"]` the seed (default 0).

    Returns:
      The model, in training mode.

    Raises:
      UserError: no such model, or one without these keywords.

    Example:
      >>> build({"model": {"name": "lenet5", "variant": "classic"}}).variant
      'classic'
    """
    options = dict(config["model"])
    name = options.pop("name")
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}: it must be one of {', '.join(MODELS)}.")
    rngs = nnx.Rngs(config.get("seed", 0))
    try:
        return MODELS[name](**options, dtype=config.get("dtype", "float32"), rngs=rngs)
    except (TypeError, ValueError) as error:
        raise UserError(f"the model {name} cannot be built from {options}: {error}.") from error
