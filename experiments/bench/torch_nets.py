"""The nets of PyTorch's layers, with our weights."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from net_shapes import ALEXNET_WIDTHS, CIFAR_WIDTHS, PLAIN, VGG_STAGES, PlainShape, residual_blocks
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


class Head(nn.Module):
    """The three dense layers of AlexNet and VGG, without dropout."""

    def __init__(self, inputs: int):
        super().__init__()
        self.dense1, self.dense2, self.dense3 = nn.Linear(inputs, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 10)

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Maps the last feature maps to logits."""
        return self.dense3(torch.relu(self.dense2(torch.relu(self.dense1(x.flatten(1))))))


class AlexNet(Head):
    """AlexNet with two towers, for images of 224x224."""

    def __init__(self) -> None:
        one, two, three, four, five = ALEXNET_WIDTHS
        super().__init__(36 * five)
        self.conv1 = nn.Conv2d(3, one, 11, 4, 2)
        self.conv2 = nn.Conv2d(one, two, 5, padding=2, groups=2)
        self.conv3 = nn.Conv2d(two, three, 3, padding=1)
        self.conv4 = nn.Conv2d(three, four, 3, padding=1, groups=2)
        self.conv5 = nn.Conv2d(four, five, 3, padding=1, groups=2)
        self.norm = nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2)  # PyTorch divides alpha by the size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to logits."""
        for conv in (self.conv1, self.conv2):
            x = functional.max_pool2d(self.norm(torch.relu(conv(x))), 3, 2)
        x = torch.relu(self.conv4(torch.relu(self.conv3(x))))
        return self.logits(functional.max_pool2d(torch.relu(self.conv5(x)), 3, 2))


class VGG(Head):
    """VGG, for images of 224x224."""

    def __init__(self, depth: int = 16):
        super().__init__(49 * VGG_STAGES[depth][-1][1])
        self.counts = [count for count, _ in VGG_STAGES[depth]]
        widths = [3, *(width for count, width in VGG_STAGES[depth] for _ in range(count))]
        self.convs = nn.ModuleList([nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(widths)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to logits."""
        convs = iter(self.convs)
        for count in self.counts:
            for conv in itertools.islice(convs, count):
                x = torch.relu(conv(x))
            x = functional.max_pool2d(x, 2)
        return self.logits(x)


#: Last parts of our paths in PyTorch's words.
TERMS = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
NETS = {"cifar_cnn": Cifar, "resnet18": ResNet, "alexnet": AlexNet, "vgg": VGG}


def make_net(name: str, params: dict[str, np.ndarray], maps: int, layout: str, **options: int) -> nn.Module:
    """Returns PyTorch's net of that name, in training mode, with these weights.

    Args:
      name: as in `cnnjax.models`.
      params: our weights by path; running statistics may be among them.
      maps: number of channels that the first dense layer reads.
      layout: `contiguous_format` or `channels_last`.
      options: keywords of the net.
    """
    net = Plain(PLAIN[name]) if name in PLAIN else NETS[name](**options)
    weights = {}
    for path, array in params.items():
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        if path == "dense1/kernel":  # PyTorch flattens the channels first
            array = array.reshape(len(array), -1, maps).swapaxes(1, 2).reshape(len(array), -1)
        for ours, theirs in TERMS.items():
            path = path.replace(f"/{ours}", f"/{theirs}")
        path = path.replace("/", ".")
        weights[path] = torch.tensor(array.copy())
    missing, unexpected = net.load_state_dict(weights, strict=False)
    assert not unexpected and all("running" in name or "batches" in name for name in missing), (missing, unexpected)
    return net.train().to(memory_format=getattr(torch, layout))  # type: ignore[call-overload]
