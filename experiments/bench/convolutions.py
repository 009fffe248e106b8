"""Convolutions as the nets have them: ours, lax's and PyTorch's."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from absl import flags
from jax import lax
from single_ops import Tensor, both_measures, normal
from timing import Result

from cnnjax import ops

FLAGS = flags.FLAGS


class Conv(NamedTuple):
    """Describes a convolution of a net.

    The batch has n images of size x size x c, the layer f kernels of k x k.
    """

    net: str
    n: int
    size: int
    c: int
    f: int
    k: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    first: bool = False  # layer of its net: the gradient of its input is not needed

    @property
    def name(self) -> str:
        """The case in the table."""
        groups = "" if self.groups == 1 else f" groups {self.groups}"
        stride = "" if self.stride == 1 else f" stride {self.stride}"
        return f"{self.net} {self.n}x{self.size}x{self.size}x{self.c} -> {self.f}, {self.k}x{self.k}{stride}{groups}"


CONVS = [
    Conv("lenet5", 128, 32, 1, 6, 5, first=True),
    Conv("lenet5", 128, 14, 6, 16, 5),
    Conv("lenet5", 32, 32, 1, 6, 5, first=True),
    Conv("lenet5", 32, 14, 6, 16, 5),
    Conv("lenet5", 1, 32, 1, 6, 5, first=True),
    Conv("lenet5", 1, 14, 6, 16, 5),
    Conv("mnist", 128, 28, 1, 32, 3, first=True),
    Conv("mnist", 128, 13, 32, 64, 3),
    Conv("mnist", 128, 5, 64, 128, 3),
    Conv("mnist", 32, 13, 32, 64, 3),
    Conv("mnist", 32, 28, 32, 64, 3, 2),
    Conv("cifar", 128, 32, 3, 32, 3, 1, 1, first=True),
    Conv("cifar", 128, 16, 32, 64, 3, 1, 1),
    Conv("cifar", 128, 8, 64, 128, 3, 1, 1),
    Conv("cifar", 128, 32, 3, 64, 3, 1, 1, first=True),
    Conv("cifar", 128, 16, 64, 128, 3, 1, 1),
    Conv("cifar", 128, 8, 128, 256, 3, 1, 1),
    Conv("cifar", 32, 16, 32, 64, 3, 1, 1),
    Conv("cifar", 1, 16, 32, 64, 3, 1, 1),
    Conv("resnet18", 32, 32, 64, 64, 3, 1, 1),
    Conv("resnet18", 32, 32, 64, 128, 3, 2, 1),
    Conv("resnet18", 32, 16, 128, 128, 3, 1, 1),
    Conv("resnet18", 32, 16, 128, 256, 3, 2, 1),
    Conv("resnet18", 32, 8, 256, 256, 3, 1, 1),
    Conv("resnet18", 32, 4, 512, 512, 3, 1, 1),
    Conv("resnet18", 32, 32, 64, 128, 1, 2),
    Conv("resnet18", 32, 16, 128, 256, 1, 2),
    Conv("resnet18", 128, 16, 128, 128, 3, 1, 1),
    Conv("resnet18", 1, 32, 64, 64, 3, 1, 1),
    Conv("pointwise", 32, 16, 128, 128, 1),
    Conv("pointwise", 32, 28, 64, 256, 1),
    Conv("pointwise", 128, 8, 256, 256, 1),
    Conv("alexnet", 32, 227, 3, 96, 11, 4, first=True),
    Conv("alexnet", 32, 27, 96, 256, 5, 1, 2, groups=2),
    Conv("alexnet", 32, 27, 96, 256, 5, 1, 2),
    Conv("alexnet", 32, 13, 256, 384, 3, 1, 1),
    Conv("alexnet", 32, 13, 384, 256, 3, 1, 1, groups=2),
    Conv("alexnet", 1, 227, 3, 96, 11, 4, first=True),
    Conv("alexnet", 1, 27, 96, 256, 5, 1, 2, groups=2),
    Conv("vgg", 8, 112, 3, 64, 3, 1, 1, first=True),
    Conv("vgg", 8, 112, 64, 64, 3, 1, 1),
    Conv("vgg", 8, 56, 128, 128, 3, 1, 1),
    Conv("vgg", 8, 28, 256, 256, 3, 1, 1),
    Conv("vgg", 32, 14, 512, 512, 3, 1, 1),
    Conv("vgg", 1, 56, 128, 128, 3, 1, 1),
    Conv("vgg", 1, 28, 256, 256, 3, 1, 1),
    Conv("mobile", 32, 28, 64, 64, 3, 1, 1, groups=64),
    Conv("mobile", 32, 28, 128, 128, 3, 2, 1, groups=128),
    Conv("mobile", 32, 14, 256, 256, 3, 1, 1, groups=256),
    Conv("mobile", 1, 28, 64, 64, 3, 1, 1, groups=64),
]


def time_ops(peers: list[str]) -> Iterator[Result]:
    """Times the convolutions, forward, and forward with backward."""
    for case in CONVS:
        if FLAGS.only not in case.name:
            continue
        x, w = normal((case.n, case.size, case.size, case.c), (case.k, case.k, case.c // case.groups, case.f))
        padding = ((case.padding,) * 2,) * 2
        own = partial(ops.conv, stride=case.stride, padding=padding, groups=case.groups)
        plain = partial(
            lax.conv_general_dilated,
            window_strides=(case.stride,) * 2,
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=case.groups,
        )
        wanted = (1,) if case.first else (0, 1)
        yield from both_measures(case.name, (x, w), own, plain, partial(torch_conv, case), peers, wanted)


def torch_conv(case: Conv, x: Tensor, w: Tensor) -> Tensor:
    """Computes the convolution by PyTorch."""
    from torch.nn import functional

    return functional.conv2d(x, w, None, case.stride, case.padding, 1, case.groups)
