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
    """Returns a number as Python's float, or what `channel_array` returns of an array."""
    return as_number(name, value) if _is_number(value) else channel_array(name, value, x)


def channel_array(name: str, value: jax.Array | float, x: jax.Array) -> jax.Array:
    """Returns an array that x's shape ends with, with as many axes as x has: `x * array` has x's shape.

    An axis may be of size 1 instead, and one number in an array of shape `(1,)` counts for any x.
    """
    array = as_float_array(name, value)
    same_dtype(**{"x": x, name: array})
    if array.shape == (1,):
        array = array[0]
    sizes = x.shape[x.ndim - array.ndim :] if array.ndim <= x.ndim else ()
    if len(sizes) != array.ndim or any(one not in (1, size) for one, size in zip(array.shape, sizes, strict=True)):
        raise ValueError(
            f"{name} must have shape (), (1,) or {x.shape[-1:]}, one per channel of x, or others that x's "
            f"{x.shape} ends with, got {array.shape}"
        )
    return with_axes_of(x, array)


def at_least_0(name: str, value: float) -> float:
    """Returns a number that must not be negative."""
    number = as_number(name, value)
    if not number >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return number


def _is_number(value: object) -> bool:
    """True for a number of Python or NumPy, or anything that is no array: `as_number` refuses what is neither."""
    is_array = hasattr(value, "__array__") or hasattr(value, "__jax_array__")
    return not is_array or isinstance(value, np.number)
