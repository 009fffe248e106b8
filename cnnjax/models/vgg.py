"""VGG (Simonyan, Zisserman, ICLR 2015).

Very deep convolutional networks for large-scale image recognition.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers import BatchNorm, BatchNormMaxPool, Conv, MaxPool

#: Number of convolutions in each of the five stages, by depth; the depth counts layers with weights.
STAGES = {
    11: (1, 1, 2, 2, 2),  # configuration A
    13: (2, 2, 2, 2, 2),  # B
    16: (2, 2, 3, 3, 3),  # D
    19: (2, 2, 4, 4, 4),  # E
}
#: Output channels of the stages, in multiples of the first stage's.
WIDENING = (1, 2, 4, 8, 8)
#: Smallest side of the image that leaves a pixel after five halvings, in pixels.
SMALLEST = 32


class VGG(nnx.Module):
    """VGG: five stages of 3x3 convolutions, and three dense layers with dropout.

    A 2x2 max-pool ends each stage.

    For 1,000 classes, depths 11, 13, 16, 19 have 132,863,336, 133,047,848, 138,357,544 and 143,667,240 parameters, and
    with batch norm 5,504, 5,888, 8,448 and 11,008 more.

    Args:
      num_classes: number of logits.
      depth: 11, 13, 16 or 19, the configurations A, B, D and E.
      batch_norm: whether batch norm follows each convolution, which keeps its bias, as in torchvision.
      width: output channels of the first stage, 64 as published; the others have 2, 4, 8 and 8 times as many. The
        VGG-11 of Zhang et al., Dive into Deep Learning, section 8.2, has 16.
      dense: features of the two hidden dense layers.
      size: side of the square images, at least 32.
      channels: of the images.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: source of the weights, Xavier-uniform: with it, the paper says, the deep nets need not start from the
        weights of a shallow one.

    Raises:
      ValueError: no such depth, an image too small, or a width below 1.
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
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if depth not in STAGES:
            raise ValueError(f"depth must be one of {', '.join(map(str, STAGES))}, was {depth!r}")
        if size < SMALLEST:
            raise ValueError(f"size must be at least {SMALLEST}, was {size}: five poolings leave nothing of it")
        if width < 1:
            raise ValueError(f"width must be at least 1, was {width}")
        self.depth, self.size = depth, size
        common: dict[str, Any] = {"kernel_init": nnx.initializers.xavier_uniform(), "dtype": dtype, "rngs": rngs}
        convs: list[Conv] = []
        norms: list[BatchNorm] = []
        in_channels = channels
        for count, widening in zip(STAGES[depth], WIDENING, strict=True):
            for last in [False] * (count - 1) + [True]:
                convs.append(Conv(in_channels, widening * width, (3, 3), padding=1, **common))
                if batch_norm and last:
                    norms.append(BatchNormMaxPool(widening * width, 2, momentum=0.9, dtype=dtype, rngs=rngs))
                elif batch_norm:
                    norms.append(BatchNorm(widening * width, momentum=0.9, dtype=dtype, rngs=rngs))
                in_channels = widening * width
        self.convs = nnx.List(convs)  # in the order of their calls, through all stages, like the norms
        self.norms = nnx.List(norms)
        self.pool = MaxPool(2)
        self.dense1 = nnx.Linear((size // 32) ** 2 * in_channels, dense, **common)
        self.dense2 = nnx.Linear(dense, dense, **common)
        self.dense3 = nnx.Linear(dense, num_classes, **common)
        self.dropout1 = nnx.Dropout(0.5, rngs=rngs)
        self.dropout2 = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, size, size, channels) to logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1:3] != (self.size, self.size):
            raise ValueError(f"x must be (N, {self.size}, {self.size}, channels), was {x.shape}: crop or resize it")
        number = 0
        for count in STAGES[self.depth]:  # 224x224x3 -> 112x112x64 -> 56x56x128 -> 28x28x256 -> 14x14x512 -> 7x7x512
            for last in [False] * (count - 1) + [True]:
                x = self.convs[number](x)
                x = self.norms[number](x) if self.norms else x  # the last of a stage pools too
                x = jax.nn.relu(self.pool(x) if last and not self.norms else x)  # the maximum commutes with ReLU
                number += 1
        x = x.reshape(len(x), -1)  #                          (N, 25088)
        x = self.dropout1(jax.nn.relu(self.dense1(x)))  #     (N, 4096)
        x = self.dropout2(jax.nn.relu(self.dense2(x)))  #     (N, 4096)
        return self.dense3(x)  #                              (N, num_classes)
