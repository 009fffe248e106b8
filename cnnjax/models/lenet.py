"""LeNet-5 (LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998)."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from cnnjax.layers import AvgPool, Conv, MaxPool

VARIANTS = ("modern", "classic")


class LeNet5(nnx.Module):
    """LeNet-5 as it is taught today: 61,706 parameters on gray 32x32 images.

    Args:
      num_classes: length of the logits.
      variant: ``modern``: ReLU and max-pool, He-uniform weights. ``classic``: sigmoid and average-pool, Xavier-uniform
        weights, the net of Zhang et al., Dive into Deep Learning, section 7.6 (there the 28x28 image is padded
        by 2 in the first convolution; here it comes in padded).
      channels: of the images.
      dtype: of the computation; parameters are float32.
      rngs: where the weights are drawn from.
    """

    def __init__(
        self, num_classes: int = 10, *, variant: str = "modern", channels: int = 1, dtype: Any = None, rngs: nnx.Rngs
    ):
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, was {variant!r}")
        self.variant = variant
        init = nnx.initializers.he_uniform() if variant == "modern" else nnx.initializers.xavier_uniform()
        how = {"kernel_init": init, "dtype": dtype, "rngs": rngs}
        self.conv1 = Conv(channels, 6, (5, 5), **how)
        self.conv2 = Conv(6, 16, (5, 5), **how)
        self.pool = MaxPool(2) if variant == "modern" else AvgPool(2)
        self.dense1 = nnx.Linear(400, 120, **how)
        self.dense2 = nnx.Linear(120, 84, **how)
        self.dense3 = nnx.Linear(84, num_classes, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images (N, 32, 32, channels) to logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1:3] != (32, 32):
            raise ValueError(f"x must be (N, 32, 32, channels), was {x.shape}: pad or resize the images to 32x32")
        squash = jax.nn.relu if self.variant == "modern" else jax.nn.sigmoid
        x = self.subsample(self.conv1(x))  #                     (N, 28, 28, 6) -> (N, 14, 14, 6)
        x = self.subsample(self.conv2(x))  #                     (N, 10, 10, 16) -> (N, 5, 5, 16)
        x = squash(self.dense1(x.reshape(len(x), 400)))  #       (N, 120)
        x = squash(self.dense2(x))  #                            (N, 84)
        return self.dense3(x)  #                                 (N, num_classes)

    def subsample(self, x: jax.Array) -> jax.Array:
        """Squash and pool 2x2. The maximum commutes with ReLU, which then has a quarter of the numbers to read."""
        if self.variant == "modern":
            return jax.nn.relu(self.pool(x))
        return self.pool(jax.nn.sigmoid(x))
