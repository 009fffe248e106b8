"""What a compiled program needs and does, read off XLA's analyses and its text."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax

from cnnjax.plan import hlo

#: What moves data between devices.
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
#: Instructions that launch nothing: names, views, and the ends of what was begun before.
FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all",
    "partition-id", "replica-id", "opt-barrier", "domain", "async-start", "async-done", "async-update",
}  # fmt: skip
CONVOLUTIONS_OF_CUDNN = "__cudnn$conv"


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
      arguments: the state and the batch.
      outputs: the state after, and the values.
      aliased: outputs that take the place of donated arguments.
      temporaries: activations, gradients and the like, at their peak.
      code: the program itself; 0 where XLA does not say.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def peak(self) -> int:
        """What the program takes of a device's memory while it runs."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Transfers:
    """The collectives of one kind: how many a run of the program, and their bytes on each device."""

    count: int
    size: int


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program, per device and run.

    Attributes:
      memory: bytes by use.
      flops: operations by XLA's own count; None where it gives none (GPU).
      bytes_accessed: bytes that operations read and write in any memory, by XLA's own count; likewise.
      seconds: XLA's own estimate; likewise.
      traffic: bytes that kernels read and write in the main memory, each operand taken whole but for those that
        are sliced at a place found at run time, as a scan does; read off the text.
      kernels: launches: fusions, custom calls and what stands alone. Copies that run beside them do not count.
      custom_calls: how often each target is called, such as cuDNN's.
      copies: kernels that end in a copy or transpose.
      collectives: by kind.
      convolutions: their number by the dtypes that they read, `{"bf16": 8, "bf16 and f32": 1}`.
    """

    memory: Memory
    flops: float | None
    bytes_accessed: float | None
    seconds: float | None
    traffic: int
    kernels: int
    custom_calls: Mapping[str, int]
    copies: int
    collectives: Mapping[str, Transfers]
    convolutions: Mapping[str, int]


def read(compiled: jax.stages.Compiled) -> Program:
    """Returns what XLA says of a compiled program, and what its text shows."""
    found = compiled.memory_analysis()
    assert found is not None
    memory = Memory(
        found.argument_size_in_bytes, found.output_size_in_bytes, found.alias_size_in_bytes,
        found.temp_size_in_bytes, found.generated_code_size_in_bytes,
    )  # fmt: skip
    return of_text(compiled.as_text() or "", memory, compiled.cost_analysis())


def of_text(text: str, memory: Memory, costs: Any = None) -> Program:
    """Returns the program of a text; `costs` as `Compiled.cost_analysis()` gives them."""
    module = hlo.parse(text)
    costs = (costs[0] if isinstance(costs, list) and costs else costs) or {}
    kernels, copies, traffic = 0, 0, 0
    custom_calls: Counter[str] = Counter()
    for one, within, times in module.executed():
        if one.opcode == "custom-call":
            custom_calls[one.attribute("custom_call_target")] += times
        if one.opcode in FREE or one.opcode.endswith("-done"):
            continue
        kernels += times * (one.opcode != "copy-start")
        copies += times * _is_copy(one, module)
        traffic += times * _traffic(one, within, module)
    seconds = costs.get("optimal_seconds")
    if seconds is not None:  # each of these custom calls counts as -1 s
        seconds += custom_calls["ConcatBitcast"]
        seconds = seconds if seconds > 0 else None
    return Program(
        memory=memory,
        flops=costs.get("flops"),
        bytes_accessed=costs.get("bytes accessed"),
        seconds=seconds,
        traffic=traffic,
        kernels=kernels,
        custom_calls=dict(custom_calls),
        copies=copies,
        collectives=_collectives(module),
        convolutions=_convolutions(module),
    )


def operations(lowered: jax.stages.Lowered) -> int:
    """Counts the multiplications and additions of a lowered program's convolutions and products, over all devices.

    What is elementwise does not count.
    """
    module = hlo.parse(lowered.as_text("hlo"))
    times = module.times()
    return sum(
        times.get(name, 0) * hlo.operations(one, computation)
        for name, computation in module.computations.items()
        for one in computation.values()
    )


def _is_copy(one: hlo.Instruction, module: hlo.Module) -> bool:
    fused = module.computations.get(one.attribute("calls").lstrip("%"), {}) if one.opcode == "fusion" else {}
    return (list(fused.values())[-1] if fused else one).opcode in ("copy", "transpose")


def _traffic(one: hlo.Instruction, within: Mapping[str, hlo.Instruction], module: hlo.Module) -> int:
    """Counts the bytes of the main memory that a kernel reads and writes; of an operand that it slices, the slice."""
    if one.opcode.endswith("-start") or one.opcode in COLLECTIVES:
        return sum(array.size for array in one.outputs[:2] if array.in_main_memory)  # a copy: there and from there
    read = 0
    for name in dict.fromkeys(one.operands):
        if name in within:
            whole = sum(array.size for array in within[name].outputs if array.in_main_memory)
            read += min(whole, _sliced(one, one.operands.index(name), module, whole))
    return read + sum(array.size for array in one.outputs if array.in_main_memory)


def _sliced(one: hlo.Instruction, number: int, module: hlo.Module, whole: int) -> int:
    """Returns the bytes of what `dynamic-slice` takes of an operand, where nothing else reads it; else the whole."""
    if one.opcode == "dynamic-slice":
        return sum(array.size for array in one.outputs) if number == 0 else whole
    fused = module.computations.get(one.attribute("calls").lstrip("%"), {}) if one.opcode == "fusion" else {}
    parameter = next((p.name for p in fused.values() if p.opcode == "parameter" and p.attributes == str(number)), None)
    readers = [reader for reader in fused.values() if parameter in reader.operands]
    if not readers or any(r.opcode != "dynamic-slice" or r.operands[0] != parameter for r in readers):
        return whole
    return sum(array.size for reader in readers for array in reader.outputs)


def _collectives(module: hlo.Module) -> dict[str, Transfers]:
    """Counts each once: at its end, where it is written as a start and an end."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    times = module.times()
    for name, computation in module.computations.items():
        for one in computation.values():
            kind = one.opcode.removesuffix("-done")
            if kind in COLLECTIVES:
                counts[kind] += times.get(name, 0)
                sizes[kind] += times.get(name, 0) * sum(array.size for array in one.outputs)
    return {kind: Transfers(count, sizes[kind]) for kind, count in counts.items() if count}


def _convolutions(module: hlo.Module) -> dict[str, int]:
    """Counts convolutions by the dtypes of their operands; a matrix product is one too on a TPU, and does not count."""
    found: Counter[str] = Counter()
    for computation in module.computations.values():
        for one in computation.values():
            spatial = re.search(r"\bwindow=\{size=", one.attributes)
            if (one.opcode == "convolution" and spatial) or CONVOLUTIONS_OF_CUDNN in one.attributes:
                dtypes = {computation[name].outputs[0].dtype for name in one.operands[:2] if name in computation}
                found[" and ".join(sorted(dtypes))] += 1
    return dict(found)
