"""The nets of flax's own layers, with our weights."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from net_shapes import ALEXNET_WIDTHS, CIFAR_WIDTHS, PLAIN, VGG_STAGES, PlainShape, residual_blocks


class ConvNorm(nnx.Module):
    """Convolution without bias, and batch norm."""

    def __init__(self, inputs: int, outputs: int, window: int, stride: int, **common: Any):
        shape = (window, window)
        self.conv = nnx.Conv(inputs, outputs, shape, strides=stride, padding=window // 2, use_bias=False, **common)
        self.norm = nnx.BatchNorm(outputs, momentum=0.9, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies both."""
        return self.norm(self.conv(x))


class Residual(nnx.Module):
    """Residual block of two 3x3 convolutions.

    Where the stride is 2, the shortcut is a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, **common: Any):
        self.first = ConvNorm(inputs, outputs, 3, stride, **common)
        self.second = ConvNorm(outputs, outputs, 3, 1, **common)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride, **common) if stride > 1 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block."""
        y = self.second(nnx.relu(self.first(x)))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Plain(nnx.Module):
    """LeNet-5 or the MNIST net: convolutions with pools between, dense layers."""

    def __init__(self, shape: PlainShape, **common: Any):
        self.count, self.last_pool, self.dense = len(shape.widths) - 1, shape.last_pool, len(shape.dense) - 1
        window = (shape.window, shape.window)
        for n, (inputs, outputs) in enumerate(itertools.pairwise(shape.widths), 1):
            setattr(self, f"conv{n}", nnx.Conv(inputs, outputs, window, padding="VALID", **common))
        for n, (inputs, outputs) in enumerate(itertools.pairwise(shape.dense), 1):
            setattr(self, f"dense{n}", nnx.Linear(inputs, outputs, **common))

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

    def __init__(self, **common: Any):
        pairs = itertools.pairwise(CIFAR_WIDTHS)
        self.blocks = nnx.List([ConvNorm(inputs, outputs, 3, 1, **common) for inputs, outputs in pairs])
        self.dense1, self.dense2 = nnx.Linear(2048, 128, **common), nnx.Linear(128, 10, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits."""
        for block in self.blocks:
            x = max_pool(nnx.relu(block(x)))
        return self.dense2(nnx.relu(self.dense1(x.reshape(len(x), -1))))


class ResNet(nnx.Module):
    """ResNet-18 in its form for CIFAR-10."""

    def __init__(self, **common: Any):
        self.stem = ConvNorm(3, 64, 3, 1, **common)
        self.blocks = nnx.List([Residual(*shape, **common) for shape in residual_blocks()])
        self.dense = nnx.Linear(512, 10, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits."""
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.dense(x.mean((1, 2)))


class Head(nnx.Module):
    """The three dense layers of AlexNet and VGG, with dropout."""

    def __init__(self, inputs: int, *, rngs: nnx.Rngs, **common: Any):
        self.dense1, self.dense2 = (nnx.Linear(count, 4096, rngs=rngs, **common) for count in (inputs, 4096))
        self.dense3 = nnx.Linear(4096, 10, rngs=rngs, **common)
        self.dropout1, self.dropout2 = nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def logits(self, x: jax.Array) -> jax.Array:
        """Maps the last feature maps to logits."""
        x = self.dropout1(nnx.relu(self.dense1(x.reshape(len(x), -1))))
        return self.dense3(self.dropout2(nnx.relu(self.dense2(x))))


class AlexNet(Head):
    """AlexNet with two towers; flax has no local response normalisation, so that is plain JAX."""

    def __init__(self, **common: Any):
        one, two, three, four, five = ALEXNET_WIDTHS
        super().__init__(36 * five, **common)
        self.conv1 = nnx.Conv(3, one, (11, 11), strides=4, padding=2, **common)
        self.conv2 = nnx.Conv(one, two, (5, 5), padding=2, feature_group_count=2, **common)
        self.conv3 = nnx.Conv(two, three, (3, 3), padding=1, **common)
        self.conv4 = nnx.Conv(three, four, (3, 3), padding=1, feature_group_count=2, **common)
        self.conv5 = nnx.Conv(four, five, (3, 3), padding=1, feature_group_count=2, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits."""
        for conv in (self.conv1, self.conv2):
            x = max_pool(normalize(nnx.relu(conv(x))), 3)
        x = nnx.relu(self.conv4(nnx.relu(self.conv3(x))))
        return self.logits(max_pool(nnx.relu(self.conv5(x)), 3))


class VGG(Head):
    """VGG."""

    def __init__(self, depth: int = 16, **common: Any):
        super().__init__(49 * VGG_STAGES[depth][-1][1], **common)
        self.counts = [count for count, _ in VGG_STAGES[depth]]
        widths = [3, *(width for count, width in VGG_STAGES[depth] for _ in range(count))]
        self.convs = nnx.List([nnx.Conv(*pair, (3, 3), padding=1, **common) for pair in itertools.pairwise(widths)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images to logits."""
        convs = iter(self.convs)
        for count in self.counts:
            for conv in itertools.islice(convs, count):
                x = nnx.relu(conv(x))
            x = max_pool(x)
        return self.logits(x)


def normalize(x: jax.Array) -> jax.Array:
    """Normalises by the energy of five neighbouring channels, as the AlexNet paper does."""
    window, strides = (1, 1, 1, 5), (1, 1, 1, 1)
    energy = jax.lax.reduce_window(jnp.square(x), np.zeros((), x.dtype), jax.lax.add, window, strides, "SAME")
    return x / (2 + 1e-4 * energy) ** 0.75


def max_pool(x: jax.Array, window: int = 2) -> jax.Array:
    """Pools square windows two pixels apart."""
    return nnx.max_pool(x, window_shape=(window, window), strides=(2, 2))


NETS = {"cifar_cnn": Cifar, "resnet18": ResNet, "alexnet": AlexNet, "vgg": VGG}


def twin(name: str, rngs: nnx.Rngs, dtype: str | None = None, **options: Any) -> nnx.Module:
    """Returns flax's net of that name, in training mode, computing in a dtype."""
    common: dict[str, Any] = {"dtype": None if dtype is None else jnp.dtype(dtype), "rngs": rngs, **options}
    net = Plain(PLAIN[name], **common) if name in PLAIN else NETS[name](**common)
    net.train()
    return net


def make_net(name: str, params: dict[str, np.ndarray], **options: Any) -> nnx.Module:
    """Returns flax's net of that name, in training mode, with these weights."""
    net = twin(name, nnx.Rngs(0), **options)
    state = nnx.state(net, nnx.Param)
    for path, variable in nnx.to_flat_state(state):
        variable[...] = jnp.asarray(params["/".join(map(str, path))])
    nnx.update(net, state)
    return net
