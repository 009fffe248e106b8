"""Checks of what activation functions take beside x: axes, and numbers or learned arrays."""

import jax
import numpy as np

from cnnjax.ops.checks import as_float_array, as_number, same_dtype
from cnnjax.ops.geometry import as_int
from cnnjax.ops.promotion import with_axes_of

# A number that is known before compiling, or an array of x's dtype, as one that is learned.
Parameter = float | jax.Array


def as_axis(x: jax.Array, axis: int) -> int:
    """Returns one of x's axes, counted from the first."""
    axis = as_int("axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be one of x's {x.ndim}, got {axis}")
    return axis % x.ndim


def as_parameter(name: str, value: Parameter, x: jax.Array) -> Parameter:
    """Returns a number as Python's float, or an array of x's dtype with as many axes as x has."""
    if not hasattr(value, "__array__") or isinstance(value, np.number):
        return as_number(name, value)
    array = as_float_array(name, value)
    same_dtype(**{"x": x, name: array})
    return with_axes_of(x, array)


def at_least_0(name: str, value: float) -> float:
    """Returns a number that must not be negative."""
    number = as_number(name, value)
    if not number >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return number
