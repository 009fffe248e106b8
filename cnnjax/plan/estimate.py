"""What one training step needs and takes on a target: the program, the bounds, the layers."""

from __future__ import annotations

import dataclasses
import math
import time

import jax

from cnnjax.inspect import Table
from cnnjax.plan import program, roofline
from cnnjax.plan.largest import Refusal, compile_program
from cnnjax.plan.program import Program
from cnnjax.plan.roofline import Bound, LayerCost
from cnnjax.plan.targets import Target


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A training step on a target, compiled, not run.

    Attributes:
      target: the machine.
      dtype: of the net's arrays.
      batch_size: examples over all devices.
      updates: in a call of the program.
      nets: trained at once, each with batches of its own.
      compile_seconds: that it took here to compile the program.
      program: as compiled; a `Refusal` where it does not fit.
      state_size: bytes on each device of the parameters, the other state and the optimiser's.
      batch_bytes: bytes on each device of the batches of a call.
      operations: multiplications and additions of the convolutions and products of a step, on each device; counted in
        the program before it is compiled, so that all targets are compared by the same number.
      bound: seconds that a step takes at least; None where it does not fit.
      layers: what each layer takes at least.
    """

    target: Target
    dtype: str
    batch_size: int
    updates: int
    nets: int
    compile_seconds: float
    program: Program | Refusal
    state_size: int
    batch_bytes: int
    operations: float
    bound: Bound | None
    layers: list[LayerCost]

    @property
    def peak(self) -> float | None:
        """Bytes on each device, None where the compiler refuses and does not say."""
        return self.program.needed if isinstance(self.program, Refusal) else self.program.memory.peak

    @property
    def fits(self) -> bool:
        """Whether a device has so much memory."""
        return isinstance(self.program, Program) and self.program.memory.peak <= self.target.chip.usable

    @property
    def examples_per_second(self) -> float | None:
        """Upper bound of the speed, of all nets together."""
        return self.nets * self.batch_size / self.bound.seconds if self.bound else None


def estimate(
    target: Target, lowered: jax.stages.Lowered, table: Table, dtype: str, batch_size: int, *, updates: int = 1,
    nets: int = 1,
) -> Estimate:  # fmt: skip
    """Compiles a step for its target and returns what it needs and takes.

    Args:
      target: the machine.
      lowered: as `lower_update` returns it for the devices of the target.
      table: of the net, as `inspect.layer_table` returns it.
      dtype: of the net's arrays, `"float32"`, `"bfloat16"` or `"float16"`.
      batch_size: examples over all devices.
      updates: in a call of the program.
      nets: trained at once; layers are those of one.

    Raises:
      JaxRuntimeError: XLA cannot compile it for another reason than memory.
    """
    start = time.perf_counter()
    compiled = compile_program(lowered)
    compile_seconds = time.perf_counter() - start
    (state, *batch), _ = lowered.args_info
    state_size = _size(state)
    operations = program.operations(lowered) / target.size / updates
    found = None
    if isinstance(compiled, Program):
        found = roofline.bound(target, dtype, operations, compiled.traffic / updates, compiled.collectives)
        found = found._replace(link=found.link / updates)
    per_parameter = state_size / nets / max(table.total.params, 1)
    return Estimate(
        target=target,
        dtype=dtype,
        batch_size=batch_size,
        updates=updates,
        nets=nets,
        compile_seconds=compile_seconds,
        program=compiled,
        state_size=state_size,
        batch_bytes=_size(batch) // target.size,
        operations=operations,
        bound=found,
        layers=roofline.layer_costs(table, target, dtype, batch_size / target.size, state_size=per_parameter),
    )


def _size(tree: object) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
