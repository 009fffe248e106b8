"""Many convolutions at once, as vmap makes them: one after the other, or all as one.

An index i runs over the problems:

    T(x, w, y) = sum_i <conv(x_i, w_i), y_i>

`mapped` names those of x, w and y that have the index, as their first axis; what is one for all problems has none. So
the derivative in one that has none is a sum over i, and the three derivatives stay each other's transposes. It is
`"xwy"`; `"wy"`, of one x; `"xw"`, of one y; or `""`, a single problem. (Problems of one w are a single one, of all
their images.)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

# Computes a derivative of a single problem from its two operands: (a, b, groups) -> result.
Derivative = Callable[[jax.Array, jax.Array, int], jax.Array]
# The operands of a derivative by name, in their order.
Operands = dict[str, jax.Array]


def one_by_one(derivative: Derivative, operands: Operands, result: str, mapped: str, groups: int) -> jax.Array:
    """Computes one problem after the other, each in the form that is fastest for it alone."""
    stacked = {name: array for name, array in operands.items() if name in mapped}

    def one(problem: Operands) -> jax.Array:
        a, b = (operands | problem).values()
        return derivative(a, b, groups)

    if result in mapped:
        return lax.map(one, stacked)
    first = jax.eval_shape(one, {name: array[0] for name, array in stacked.items()})
    return lax.scan(lambda total, problem: (total + one(problem), None), jnp.zeros_like(first), stacked)[0]


def as_one(derivative: Derivative, operands: Operands, result: str, mapped: str, groups: int) -> jax.Array:
    """Computes all problems as one: the index joins the channels, as groups beside the groups.

    Without groups that of one x joins the features instead, and that of one y the channels.
    """
    count = next(array.shape[0] for name, array in operands.items() if name in mapped)
    if count == 0:
        return one_by_one(derivative, operands, result, mapped, groups)
    summed = result not in mapped and groups > 1
    if mapped == "xwy" or groups > 1:
        operands = {
            name: array if name in mapped else jnp.broadcast_to(array, (count, *array.shape))
            for name, array in operands.items()
        }
        mapped, groups = "xwy", count * groups
    a, b = (_joined(array, _axis(name, mapped)) if name in mapped else array for name, array in operands.items())
    whole = derivative(a, b, groups)
    if result not in mapped:
        return whole
    many = _parted(whole, _axis(result, mapped), count)
    return many.sum(0) if summed else many


def _axis(name: str, mapped: str) -> int:
    """Returns the axis that the index joins: the last, but for the channels of w."""
    return -2 if name == "w" and mapped == "xw" else -1


def _joined(array: jax.Array, axis: int) -> jax.Array:
    """Merges the first axis into another, before what is there."""
    count, *shape = array.shape
    shape[axis] *= count
    return jnp.moveaxis(array, 0, axis - 1).reshape(shape)


def _parted(array: jax.Array, axis: int, count: int) -> jax.Array:
    """Undoes `_joined`."""
    axis %= array.ndim
    shape = array.shape
    array = array.reshape(*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])
    return jnp.moveaxis(array, axis, 0)
