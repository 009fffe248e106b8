"""Reads the text of an XLA program: its computations, their instructions, and what each costs."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

#: Bytes of an element, by XLA's name of the dtype; others have none (`token`).
ITEM_SIZES = {
    **dict.fromkeys(("pred", "s8", "u8", "f8e4m3fn", "f8e5m2"), 1),
    **dict.fromkeys(("bf16", "f16", "s16", "u16"), 2),
    **dict.fromkeys(("f32", "s32", "u32"), 4),
    **dict.fromkeys(("f64", "s64", "u64", "c64"), 8),
    "c128": 16,
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^{}]*)\})?")
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.-]+) = (.*)")


class Array(NamedTuple):
    """A shape of XLA, such as `f32[64,10]{1,0:T(8,128)S(1)}`.

    Attributes:
      dtype: XLA's name.
      shape: the sizes.
      in_main_memory: False where the layout names another space: the S(1) is a TPU's memory on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    in_main_memory: bool = True

    @property
    def size(self) -> int:
        """Bytes, without padding."""
        return math.prod(self.shape) * ITEM_SIZES.get(self.dtype, 0)


class Instruction(NamedTuple):
    """One line of a program.

    Attributes:
      name: without `%`.
      opcode: such as `fusion`.
      outputs: the arrays it gives, one or those of a tuple.
      operands: names of the instructions it reads.
      attributes: the rest of the line; of a constant its value, of a parameter its number.
    """

    name: str
    opcode: str
    outputs: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, name: str) -> str:
        """Returns an attribute up to the next comma or brace, `""` without it."""
        found = re.search(rf"\b{name}=\"?(\{{[^}}]*\}}|[^,\s\"]+)", self.attributes)
        return found[1] if found else ""

    def called(self, *names: str) -> list[str]:
        """Returns the computations that attributes of these names call."""
        return [one.strip().lstrip("%") for name in names for one in self.attribute(name).strip("{}").split(",") if one]


class Module(NamedTuple):
    """A program: its computations by name, and the name of the one it begins with."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def executed(self) -> Iterator[tuple[Instruction, dict[str, Instruction], int]]:
        """Yields each instruction that runs by itself, its computation, and how often it runs.

        Those within fusions, and within the functions of reductions, are part of another.
        """
        stack = [(self.entry, 1)]
        while stack:
            name, times = stack.pop()
            computation = self.computations.get(name, {})
            for one in computation.values():
                yield one, computation, times
                if one.opcode == "while":
                    stack += [(body, times * self.trips(one)) for body in one.called("body", "condition")]
                elif one.opcode in ("call", "conditional", "async-start"):
                    names = ("to_apply", "calls", "branch_computations", "true_computation", "false_computation")
                    stack += [(called, times) for called in one.called(*names)]

    def trips(self, loop: Instruction) -> int:
        """Returns how often a `while` runs its body: as XLA found out, or up to the bound of its condition; else 1."""
        known = re.search(r"known_trip_count[^0-9]*n[^0-9]*(\d+)", loop.attributes)
        if known:
            return int(known[1])
        inside = [one for name in loop.called("condition") for one in self.computations.get(name, {}).values()]
        bounds = [one.attributes for one in inside if one.opcode == "constant" and one.attributes.isdecimal()]
        return int(bounds[0]) if len(bounds) == 1 else 1

    def times(self) -> dict[str, int]:
        """Returns how often each computation runs, fusions included; without those that never do."""
        names = ("to_apply", "calls", "body", "branch_computations", "true_computation", "false_computation")
        callers: dict[str, list[tuple[str, int]]] = {}
        for name, computation in self.computations.items():
            for one in computation.values():
                for called in one.called(*names):
                    callers.setdefault(called, []).append((name, self.trips(one) if one.opcode == "while" else 1))

        @functools.cache
        def count(name: str) -> int:
            return 1 if name == self.entry else sum(count(caller) * each for caller, each in callers.get(name, ()))

        return {name: times for name in self.computations if (times := count(name))}


def parse(text: str) -> Module:
    """Reads the text of a program, as `Compiled.as_text()` and `Lowered.as_text("hlo")` give it."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and " = " not in line.split("(")[0] and not line.startswith(("HloModule", " ")):
            words = line.split()
            name = words[words[0] == "ENTRY"].lstrip("%")
            entry = name if words[0] == "ENTRY" else entry
            current = computations.setdefault(name, {})
        elif current is not None and (found := _INSTRUCTION.match(line)):
            instruction = _instruction(found[1], found[2])
            if instruction is not None:
                current[instruction.name] = instruction
    return Module(computations, entry)


def arrays(text: str) -> tuple[Array, ...]:
    """Returns the arrays of a shape, one or those of a tuple.

    Example:
      >>> arrays("(f32[2,3]{1,0:T(8,128)S(1)}, /*index=1*/s32[])")
      (Array(dtype='f32', shape=(2, 3), in_main_memory=False), Array(dtype='s32', shape=(), in_main_memory=True))
    """
    return tuple(
        Array(dtype, tuple(map(int, filter(None, sizes.split(",")))), "S(" not in layout)
        for dtype, sizes, layout in _ARRAY.findall(text)
    )


def _instruction(name: str, rest: str) -> Instruction | None:
    """Reads `TYPE opcode(operands), attributes`."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    opcode, bracket, _ = rest[end:].partition("(")
    if not bracket:
        return None
    start = end + len(opcode)
    stop = _closing(rest, start)
    inside = rest[start + 1 : stop]
    if opcode.strip() in ("constant", "parameter"):
        return Instruction(name, opcode.strip(), arrays(rest[:end]), (), inside)
    operands = re.findall(r"%([\w.-]+)", inside) or re.findall(r"([A-Za-z_][\w.-]*)(?:,|$)", inside)
    return Instruction(name, opcode.strip(), arrays(rest[:end]), tuple(operands), rest[stop + 1 :])


def _closing(text: str, start: int) -> int:
    """Returns where the bracket that opens at `start` closes."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    return len(text)


def operations(one: Instruction, within: dict[str, Instruction]) -> int:
    """Returns the multiplications and additions of a `convolution` or `dot`; 0 for others.

        2 * outputs * (what each sums over)

    Taps of a convolution that lie in padding, or between the pixels of a dilated input, do not count.
    """
    operands = [within[name].outputs[0] for name in one.operands if name in within and within[name].outputs]
    if len(operands) < 2 or not one.outputs:
        return 0
    if one.opcode == "dot":
        axes = [int(axis) for axis in one.attribute("lhs_contracting_dims").strip("{}").split(",") if axis]
        return 2 * math.prod(one.outputs[0].shape) * math.prod(operands[0].shape[axis] for axis in axes)
    if one.opcode == "convolution":
        return _convolution(one, operands[0].shape, operands[1].shape)
    return 0


def _convolution(one: Instruction, x: tuple[int, ...], w: tuple[int, ...]) -> int:
    x_axes, w_axes, y_axes = re.split("_|->", one.attribute("dim_labels"))
    y = one.outputs[0].shape
    window = dict(re.findall(r"(\w+)=([\w-]+)", one.attribute("window").strip("{}")))
    spatial = sorted(axis for axis in w_axes if axis.isdecimal())
    common = y[y_axes.index("b")] * y[y_axes.index("f")] * w[w_axes.index("i")]
    pairs = [
        _pairs(
            x[x_axes.index(axis)],
            y[y_axes.index(axis)],
            w[w_axes.index(axis)],
            **{name: _sizes(window, name, number) for name in ("stride", "pad", "lhs_dilate", "rhs_dilate")},
        )
        for number, axis in enumerate(spatial)
    ]
    return 2 * common * math.prod(pairs)


def _sizes(window: dict[str, str], name: str, number: int) -> tuple[int, ...]:
    default = "0_0" if name == "pad" else "1"
    values = window[name].split("x") if name in window else []
    return tuple(map(int, (values[number] if values else default).split("_")))


def _pairs(
    x: int, y: int, w: int, *, stride: tuple[int, ...], pad: tuple[int, ...], lhs_dilate: tuple[int, ...],
    rhs_dilate: tuple[int, ...],
) -> int:  # fmt: skip
    """Counts the pairs of an output and a tap that read a pixel, along one dimension."""
    holes, last = lhs_dilate[0], (x - 1) * lhs_dilate[0]
    count = 0
    for tap in range(w):
        first = tap * rhs_dilate[0] - pad[0]
        places = range(first, first + y * stride[0], stride[0])
        if holes == 1:
            low = max(0, -(-(0 - first) // stride[0]))
            high = min(y, (last - first) // stride[0] + 1)
            count += max(0, high - low)
        else:
            count += sum(0 <= place <= last and place % holes == 0 for place in places)
    return count
