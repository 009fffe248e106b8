"""What a training step needs and takes on a machine that is not here: compiled for it, read and bounded."""

from cnnjax.plan.program import Memory, Program, Transfers, read
from cnnjax.plan.step import lower_evaluation, lower_update
from cnnjax.plan.targets import CHIPS, Chip, Target, parse

__all__ = [
    "CHIPS",
    "Chip",
    "Memory",
    "Program",
    "Target",
    "Transfers",
    "lower_evaluation",
    "lower_update",
    "parse",
    "read",
]
