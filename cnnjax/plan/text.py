"""A plan in words: the report of a target, and the table of several."""

from __future__ import annotations

from collections.abc import Sequence

from cnnjax.plan.estimate import Estimate
from cnnjax.plan.largest import MOST_OF_A_DEVICE, Largest, Refusal
from cnnjax.plan.program import Program
from cnnjax.plan.roofline import Bound, LayerCost

SHOWN_LAYERS = 6
BOTTLENECKS = {
    "arithmetic": "the multipliers: fewer operations, or a narrower dtype",
    "memory": "the memory's bandwidth: fewer or narrower activations",
    "link": "the links between the devices: more examples a device, or fewer devices",
}


def report(estimate: Estimate, net: str) -> list[str]:
    """Returns the lines of a target's report.

    Args:
      estimate: the step.
      net: the net in words.
    """
    target, batch = estimate.target, estimate.batch_size
    rows = [("memory", _memory_line(estimate))]
    program = estimate.program
    if isinstance(program, Program) and estimate.bound is not None:
        rows += [
            ("", _memory_parts(estimate)),
            (f"a device {'does' if estimate.updates == 1 else 'a call'}", _work_line(estimate, program)),
            ("program", _program_line(program)),
            ("at least", _bound_line(estimate, estimate.bound)),
        ]
        if program.seconds is not None and estimate.updates == 1:  # XLA does not count how often a loop turns
            rate = _rate(estimate.nets * batch / program.seconds)
            rows.append(("XLA's estimate", f"{_ms(program.seconds)} a step: {rate}"))
        rows.append(("bottleneck", BOTTLENECKS[estimate.bound.bottleneck]))
    rows.append(("compiled in", f"{estimate.compile_seconds:.0f} s here, once: not among the seconds of a step"))
    calls = f", {estimate.updates} updates a call" if estimate.updates > 1 else ""
    nets = f"{estimate.nets} nets at once, each " if estimate.nets > 1 else ""
    head = f"{target.name}: {target.size} x {target.chip.label}, {nets}batch {batch:,}{calls}: {net}"
    return [head, *(f"  {name:15} {text}" for name, text in rows), *_layer_lines(estimate.layers)]


def _memory_line(estimate: Estimate) -> str:
    """Says what a device needs of what it has."""
    usable = _size(estimate.target.chip.usable)
    if isinstance(estimate.program, Refusal):
        needed = "more" if estimate.peak is None else _size(estimate.peak)
        return f"does not fit: a device needs {needed} of {usable}. Give a smaller --batch_size, or --accumulate."
    assert estimate.peak is not None
    verdict = "it fits" if estimate.fits else "it does not fit: give a smaller --batch_size, or --accumulate"
    share = " (the 75 % that JAX reserves)" if estimate.target.platform == "gpu" else ""
    return f"{_size(estimate.peak)} a device of {usable}{share}: {verdict}"


def _memory_parts(estimate: Estimate) -> str:
    """Says what the memory is used for."""
    return ", ".join(f"{name} {_size(taken)}" for name, taken in memory_uses(estimate).items() if taken)


def memory_uses(estimate: Estimate) -> dict[str, float]:
    """Returns bytes by use; padding counts to what it pads."""
    assert isinstance(estimate.program, Program)
    memory = estimate.program.memory
    batch = min(estimate.batch_bytes, memory.arguments)
    kept = memory.arguments + memory.outputs - memory.aliased - batch
    return {"state": kept, "batch": batch, "temporaries": memory.temporaries, "code": memory.code}


def _work_line(estimate: Estimate, program: Program) -> str:
    """Says what a device computes and moves in a step."""
    words = [
        f"{_flops(estimate.operations * estimate.updates)} of convolutions and products",
        f"{_size(program.traffic)} to and from memory",
    ]
    words += [
        f"{_counted(moved.count, kind)} of {_size(moved.size)}" for kind, moved in program.collectives.items()
    ]  # fmt: skip
    return ", ".join(words)


def _program_line(program: Program) -> str:
    """Says what the program is made of."""
    words = [f"{program.kernels} kernels, {program.copies} of them copies"]
    words += [f"{_counted(count, 'convolution')} of {dtypes}" for dtypes, count in program.convolutions.items()]
    cudnn = sum(count for name, count in program.custom_calls.items() if name.startswith("__cudnn"))
    return ", ".join([*words, *([f"{_counted(cudnn, 'call')} of cuDNN"] if cudnn else [])])


def _bound_line(estimate: Estimate, bound: Bound) -> str:
    """Says how long a step takes at least, and by which resource."""
    parts = ", ".join(f"{name} {_ms(seconds)}" for name, seconds in bound._asdict().items() if seconds)
    return f"{_ms(bound.seconds)} a step ({parts}): at most {_rate(estimate.examples_per_second)}"


def _layer_lines(layers: Sequence[LayerCost]) -> list[str]:
    """Returns a table of the layers that cost most, each as if all that it reads and writes lay in the memory."""
    total = sum(layer.seconds for layer in layers)
    dear = sorted(layers, key=lambda layer: layer.seconds, reverse=True)[:SHOWN_LAYERS]
    rows = [("layers by cost", "output", "share", "operations", "bytes", "bound by")]
    for layer in dear:
        output = " x ".join(map(str, layer.output))
        share, work = f"{layer.seconds / total:.0%}", _flops(layer.operations)
        rows.append((layer.layer, output, share, work, _size(layer.traffic), layer.bottleneck))
    return [f"  {line}" for line in _aligned(rows)]


def largest_line(largest: Largest) -> str:
    """Says which batch is the largest that fits, and how it was found."""
    return f"  {'largest batch':15} {_largest(largest)}"


def _largest(largest: Largest) -> str:
    found = f"compiled, {_counted(largest.compilations, 'more compilation')}"
    if not largest.batch_size:
        return f"none was found: not even {largest.next_size:,} fits ({found})"
    text = f"{largest.batch_size:,}, which needs {_size(largest.peak)} ({found})"
    if largest.next_size is None:
        return f"at least {text}; more than {MOST_OF_A_DEVICE:,} a device were not tried"
    needed = "" if largest.next_peak is None else f", which would need {_size(largest.next_peak)}"
    return f"{text}; the next in question is {largest.next_size:,}{needed}"


def comparison(found: Sequence[tuple[Estimate, Largest | None]]) -> list[str]:
    """Returns the lines of the table of all targets."""
    rows = [("target", "batch", "memory", "largest batch", "at least", "at most", "XLA's estimate", "bottleneck")]
    for estimate, largest in found:
        bound, program = estimate.bound, estimate.program
        rows.append((
            estimate.target.name,
            f"{estimate.batch_size:,}",
            (_size(estimate.peak) if estimate.peak else "?") + ("" if estimate.fits else " (too much)"),
            f"{largest.batch_size:,}" if largest else "",
            _ms(bound.seconds) if bound else "",
            _rate(estimate.examples_per_second),
            _ms(program.seconds) if isinstance(program, Program) and program.seconds and estimate.updates == 1 else "",
            bound.bottleneck if bound else "",
        ))  # fmt: skip
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _size(count: float) -> str:
    """Writes a number of bytes."""
    return _scaled(count, "B")


def _flops(count: float) -> str:
    """Writes a number of operations."""
    return _scaled(count, "FLOP")


def _scaled(count: float, unit: str) -> str:
    """Writes a number with three digits and a prefix: 6,000,000 bytes as `6.00 MB`."""
    for prefix in ("", "k", "M", "G", "T"):
        if abs(count) < 999.5 or prefix == "T":
            break
        count /= 1000
    return f"{count:.3g} {prefix}{unit}"


def _ms(seconds: float) -> str:
    """Writes a time in milliseconds."""
    return f"{1e3 * seconds:.3g} ms"


def _rate(examples: float | None) -> str:
    """Writes a speed with three digits."""
    return "" if examples is None else f"{float(f'{examples:.3g}'):,.0f} images/s"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
