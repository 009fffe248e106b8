"""AlexNet (Krizhevsky, Sutskever, Hinton, NIPS 2012).

ImageNet classification with deep convolutional neural networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers import Conv, LocalResponseNorm, MaxPool


class Form(NamedTuple):
    """Describes a form of the net.

    Attributes:
      maps: output channels of the five convolutions.
      groups: of the second, fourth and fifth convolution.
      step: the width must be a multiple of it.
    """

    maps: tuple[int, int, int, int, int]
    groups: int
    step: int


FORMS = {
    "towers": Form((96, 256, 384, 384, 256), groups=2, step=6),
    "ungrouped": Form((96, 256, 384, 384, 256), groups=1, step=3),
    "one-tower": Form((64, 192, 384, 256, 256), groups=1, step=1),
}
#: Smallest side of the image that leaves a window for the last pooling, in pixels.
SMALLEST = 63


def scaled_normal(scale: float) -> nnx.Initializer:
    """Returns `nnx.initializers.variance_scaling(scale, "fan_in", "normal")`, rounded alike in any program.

    JAX 0.10 rounds that one's numbers in another way within a program than outside.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32, **_: Any) -> jax.Array:
        # XLA would merge the deviation with the constants of the draw, which rounds to other bits
        drawn = jax.lax.optimization_barrier(jax.random.normal(key, tuple(shape), dtype))
        return drawn * jnp.sqrt(jnp.array(scale / math.prod(shape[:-1]), dtype))

    return init


class AlexNet(nnx.Module):
    """AlexNet: five convolutions, three overlapping poolings, three dense layers.

    Args:
      num_classes: number of logits.
      form: `towers`: the paper's two towers, which are connected in the third convolution only, so that the second,
        fourth and fifth have two groups; 60,965,224 parameters for 1,000 classes. The normalisation runs over the
        channels of both towers, as in Caffe's AlexNet; the paper does not say. `ungrouped`: the same without groups;
        62,378,344. `one-tower`: torchvision's, without local response normalisation, with dropout before the first two
        dense layers instead of after them; 61,100,840.
      width: output channels of the first convolution, the others in proportion; by default as published, 96 or 64.
      dense: features of the two hidden dense layers.
      size: side of the square images, at least 63.
      channels: of the images.
      dtype: of the computation; parameters are float32.
      rngs: source of the weights. `one-tower`: weights and biases uniform within 1 / sqrt(fan_in), PyTorch's
        default. Otherwise as in the paper, normal with deviation 0.01, made for pixels of 0..255 less their mean; the
        biases of conv2, conv4, conv5 and of the hidden dense layers are 1, the others 0. A unit with fewer inputs than
        published gets larger weights, so that its sum keeps its variance: otherwise narrow nets do not learn.

    Raises:
      ValueError: no such form, an image too small, or a width that is no multiple of the form's step.

    References:
      Krizhevsky, Sutskever, Hinton, NIPS 2012. One tower: Krizhevsky, One weird trick for parallelizing convolutional
      neural networks, 2014, in the form of torchvision.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        form: str = "towers",
        width: int | None = None,
        dense: int = 4096,
        size: int = 224,
        channels: int = 3,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, was {form!r}")
        if size < SMALLEST:
            raise ValueError(f"size must be at least {SMALLEST}, was {size}: of less the poolings leave nothing")
        published, groups, step = FORMS[form]
        width = published[0] if width is None else width
        if width < 1 or width % step:
            raise ValueError(f"width must be a multiple of {step} where form is {form!r}, was {width}")
        self.form, self.size = form, size
        one, two, three, four, five = (maps * width // published[0] for maps in published)

        def init_for(inputs: int) -> dict[str, Any]:  # inputs of a unit as published
            init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # within 1 / sqrt(fan_in)
            if form != "one-tower":
                init = scaled_normal(0.01**2 * inputs)
            return {"kernel_init": init, "dtype": dtype, "rngs": rngs}

        fan_in = [maps * window**2 for maps, window in zip(published, (5, 3, 3, 3, 6), strict=True)]
        self.conv1 = Conv(channels, one, (11, 11), stride=4, padding=2, **init_for(3 * 11**2))
        self.conv2 = Conv(one, two, (5, 5), padding=2, groups=groups, **init_for(fan_in[0] // groups))
        self.conv3 = Conv(two, three, (3, 3), padding=1, **init_for(fan_in[1]))
        self.conv4 = Conv(three, four, (3, 3), padding=1, groups=groups, **init_for(fan_in[2] // groups))
        self.conv5 = Conv(four, five, (3, 3), padding=1, groups=groups, **init_for(fan_in[3] // groups))
        self.norm = None if form == "one-tower" else LocalResponseNorm(size=5, alpha=1e-4, beta=0.75, k=2.0)
        self.pool = MaxPool(3, stride=2)
        self.dense1 = nnx.Linear(last_side(size) ** 2 * five, dense, **init_for(fan_in[4]))
        self.dense2 = nnx.Linear(dense, dense, **init_for(4096))
        self.dense3 = nnx.Linear(dense, num_classes, **init_for(4096))
        self.dropout1 = nnx.Dropout(0.5, rngs=rngs)
        self.dropout2 = nnx.Dropout(0.5, rngs=rngs)
        if form == "one-tower":
            for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "dense1", "dense2", "dense3"):
                layer = getattr(self, name)
                bound = 1 / math.sqrt(math.prod(layer.kernel.shape[:-1]))
                layer.bias[...] = jax.random.uniform(rngs.params(), layer.bias.shape, jnp.float32, -bound, bound)
        else:  # so that these ReLUs start in their linear part
            for name in ("conv2", "conv4", "conv5", "dense1", "dense2"):
                bias = getattr(self, name).bias
                bias[...] = jnp.ones(bias.shape, bias.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, size, size, channels) to logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1:3] != (self.size, self.size):
            raise ValueError(f"x must be (N, {self.size}, {self.size}, channels), was {x.shape}: crop or resize it")
        #                                      of 224x224: the paper's maps, those of one tower
        x = self.lower(self.conv1(x))  #       55x55x96 -> 27x27x96       55x55x64 -> 27x27x64
        x = self.lower(self.conv2(x))  #       27x27x256 -> 13x13x256     27x27x192 -> 13x13x192
        x = jax.nn.relu(self.conv3(x))  #      13x13x384                  13x13x384
        x = jax.nn.relu(self.conv4(x))  #      13x13x384                  13x13x256
        x = jax.nn.relu(self.pool(self.conv5(x)))  # 13x13x256 -> 6x6x256
        x = x.reshape(len(x), -1)  #           (N, 9216)
        if self.form == "one-tower":
            x = jax.nn.relu(self.dense1(self.dropout1(x)))
            x = jax.nn.relu(self.dense2(self.dropout2(x)))
        else:
            x = self.dropout1(jax.nn.relu(self.dense1(x)))  # (N, 4096)
            x = self.dropout2(jax.nn.relu(self.dense2(x)))  # (N, 4096)
        return self.dense3(x)  #               (N, num_classes)

    def lower(self, x: jax.Array) -> jax.Array:
        """Applies ReLU, local response normalisation if any, and pooling.

        Without normalisation it pools first, which commutes with ReLU, to save work.
        """
        if self.norm is None:
            return jax.nn.relu(self.pool(x))
        return self.pool(self.norm(jax.nn.relu(x)))


def last_side(size: int) -> int:
    """Returns the side of the last pooling's output for images of a size: 6 for 224."""
    side = (size + 2 * 2 - 11) // 4 + 1
    for _ in range(3):
        side = (side - 3) // 2 + 1
    return side
