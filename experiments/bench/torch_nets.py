"""The nets of PyTorch's layers, with our weights."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from net_shapes import CIFAR_WIDTHS, PLAIN, PlainShape, residual_blocks
from torch import nn
from torch.nn import functional


class ConvNorm(nn.Module):
    """Convolution without bias, and batch norm."""

    def __init__(self, inputs: int, outputs: int, window: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, window, stride, window // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies both."""
        return self.norm(self.conv(x))


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions.

    Where the stride is 2, the shortcut is a 1x1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first, self.second = ConvNorm(inputs, outputs, 3, stride), ConvNorm(outputs, outputs, 3, 1)
        self.shortcut = ConvNorm(inputs, outputs, 1, stride) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block."""
        y = self.second(torch.relu(self.first(x)))
        return torch.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Plain(nn.Module):
    """LeNet-5 or the MNIST net: convolutions with pools between, dense layers."""

    def __init__(self, shape: PlainShape):
        super().__init__()
        self.count, self.last_pool, self.dense = len(shape.widths) - 1, shape.last_pool, len(shape.dense) - 1
        for n, (inputs, outputs) in enumerate(itertools.pairwise(shape.widths), 1):
            self.add_module(f"conv{n}", nn.Conv2d(inputs, outputs, shape.window))
        for n, (inputs, outputs) in enumerate(itertools.pairwise(shape.dense), 1):
            self.add_module(f"dense{n}", nn.Linear(inputs, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to logits."""
        for n in range(1, self.count + 1):
            x = torch.relu(self.get_submodule(f"conv{n}")(x))
            x = functional.max_pool2d(x, 2) if n < self.count or self.last_pool else x
        x = x.flatten(1)
        for n in range(1, self.dense):
            x = torch.relu(self.get_submodule(f"dense{n}")(x))
        return self.get_submodule(f"dense{self.dense}")(x)


class Cifar(nn.Module):
    """The CIFAR net with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        pairs = itertools.pairwise(CIFAR_WIDTHS)
        self.blocks = nn.ModuleList([ConvNorm(inputs, outputs, 3, 1) for inputs, outputs in pairs])
        self.dense1, self.dense2 = nn.Linear(2048, 128), nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to logits."""
        for block in self.blocks:
            x = functional.max_pool2d(torch.relu(block(x)), 2)
        return self.dense2(torch.relu(self.dense1(x.flatten(1))))


class ResNet(nn.Module):
    """ResNet-18 in its form for CIFAR-10."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 64, 3, 1)
        self.blocks = nn.ModuleList([Residual(*shape) for shape in residual_blocks()])
        self.dense = nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to logits."""
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.dense(x.mean((2, 3)))


def make_net(name: str, params: dict[str, np.ndarray], maps: int, layout: str) -> nn.Module:
    """Returns PyTorch's net of that name, in training mode, with these weights.

    Args:
      name: as in `cnnjax.models`.
      params: our weights by path.
      maps: number of channels that the first dense layer reads.
      layout: `contiguous_format` or `channels_last`.
    """
    net = Plain(PLAIN[name]) if name in PLAIN else {"cifar_cnn": Cifar, "resnet18": ResNet}[name]()
    weights = {}
    for path, array in params.items():
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        if path == "dense1/kernel":  # PyTorch flattens the channels first
            array = array.reshape(len(array), -1, maps).swapaxes(1, 2).reshape(len(array), -1)
        path = path.replace("/kernel", "/weight").replace("/scale", "/weight").replace("/", ".")
        weights[path] = torch.tensor(array.copy())
    missing, unexpected = net.load_state_dict(weights, strict=False)
    assert not unexpected and all("running" in name or "batches" in name for name in missing), (missing, unexpected)
    return net.train().to(memory_format=getattr(torch, layout))  # type: ignore[call-overload]
