"""Airbench's net, optimiser, schedule and lookahead in PyTorch, from the words of the paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Group(nn.Module):
    def __init__(self, inputs: int, width: int, convs: int):
        super().__init__()
        channels = [inputs, *[width] * (convs - 1)]
        self.convs = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1, bias=False) for c in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-12, momentum=0.4) for _ in channels)
        for norm in self.norms:
            norm.weight.requires_grad = False  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = first = F.gelu(self.norms[0](F.max_pool2d(self.convs[0](x), 2)))
        for number in range(1, len(self.convs)):
            x = F.gelu(self.norms[number](self.convs[number](x)))
        return x + first if len(self.convs) == 3 else x


class Twin(nn.Module):
    def __init__(self, widths: tuple[int, int, int], convs: int = 2, logit_scale: float = 1 / 9):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.blocks = nn.ModuleList(Group(*pair, convs) for pair in zip((24, *widths), widths, strict=False))
        self.head = nn.Linear(widths[-1], 10, bias=False)
        self.logit_scale = logit_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.whiten(x))
        for block in self.blocks:
            x = block(x)
        return self.head(F.max_pool2d(x, 3).flatten(1)) * self.logit_scale


def load(twin: Twin, params: Any, rest: Any) -> None:
    """Gives the twin the arrays of our net."""
    with torch.no_grad():
        for name, own in twin.named_parameters():
            if name.endswith("weight") and "norms" in name:
                continue
            own.copy_(torch.from_numpy(_theirs(_find(params, name.replace("weight", "kernel")))))
        for name, own in twin.named_buffers():
            if "running" in name:
                own.copy_(torch.from_numpy(_theirs(_find(rest, name.replace("running_", "")))))


def arrays(twin: Twin) -> dict[str, np.ndarray]:
    """Returns what is trained, and the running statistics, in our layout and names."""
    found = {}
    for name, value in twin.state_dict().items():
        if "num_batches" in name or ("norms" in name and name.endswith("weight")):
            continue
        own = name.replace("weight", "kernel").replace("running_", "").replace(".", "/")
        array = value.numpy()
        found[own] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return found


def train(
    twin: Twin, batches: list[tuple[np.ndarray, np.ndarray]], *, lr: float, wd: float, per_epoch: int, every: int
) -> None:
    """Trains as airbench does, with the loss summed over the batch and its rates; batches `(B, 32, 32, 3)`."""
    total, batch_size = len(batches), len(batches[0][0])
    kilostep = 1024 * (1 + 1 / (1 - 0.85))
    rate, decay = lr / kilostep, wd * batch_size / kilostep
    twin.whiten.weight.requires_grad = False
    biases = [p for n, p in twin.named_parameters() if "norms" in n and p.requires_grad]
    others = [p for n, p in twin.named_parameters() if "norms" not in n and p.requires_grad]
    groups = [
        {"params": biases, "lr": 64 * rate, "weight_decay": decay / (64 * rate)},
        {"params": others, "lr": rate, "weight_decay": decay / rate},
    ]
    sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda i: triangle(i, total))
    slow = {name: value.clone() for name, value in twin.state_dict().items()}
    for done, (x, y) in enumerate(batches, 1):
        twin.train()
        twin.whiten.bias.requires_grad = (done - 1) // per_epoch < 3
        outputs = twin(torch.from_numpy(x.transpose(0, 3, 1, 2)))
        loss = F.cross_entropy(outputs, torch.from_numpy(y), label_smoothing=0.2, reduction="none").sum()
        sgd.zero_grad(set_to_none=True)
        loss.backward()
        sgd.step()
        scheduler.step()
        for due, keep in ((done % every == 0, 0.95**5 * (done / total) ** 3), (done == total, 1.0)):
            for name, value in twin.state_dict().items() if due else ():
                if value.dtype == torch.float32:
                    slow[name].lerp_(value, 1 - keep)
                    value.copy_(slow[name])


def triangle(update: int, total: int) -> float:
    """The factor of the rate of an update, counted from 0."""
    peak = math.floor(0.23 * total)
    if update < peak:
        return 0.2 + 0.8 * update / peak
    return 1 - 0.93 * (update - peak) / (total - peak)


def _find(tree: Any, name: str) -> np.ndarray:
    for part in name.split("."):
        tree = tree[int(part) if part.isdigit() else part]
    return np.array(tree)


def _theirs(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)
