"""Shapes of the nets that the training steps compare, as cnnjax.models has them."""

from __future__ import annotations

import itertools
from typing import NamedTuple


class PlainShape(NamedTuple):
    """Describes a net of convolutions, 2x2 max-pools and dense layers.

    Attributes:
      widths: channels before and after each convolution.
      window: side of the kernels.
      last_pool: whether the last convolution is pooled too.
      dense: features before and after each dense layer.
    """

    widths: tuple[int, ...]
    window: int
    last_pool: bool
    dense: tuple[int, ...]


PLAIN = {
    "lenet5": PlainShape((1, 6, 16), 5, True, (400, 120, 84, 10)),
    "mnist_cnn": PlainShape((1, 32, 64, 128), 3, False, (1152, 128, 10)),
}
CIFAR_WIDTHS = (3, 32, 64, 128)
ALEXNET_WIDTHS = (96, 256, 384, 384, 256)
#: Convolutions of each stage and their channels, by depth.
VGG_STAGES = {
    11: ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512)),
    16: ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)),
}
RESNET_WIDTHS = (64, 64, 64, 128, 128, 256, 256, 512, 512)  # channels before and after each block


def residual_blocks() -> list[tuple[int, int, int]]:
    """Returns ResNet-18's blocks: channels in, channels out, stride."""
    pairs = itertools.pairwise(RESNET_WIDTHS)
    return [(inputs, outputs, 1 if inputs == outputs else 2) for inputs, outputs in pairs]
