"""VGG (Simonyan, Zisserman: Very deep convolutional networks for large-scale image recognition, ICLR 2015)."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from cnnjax.layers import BatchNorm, Conv, MaxPool

#: By depth, counted in layers with weights: how many convolutions each of the five stages has.
STAGES = {
    11: (1, 1, 2, 2, 2),  # configuration A
    13: (2, 2, 2, 2, 2),  # B
    16: (2, 2, 3, 3, 3),  # D
    19: (2, 2, 4, 4, 4),  # E
}
#: The maps of the stages, by those of the first.
WIDENING = (1, 2, 4, 8, 8)
#: The smallest image that five halvings leave something of.
SMALLEST = 32


class VGG(nnx.Module):
    """VGG: five stages of 3x3 convolutions, each ended by a 2x2 max-pool, and three dense layers with dropout.

    For 1,000 classes 11, 13, 16, 19 have 132,863,336, 133,047,848, 138,357,544 and 143,667,240 parameters, and with
    batch norm 5,504, 5,888, 8,448 and 11,008 more.

    Args:
      num_classes: length of the logits.
      depth: 11, 13, 16 or 19, the configurations A, B, D and E.
      batch_norm: whether there is batch norm behind each convolution, which keeps its bias, as in torchvision.
      width: the maps of the first stage, 64 as published; the others have 2, 4, 8 and 8 times as many. The VGG-11 of
        Zhang et al., Dive into Deep Learning, section 8.2, has 16.
      dense: the width of the two hidden dense layers.
      size: of the square images, at least 32.
      channels: of the images.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: where the weights are drawn from, Xavier-uniform: with it, the paper says, the deep nets need no weights
        of the shallow one to start from.

    Raises:
      ValueError: no such depth, or an image too small.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        depth: int = 16,
        batch_norm: bool = False,
        width: int = 64,
        dense: int = 4096,
        size: int = 224,
        channels: int = 3,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        if depth not in STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}, was {depth!r}")
        if size < SMALLEST:
            raise ValueError(f"size must be at least {SMALLEST}, was {size}: five poolings leave nothing of it")
        if width < 1:
            raise ValueError(f"width must be at least 1, was {width}")
        self.depth, self.size = depth, size
        how: dict[str, Any] = {"kernel_init": nnx.initializers.xavier_uniform(), "dtype": dtype, "rngs": rngs}
        convs, norms = [], []
        below = channels
        for count, widening in zip(STAGES[depth], WIDENING, strict=True):
            for _ in range(count):
                convs.append(Conv(below, widening * width, (3, 3), padding=1, **how))
                if batch_norm:
                    norms.append(BatchNorm(widening * width, momentum=0.9, dtype=dtype, rngs=rngs))
                below = widening * width
        self.convs = nnx.List(convs)  # in the order of their calls, through all stages; and so the norms
        self.norms = nnx.List(norms)
        self.pool = MaxPool(2)
        self.dense1 = nnx.Linear((size // 32) ** 2 * below, dense, **how)
        self.dense2 = nnx.Linear(dense, dense, **how)
        self.dense3 = nnx.Linear(dense, num_classes, **how)
        self.dropout1 = nnx.Dropout(0.5, rngs=rngs)
        self.dropout2 = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (N, size, size, channels) to logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1:3] != (self.size, self.size):
            raise ValueError(f"x must be (N, {self.size}, {self.size}, channels), was {x.shape}: crop or resize it")
        number = 0
        for count in STAGES[self.depth]:  # 224x224x3 -> 112x112x64 -> 56x56x128 -> 28x28x256 -> 14x14x512 -> 7x7x512
            for last in [False] * (count - 1) + [True]:
                x = self.convs[number](x)
                x = self.norms[number](x) if self.norms else x
                x = jax.nn.relu(self.pool(x) if last else x)  # the maximum commutes with ReLU
                number += 1
        x = x.reshape(len(x), -1)  #                          (N, 25088)
        x = self.dropout1(jax.nn.relu(self.dense1(x)))  #     (N, 4096)
        x = self.dropout2(jax.nn.relu(self.dense2(x)))  #     (N, 4096)
        return self.dense3(x)  #                              (N, num_classes)
