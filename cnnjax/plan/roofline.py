"""Bounds on the time of a step by published peaks: of the whole, and layer by layer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

from cnnjax.inspect import Table
from cnnjax.plan.program import Transfers
from cnnjax.plan.targets import Target

#: Bytes of an activation.
ITEM_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Bound(NamedTuple):
    """Seconds that a step takes at least: each resource at its published peak, all of them at once.

    Attributes:
      arithmetic: operations / peak of the multipliers.
      memory: bytes to and from the main memory / its bandwidth.
      link: bytes that leave a device / bandwidth of its links.
    """

    arithmetic: float
    memory: float
    link: float

    @property
    def seconds(self) -> float:
        """The largest of the three."""
        return max(self)

    @property
    def bottleneck(self) -> str:
        """Which one that is."""
        return max(self._fields, key=lambda name: getattr(self, name))


def bound(
    target: Target, dtype: str, operations: float, traffic: float, collectives: Mapping[str, Transfers]
) -> Bound:  # fmt: skip
    """Returns the roofline's bound of a step.

        max(operations / peak, traffic / bandwidth, sent / link)

    Args:
      target: the machine.
      dtype: of the net's arrays, `"float32"`, `"bfloat16"` or `"float16"`.
      operations: multiplications and additions of each device.
      traffic: bytes that each device reads and writes in its main memory.
      collectives: by kind, as `Program.collectives`.

    References:
      Williams, Waterman, Patterson, Roofline, Communications of the ACM 52(4), 2009.
    """
    sent = sum(bytes_sent(kind, of_kind.size, target.size) for kind, of_kind in collectives.items())
    return Bound(operations / target.chip.flops[dtype], traffic / target.chip.bandwidth, sent / target.link)


def bytes_sent(kind: str, size: float, devices: int) -> float:
    """Returns the bytes that leave each device in a collective over a ring of devices.

        all-reduce 2 (n - 1) / n size,   all-gather and all-to-all (n - 1) / n size,   reduce-scatter (n - 1) size

    Args:
      kind: XLA's name.
      size: bytes of its result on each device.
      devices: n.

    References:
      Patarasuk, Yuan, Bandwidth optimal all-reduce algorithms, J. Parallel Distrib. Comput. 69, 2009.
    """
    share = (devices - 1) / devices
    return size * {"all-reduce": 2 * share, "reduce-scatter": devices - 1.0, "collective-permute": 1.0}.get(kind, share)


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """What a layer takes of a step, on each device.

    Attributes:
      layer: its path and class.
      output: the shape of its output, for one example.
      params: trained numbers.
      operations: multiplications and additions.
      traffic: bytes of its inputs, outputs, parameters and their gradients.
      arithmetic: seconds at the peak of the multipliers.
      memory: seconds at the bandwidth of the memory.
    """

    layer: str
    output: tuple[int, ...]
    params: int
    operations: float
    traffic: float
    arithmetic: float
    memory: float

    @property
    def seconds(self) -> float:
        """The larger of the two."""
        return max(self.arithmetic, self.memory)

    @property
    def bottleneck(self) -> str:
        """Which one that is."""
        return "arithmetic" if self.arithmetic >= self.memory else "memory"


def layer_costs(
    table: Table, target: Target, dtype: str, examples: float, *, state_size: float = 12.0
) -> list[LayerCost]:  # fmt: skip
    """Returns what each layer takes of a training step at least, as if its three convolutions ran by themselves.

        operations = 2 * 3 MACs * examples
        traffic    = 3 (inputs + outputs) * examples * item + params * (3 * 4 + 2 * state_size)

    The factor 3 stands for the output, the gradient of the input and that of the parameters; the first layer with
    parameters needs no gradient of its input. Activations between layers, and sums of branches, ride along.

    Args:
      table: as `inspect.layer_table` returns it.
      target: the machine.
      dtype: of the activations; parameters are float32.
      examples: on each device.
      state_size: bytes of the parameter and the optimiser's state for each trained number, 12 for Adam.
    """
    found = []
    first = next((number for number, row in enumerate(table) if row.params), -1)
    for number, (row, read) in enumerate(zip(table, table.inputs, strict=True)):
        passes = 2 if number == first else 3
        activations = (math.prod(read) + math.prod(row.output)) if read else 0
        operations = 2.0 * passes * row.macs * examples
        traffic = passes * activations * examples * ITEM_SIZES[dtype] + row.params * (12 + 2 * state_size)
        arithmetic, memory = operations / target.chip.flops[dtype], traffic / target.chip.bandwidth
        found.append(LayerCost(row.layer, row.output, row.params, operations, traffic, arithmetic, memory))
    return found
