"""The nets of flax's own layers, with our weights."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from net_shapes import CIFAR_WIDTHS, PLAIN, PlainShape, residual_blocks


class ConvNorm(nnx.Module):
    """Convolution without bias, and batch norm."""

    def __init__(self, inputs: int, outputs: int, window: int, stride: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            inputs, outputs, (window, window), strides=stride, padding=window // 2, use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies both."""
        return self.norm(self.conv(x))


class Residual(nnx.Module):
    """Residual block of two 3x3 convolutions.

    Where the stride is 2, the shortcut is a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs):
        self.first = ConvNorm(inputs, outputs, 3, stride, rngs)
        self.second = ConvNorm(outputs, outputs, 3, 1, rngs)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride, rngs) if stride > 1 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block."""
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Plain(nnx.Module):
    """LeNet-5 or the MNIST net: convolutions with pools between, dense layers."""

    def __init__(self, shape: PlainShape, rngs: nnx.Rngs):
        self.count, self.last_pool, self.dense = len(shape.widths) - 1, shape.last_pool, len(shape.dense) - 1
        window = (shape.window, shape.window)
        for n, (inputs, outputs) in enumerate(itertools.pairwise(shape.widths), 1):
            setattr(self, f"conv{n}", nnx.Conv(inputs, outputs, window, padding="VALID", rngs=rngs))
        for n, (inputs, outputs) in enumerate(itertools.pairwise(shape.dense), 1):
            setattr(self, f"dense{n}", nnx.Linear(inputs, outputs, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits."""
        for n in range(1, self.count + 1):
            x = nnx.relu(getattr(self, f"conv{n}")(x))
            x = max_pool(x) if n < self.count or self.last_pool else x
        x = x.reshape(len(x), -1)
        for n in range(1, self.dense):
            x = nnx.relu(getattr(self, f"dense{n}")(x))
        return getattr(self, f"dense{self.dense}")(x)


class Cifar(nnx.Module):
    """The CIFAR net with batch norm."""

    def __init__(self, rngs: nnx.Rngs):
        pairs = itertools.pairwise(CIFAR_WIDTHS)
        self.blocks = nnx.List([ConvNorm(inputs, outputs, 3, 1, rngs) for inputs, outputs in pairs])
        self.dense1, self.dense2 = nnx.Linear(2048, 128, rngs=rngs), nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits."""
        for block in self.blocks:
            x = max_pool(nnx.relu(block(x)))
        return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))


class ResNet(nnx.Module):
    """ResNet-18 in its form for CIFAR-10."""

    def __init__(self, rngs: nnx.Rngs):
        self.stem = ConvNorm(3, 64, 3, 1, rngs)
        self.blocks = nnx.List([Residual(*shape, rngs) for shape in residual_blocks()])
        self.dense = nnx.Linear(512, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits."""
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.dense(x.mean((1, 2)))


def max_pool(x: jax.Array) -> jax.Array:
    """Pools 2x2."""
    return nnx.max_pool(x, window_shape=(2, 2), strides=(2, 2))


def make_net(name: str, params: dict[str, np.ndarray]) -> nnx.Module:
    """Returns flax's net of that name, in training mode, with these weights."""
    rngs = nnx.Rngs(0)
    net = Plain(PLAIN[name], rngs) if name in PLAIN else {"cifar_cnn": Cifar, "resnet18": ResNet}[name](rngs)
    state = nnx.state(net, nnx.Param)
    for path, variable in nnx.to_flat_state(state):
        variable[...] = jnp.asarray(params["/".join(map(str, path))])
    nnx.update(net, state)
    net.train()
    return net
