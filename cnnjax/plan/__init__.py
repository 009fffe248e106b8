"""What a training step needs and takes on a machine that is not here: compiled for it, read and bounded.

    devices = plan.parse("tpu:v5e:2x2").devices()  # needs libtpu, no TPU
    lowered = plan.lower_update(make_net, optax.adam(1e-3), devices, example_shape=(32, 32, 3), batch_size=1024)
    program = plan.read(lowered.compile())
    print(program.memory.peak, program.traffic, program.collectives)

`experiments/plan.py` is the same with flags, and `estimate` what it prints.
"""

from cnnjax.plan.estimate import Estimate, estimate
from cnnjax.plan.largest import Largest, Refusal, compile_program, largest_batch
from cnnjax.plan.program import Memory, Program, Transfers, read
from cnnjax.plan.roofline import Bound, LayerCost, bound, layer_costs
from cnnjax.plan.step import lower_evaluation, lower_update
from cnnjax.plan.targets import CHIPS, Chip, Target, parse

__all__ = [
    "CHIPS",
    "Bound",
    "Chip",
    "Estimate",
    "Largest",
    "LayerCost",
    "Memory",
    "Program",
    "Refusal",
    "Target",
    "Transfers",
    "bound",
    "compile_program",
    "estimate",
    "largest_batch",
    "layer_costs",
    "lower_evaluation",
    "lower_update",
    "parse",
    "read",
]
