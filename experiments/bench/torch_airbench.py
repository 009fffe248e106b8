"""Airbench in PyTorch, as its paper has it: the net, its optimiser with a summed loss, and lookahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MOMENTUM, BIAS_SCALER, EVERY = 0.85, 64, 5


class Block(nn.Module):
    """Two or three convolutions, each with batch norm and GELU; pools behind the first."""

    def __init__(self, inputs: int, width: int, convs: int):
        super().__init__()
        channels = [inputs, *[width] * (convs - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(own, width, 3, padding=1, bias=False) for own in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-12, momentum=0.4) for _ in channels)
        for norm in self.norms:
            norm.weight.requires_grad = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the block; with three convolutions the input of the second is added at the end."""
        x = first = functional.gelu(self.norms[0](functional.max_pool2d(self.convs[0](x), 2)))
        for number in range(1, len(self.convs)):
            x = functional.gelu(self.norms[number](self.convs[number](x)))
        return x + first if len(self.convs) > 2 else x


class Airbench(nn.Module):
    """Whitening convolution, three blocks, and a dense layer."""

    def __init__(self, widths: tuple[int, ...] = (64, 256, 256), convs: int = 2):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad = False
        self.blocks = nn.ModuleList(Block(*pair, convs) for pair in zip((24, *widths), widths, strict=False))
        self.head = nn.Linear(widths[-1], 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images to logits."""
        x = functional.gelu(self.whiten(x))
        for block in self.blocks:
            x = block(x)
        return self.head(functional.max_pool2d(x, 3).flatten(1)) / 9


def optimizer(net: nn.Module, rate: float, weight_decay: float, batch_size: int) -> torch.optim.SGD:
    """Returns SGD for a loss summed over the batch, with a group for the biases of norms.

    Args:
      net: whose parameters are trained.
      rate: of learning, for the mean over the batch.
      weight_decay: added to the gradient of that mean.
      batch_size: examples in a batch.
    """
    rate, weight_decay = rate / batch_size, weight_decay * batch_size
    trained = [(name, param) for name, param in net.named_parameters() if param.requires_grad]
    biases = [param for name, param in trained if "norms" in name]
    others = [param for name, param in trained if "norms" not in name]
    groups = [
        {"params": biases, "lr": rate * BIAS_SCALER, "weight_decay": weight_decay / BIAS_SCALER},
        {"params": others, "lr": rate, "weight_decay": weight_decay},
    ]
    return torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)


def summed_loss(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy with label smoothing, summed over the batch."""
    return functional.cross_entropy(outputs, labels, label_smoothing=0.2, reduction="sum")


class Lookahead:
    """Slow copies of a net's parameters and running statistics, with which these meet every fifth update."""

    def __init__(self, net: nn.Module, total: int):
        self.net, self.total, self.done = net, total, 0
        self.slow = {name: value.clone() for name, value in net.state_dict().items()}

    def update(self) -> None:
        """Counts an update; lets slow and fast meet where due, and the slow ones stand at the end."""
        self.done += 1
        if self.done % EVERY == 0:
            self._meet(0.95**EVERY * (self.done / self.total) ** 3)
        if self.done == self.total:
            self._meet(1.0)

    def _meet(self, kept: float) -> None:
        for name, value in self.net.state_dict().items():
            if value.is_floating_point():
                self.slow[name].lerp_(value, 1 - kept)
                value.copy_(self.slow[name])


def make_step(
    net: nn.Module, called: Callable[[torch.Tensor], torch.Tensor], rate: float, weight_decay: float, total: int,
    batch_size: int, autocast: Callable[[], Any],
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:  # fmt: skip
    """Returns a training step at a constant rate, `step(x, labels) -> loss`, the mean of the batch.

    Args:
      net: the net.
      called: the net itself, or as compiled.
      rate: as for `optimizer`, and so weight_decay and batch_size.
      weight_decay: see there.
      total: updates of the whole run.
      batch_size: see there.
      autocast: makes the context of the forward pass.
    """
    rule, ahead = optimizer(net, rate, weight_decay, batch_size), Lookahead(net, total)

    def step(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        rule.zero_grad(set_to_none=True)
        with autocast():
            loss = summed_loss(called(x), labels)
        loss.backward()
        rule.step()
        ahead.update()
        return loss.detach() / batch_size

    return step


def load(net: Airbench, arrays: dict[str, np.ndarray], layout: str = "contiguous_format") -> nn.Module:
    """Gives the net our arrays, by path, in a layout; running statistics may be among them."""
    own = net.state_dict()
    with torch.no_grad():
        for path, array in arrays.items():
            name = path.replace("/", ".").replace("kernel", "weight")
            name = name.replace(".mean", ".running_mean").replace(".var", ".running_var")
            moved = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            own[name].copy_(torch.from_numpy(np.ascontiguousarray(moved)))
    return net.to(memory_format=getattr(torch, layout))  # type: ignore[call-overload]


def arrays_of(net: nn.Module) -> dict[str, np.ndarray]:
    """Returns parameters and running statistics under our paths, in our layout."""
    found = {}
    for name, value in net.state_dict().items():
        if "num_batches" in name or ("norms" in name and name.endswith("weight")):  # which is 1
            continue
        array = value.numpy()
        path = name.replace("weight", "kernel").replace("running_", "").replace(".", "/")
        found[path] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return found
