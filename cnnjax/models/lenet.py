"""LeNet-5 (LeCun, Bottou, Bengio, Haffner, 1998).

Gradient-based learning applied to document recognition, Proc. IEEE 86(11).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cnnjax import ops
from cnnjax.layers import RBF, AvgPool, ConnectedConv, Conv, MaxPool, Subsample

Arrays = dict[str, jax.Array]

VARIANTS = ("modern", "classic")


class LeNet5(nnx.Module):
    """LeNet-5 as it is taught today: 61,706 parameters on gray 32x32 images.

    Args:
      num_classes: number of logits.
      variant: `modern`: ReLU and max-pool, He-uniform weights. `classic`: sigmoid and average-pool, Xavier-uniform
        weights, the net of Zhang et al., Dive into Deep Learning, section 7.6 (there the first convolution pads the
        28x28 image by 2; here the image is padded already).
      channels: of the images.
      dtype: of the computation; parameters are float32.
      rngs: source of the weights.

    Raises:
      ValueError: no such variant.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        variant: str = "modern",
        channels: int = 1,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, was {variant!r}")
        self.variant = variant
        init = nnx.initializers.he_uniform() if variant == "modern" else nnx.initializers.xavier_uniform()
        common: dict[str, Any] = {"kernel_init": init, "dtype": dtype, "rngs": rngs}
        self.conv1 = Conv(channels, 6, (5, 5), **common)
        self.conv2 = Conv(6, 16, (5, 5), **common)
        self.pool = MaxPool(2) if variant == "modern" else AvgPool(2)
        self.dense1 = nnx.Linear(400, 120, **common)
        self.dense2 = nnx.Linear(120, 84, **common)
        self.dense3 = nnx.Linear(84, num_classes, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, 32, 32, channels) to logits (N, num_classes)."""
        if x.ndim != 4 or x.shape[1:3] != (32, 32):
            raise ValueError(f"x must be (N, 32, 32, channels), was {x.shape}: pad or resize the images to 32x32")
        squash = jax.nn.relu if self.variant == "modern" else jax.nn.sigmoid
        x = self.subsample(self.conv1(x))  #                     (N, 28, 28, 6) -> (N, 14, 14, 6)
        x = self.subsample(self.conv2(x))  #                     (N, 10, 10, 16) -> (N, 5, 5, 16)
        x = squash(self.dense1(x.reshape(len(x), 400)))  #       (N, 120)
        x = squash(self.dense2(x))  #                            (N, 84)
        return self.dense3(x)  #                                 (N, num_classes)

    def subsample(self, x: jax.Array) -> jax.Array:
        """Applies the activation and pools 2x2.

        It pools before ReLU, which commutes, to save work.
        """
        if self.variant == "modern":
            return jax.nn.relu(self.pool(x))
        return self.pool(jax.nn.sigmoid(x))


#: Table I of the paper: the channels of S2 that each channel of C3 reads.
TABLE_I = "012 123 234 345 045 015 0123 1234 2345 0345 0145 0125 0134 1245 0235 012345"
INITS = ("published", "lecun")


class LeNet5Of1998(nnx.Module):
    """LeNet-5 exactly as published: 60,000 trained parameters, 340,908 connections.

    Subsampling has trained parameters, C3 is connected by Table I, scaled tanh follows every layer up to F6, and the
    outputs are the squared distances to the bitmaps of the digits. The logits are minus these distances, so that the
    nearest digit has the largest.

    Args:
      num_classes: must be 10, the number of bitmaps.
      channels: must be 1.
      init: weights and biases of a unit with F inputs are uniform between -a and a; `published`: a = 2.4 / F, as in
        the paper; `lecun`: a = 1 / sqrt(F). A subsampling unit has one input, the sum of its window.
      dtype: of the computation; parameters are float32.
      rngs: source of the weights.

    Raises:
      ValueError: other classes or channels, or no such `init`.

    References:
      LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        channels: int = 1,
        init: str = "published",
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        if (num_classes, channels) != (10, 1):
            raise ValueError(
                f"num_classes and channels must be 10 and 1, the gray digits that there are bitmaps of, were "
                f"{num_classes} and {channels}"
            )
        if init not in INITS:
            raise ValueError(f"init must be one of {', '.join(INITS)}, was {init!r}")
        table = np.array([[str(map_) in column for column in TABLE_I.split()] for map_ in range(6)])
        self.dtype = dtype
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.c1 = Conv(1, 6, (5, 5), **common)
        self.s2 = Subsample(6, (2, 2), rngs=rngs)
        self.c3 = ConnectedConv(table, (5, 5), **common)
        self.s4 = Subsample(16, (2, 2), rngs=rngs)
        self.c5 = Conv(16, 120, (5, 5), **common)
        self.f6 = nnx.Linear(120, 84, **common)
        self.output = RBF(bitmaps())
        fan_in = {"c1": 25, "s2": 1, "c3": 25 * table.sum(0), "s4": 1, "c5": 400, "f6": 120}
        for name, inputs in fan_in.items():
            bound = 2.4 / inputs if init == "published" else 1 / np.sqrt(inputs)
            for kind, param in vars(getattr(self, name)).items():
                if isinstance(param, nnx.Param):
                    draw = jax.random.uniform(rngs.params(), param.shape, param.dtype, minval=-1.0)
                    linked = np.broadcast_to(table if (name, kind) == ("c3", "kernel") else True, param.shape)
                    bounds = np.broadcast_to(np.asarray(bound, param.dtype), param.shape)
                    param[...] = jnp.where(linked, draw * bounds, 0).astype(param.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, 32, 32, 1) to minus the squared distances (N, 10).

        The background is -0.1, the ink 1.175.
        """
        x = self.features(x.astype(self.dtype or x.dtype))
        return -self.output(x)

    def features(self, x: jax.Array) -> jax.Array:
        """Maps images (N, 32, 32, 1) to the features (N, 84) compared with the bitmaps."""
        if x.ndim != 4 or x.shape[1:] != (32, 32, 1):
            raise ValueError(f"x must be (N, 32, 32, 1), was {x.shape}: pad or resize the images to 32x32")
        for layer in (self.c1, self.s2, self.c3, self.s4, self.c5):  # 28x28x6, 14x14x6, 10x10x16, 5x5x16, 1x1x120
            x = ops.scaled_tanh(layer(x))
        return ops.scaled_tanh(self.f6(x.reshape(len(x), 120)))


def bitmaps() -> np.ndarray:
    """Returns the 7x12 bitmaps of the ten digits, 1 for ink and -1 for paper.

    They are (10, 84) float32, row by row.
    """
    text = (Path(__file__).parent / "lenet5_rbf_bitmaps.txt").read_text()
    rows = [line for line in text.splitlines() if line and set(line) <= set("+-")]
    return np.array([[1.0 if sign == "+" else -1.0 for sign in row] for row in rows], np.float32).reshape(10, 84)


def map_loss(logits: jax.Array, labels: jax.Array, j: float) -> jax.Array:
    """Computes the paper's discriminative loss, its equation 9, averaged over the batch.

        y_D + log(exp(-j) + sum_i exp(-y_i)),   y = -logits, D the true class

    Args:
      logits: `(N, 10)`.
      labels: `(N,)`, int.
      j: above 0; keeps the distances of wrong classes that are already large from growing further. Its value is not
        published.

    Returns:
      A scalar.
    """
    rubbish = jnp.full_like(logits[:, :1], -j)
    # not by a gather: its gradient is a scatter, in which a GPU may add in any order
    chosen = jax.nn.one_hot(labels, logits.shape[1], dtype=bool)
    right = jnp.where(chosen.any(1), jnp.where(chosen, logits, 0).sum(1), jnp.nan)
    return (jax.nn.logsumexp(jnp.concatenate([rubbish, logits], 1), 1) - right).mean()


def curvature(
    model: LeNet5Of1998, params: dict[str, Arrays], x: jax.Array, labels: jax.Array, j: float
) -> dict[str, Arrays]:
    """Computes the diagonal of the Gauss-Newton Hessian, averaged over the batch.

    Backwards through a layer a = sum u x, y = f(a), per connection, without cross terms:

        E_aa = f'(a)^2 E_yy,   E_uu = E_aa x^2,   E_xx = sum u^2 E_aa

    and h_k is the sum of E_uu over the connections that share weight k. These sums are the layer's own gradients with x
    and u squared. At F6 it starts with the exact diagonal of `map_loss`'s Hessian in the features.

    Args:
      model: its layers are used, not its parameters.
      params: the parameters, `{"c1": {"kernel": ..., "bias": ...}, ...}`.
      x: `(N, 32, 32, 1)`.
      labels: `(N,)`, int.
      j: as for `map_loss`.

    Returns:
      A tree like `params`.

    References:
      LeCun et al. 1998, appendix C. LeCun, Bottou, Orr, Mueller, Efficient BackProp, 1998.
    """

    def apply(name: str, arrays: Arrays, x: jax.Array) -> jax.Array:
        layer = nnx.clone(getattr(model, name))
        for kind, array in arrays.items():
            setattr(layer, kind, nnx.Param(array))
        return layer(x.reshape(len(x), -1) if name == "f6" else x)

    forward = {}  # by layer: its input, and the slope of its activation
    for name in ("c1", "s2", "c3", "s4", "c5", "f6"):
        a = apply(name, params[name], x)
        y, slope = jax.jvp(ops.scaled_tanh, (a,), (jnp.ones_like(a),))
        forward[name], x = (x, slope), y

    def loss(features: jax.Array, label: jax.Array) -> jax.Array:
        return map_loss(-model.output(features[None]), label[None], j)

    second = jax.vmap(lambda features, label: jnp.diagonal(jax.hessian(loss)(features, label)))(x, labels) / len(x)
    curvatures = {}
    for name, (inputs, slope) in reversed(forward.items()):
        squares = jax.tree.map(jnp.square, (params[name], inputs))
        _, gradients = jax.vjp(partial(apply, name), *squares)
        curvatures[name], second = gradients(slope**2 * second)
    return curvatures
