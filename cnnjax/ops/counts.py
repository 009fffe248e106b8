"""What a layer costs for one example: parameters, connections, multiply-accumulates."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Counts(NamedTuple):
    """Trainable parameters, connections and multiply-accumulates of a layer, for one example."""

    params: int
    connections: int
    macs: int


def conv_counts(
    output: Sequence[int],
    window: Sequence[int],
    in_channels: int,
    out_channels: int,
    *,
    groups: int = 1,
    links: int | None = None,
    bias: bool = True,
) -> Counts:
    """Counts the costs of a convolution, as the LeNet-5 paper does.

    A connection is one use of one weight or bias, so a bias counts once per output. A dense layer has no spatial
    dimensions: `conv_counts((), (), n, m)`.

    Args:
      output: `S'`, the spatial sizes of the output.
      window: `K`, the spatial sizes of the kernel.
      in_channels: `C`.
      out_channels: `F`.
      groups: the channels are connected within groups only.
      links: the number of connected (input, output) channel pairs, where a table says so; excludes groups.
      bias: True for one bias per output channel.

    Returns:
      `Counts(params, connections, macs)`.

    Raises:
      ValueError: both groups and links are given.

    Example:
      >>> conv_counts((28, 28), (5, 5), 1, 6)  # LeNet-5's C1
      Counts(params=156, connections=122304, macs=117600)
      >>> conv_counts((10, 10), (5, 5), 6, 16, links=60)  # C3
      Counts(params=1516, connections=151600, macs=150000)
    """
    if links is None:
        links = in_channels // groups * out_channels
    elif groups != 1:
        raise ValueError(f"groups must be 1 where links is given, got groups={groups}, links={links}")
    weights = math.prod(window) * links
    biases = out_channels if bias else 0
    positions = math.prod(output)
    return Counts(weights + biases, positions * (weights + biases), positions * weights)


def subsample_counts(output: Sequence[int], window: Sequence[int], channels: int) -> Counts:
    """Counts the costs of LeNet-5's subsampling: per map one trained factor for the window's sum, and one bias.

    Example:
      >>> subsample_counts((14, 14), (2, 2), 6)  # LeNet-5's S2
      Counts(params=12, connections=5880, macs=1176)
    """
    outputs = math.prod(output) * channels
    return Counts(2 * channels, outputs * (math.prod(window) + 1), outputs)
