"""Airbench, the nets that learn CIFAR-10 against the clock (Jordan, 2024, arXiv:2404.00498).

94% on CIFAR-10 in 3.29 seconds on a single GPU. `experiments/cifar10_speedrun.py` has their training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cnnjax import ops
from cnnjax.layers import BatchNorm, Conv, MaxPool
from cnnjax.layers.initializers import dirac

WHITENED_AT_ONCE = 500
"""Images whose patches are in memory at a time, about 50 MB in float64."""


class Airbench(nnx.Module):
    """What the nets of all three targets have in common; use one of the subclasses.

    A 2x2 convolution that whitens patches, see `whiten`, and GELU; three blocks; a 3x3 max-pool, and a dense layer
    without bias, whose outputs are scaled. A block is [3x3 convolution, 2x2 max-pool, batch norm, GELU], then one or
    two times [3x3 convolution, batch norm, GELU]; with two, their input is added to what they give. Batch norms have a
    bias but no scale; their running statistics are PyTorch's, of which 0.6 is kept.

    Args:
      num_classes: number of logits.
      widths: output channels of the three blocks; by default as published.
      logit_scale: by which the outputs of the dense layer are multiplied.
      head_deviation: standard deviation to which the dense layer's weights are scaled as they are drawn; None leaves
        them uniform up to 1 / sqrt(fan-in), as PyTorch draws them.
      identity: whether the 3x3 convolutions start as the identity, see `layers.initializers.dirac`.
      channels: of the images.
      dtype: of the computation; parameters and batch statistics are float32.
      rngs: source of the weights: uniform up to 1 / sqrt(fan-in).

    Raises:
      ValueError: `widths` are not three.

    References:
      Jordan, 94% on CIFAR-10 in 3.29 seconds on a single GPU, 2024, arXiv:2404.00498.
    """

    default_widths: ClassVar[tuple[int, int, int]]
    convs: ClassVar[int]

    def __init__(
        self,
        num_classes: int = 10,
        *,
        widths: Sequence[int] | None = None,
        logit_scale: float = 1 / 9,
        head_deviation: float | None = None,
        identity: bool = True,
        channels: int = 3,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        widths = self.default_widths if widths is None else widths
        if len(widths) != 3 or min(widths) < 1:
            raise ValueError(f"widths must be those of 3 blocks, each at least 1, was {widths}")
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        whitened = 2 * channels * 2 * 2
        self.whiten = Conv(channels, whitened, (2, 2), kernel_init=UNIFORM, **common)
        inputs, init = (whitened, *widths), dirac(UNIFORM) if identity else UNIFORM
        self.blocks = nnx.List(Block(*pair, self.convs, init, **common) for pair in zip(inputs, widths, strict=False))
        self.pool = MaxPool(3)
        self.head = nnx.Linear(widths[-1], num_classes, use_bias=False, kernel_init=UNIFORM, **common)
        if head_deviation is not None:
            drawn = self.head.kernel[...]
            self.head.kernel[...] = drawn * (head_deviation / jnp.std(drawn, ddof=1))
        self.logit_scale = logit_scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, 32, 32, channels) to logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1:3] != (32, 32):
            raise ValueError(f"x must be (N, 32, 32, channels), was {x.shape}: pad or resize the images to 32x32")
        x = ops.gelu(self.whiten(x))  # 31x31x24
        for block in self.blocks:  #   15x15x64, 7x7x256, 3x3x256
            x = block(x)
        return self.head(self.pool(x).reshape(len(x), -1)) * self.logit_scale


class Airbench94(Airbench):
    """The net of airbench94, 1,971,640 parameters; see `Airbench` for the arguments."""

    default_widths = (64, 256, 256)
    convs = 2


class Airbench95(Airbench):
    """The net of airbench95, which is wider; see `Airbench` for the arguments."""

    default_widths = (128, 384, 384)
    convs = 2


class Airbench96(Airbench):
    """The net of airbench96, wider, with three convolutions a block; see `Airbench` for the arguments.

    The paper does not say whether the last GELU of a block comes before the sum, as here, or after it, as in later
    versions of the author's script.
    """

    default_widths = (128, 512, 512)
    convs = 3


class Block(nnx.Module):
    """Two or three convolutions, each with batch norm and GELU; pools behind the first."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        convs: int,
        init: nnx.Initializer,
        *,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
    ):
        inputs = [in_channels, *[width] * (convs - 1)]
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.convs = nnx.List(
            Conv(own, width, (3, 3), padding=1, use_bias=False, kernel_init=init, **common) for own in inputs
        )
        norm: dict[str, Any] = {"momentum": 0.6, "epsilon": 1e-12, "use_scale": False, "unbiased": True}
        self.norms = nnx.List(BatchNorm(width, **norm, **common) for _ in inputs)
        self.pool = MaxPool(2)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, in_channels) to (N, H // 2, W // 2, width)."""
        x = shortcut = ops.gelu(self.norms[0](self.pool(self.convs[0](x))))
        last = len(self.convs) - 1
        for number in range(1, last + 1):
            x = ops.gelu(self.norms[number](self.convs[number](x)))
        return x + shortcut if last > 1 else x


def whiten(net: Airbench, images: ArrayLike) -> Airbench:
    """Sets the kernel of a net's first layer to `whitening_kernel(images)`, in place, and returns the net.

    Training must leave it as it is: the optimisers `airbench` and `airbench_muon` do, others with `freeze`.
    """
    kernel = whitening_kernel(np.asarray(images), net.whiten.kernel.shape[0])
    if kernel.shape != net.whiten.kernel.shape:
        raise ValueError(
            f"images must have the {net.whiten.kernel.shape[2]} channels of the net, was {np.shape(images)}"
        )
    net.whiten.kernel[...] = jnp.asarray(kernel)
    return net


def whitening_kernel(images: np.ndarray, side: int = 2, *, epsilon: float = 5e-4) -> np.ndarray:
    """Computes the filters that whiten the patches of images: their principal components, each to unit variance.

    With l and v the eigenvalues and eigenvectors of the patches' second moments, E[p p^T], not centred, the filters are

        +v / sqrt(l + epsilon), the largest l first, then -v / sqrt(l + epsilon)

    Args:
      images: `(N, H, W, C)`, as the net sees them; airbench takes the first 5,000 of training.
      side: of the patches, in pixels.
      epsilon: added to the eigenvalues.

    Returns:
      `(side, side, C, 2 side^2 C)` float32.

    References:
      Page, How to train your ResNet 8: bag of tricks, 2019. Jordan, 2024, arXiv:2404.00498, section 3.1.
    """
    n, height, width, channels = images.shape
    size = side * side * channels
    moments, rows, columns = np.zeros((size, size)), height - side + 1, width - side + 1
    for start in range(0, n, WHITENED_AT_ONCE):
        part = images[start : start + WHITENED_AT_ONCE].astype(np.float64)
        taps = [part[:, r : r + rows, c : c + columns] for r in range(side) for c in range(side)]
        patches = np.concatenate(taps, axis=-1).reshape(-1, size)
        moments += patches.T @ patches
    values, vectors = np.linalg.eigh(moments / (n * rows * columns))
    filters = (vectors / np.sqrt(values + epsilon))[:, ::-1]
    return np.concatenate([filters, -filters], axis=1).reshape(side, side, channels, 2 * size).astype(np.float32)


def _uniform(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
    """Draws uniformly up to 1 / sqrt(fan-in), as PyTorch does by default."""
    limit = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, tuple(shape), dtype, -limit, limit)


UNIFORM: nnx.Initializer = _uniform
