"""The activation functions that jax.nn has, with the argument checks of this package."""

import inspect
from collections.abc import Callable
from typing import ParamSpec

import jax

from cnnjax.ops.activations.parameters import as_axis, as_parameter
from cnnjax.ops.checks import as_float_array, as_number_array
from cnnjax.ops.public import public_op

P = ParamSpec("P")


def _from_jax(op: Callable[P, jax.Array], formula: str, *, integers: bool = False) -> Callable[P, jax.Array]:
    """Adds argument checks to a function of jax.nn; its name and parameters stay.

    Args:
      op: its first parameter is x. Of the others `axis` is one axis of x or several, `where` an array, and any
        other a number or an array of x's dtype.
      formula: the value, for the first line of the docstring.
      integers: True where x may be of integers too.
    """
    signature = inspect.signature(op)
    by_name = [part.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for part in signature.parameters.values()]
    signature = signature.replace(parameters=by_name)
    kinds = "float32, float64, bfloat16 or float16" + (", or of integers" if integers else "")

    def checked(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        x = as_number_array("x", given.pop("x")) if integers else as_float_array("x", given.pop("x"))
        for name, value in given.items():
            if name == "axis" and value is not None:
                given[name] = tuple(as_axis(x, one) for one in value) if isinstance(value, tuple) else as_axis(x, value)
            elif name not in ("axis", "where"):
                given[name] = as_parameter(name, value, x)
        return op(x, **given)  # type: ignore

    checked.__name__ = checked.__qualname__ = name = op.__name__
    checked.__doc__ = f"""Returns {formula}.

    `jax.nn.{name}` with its arguments checked.

    Args:
      x: an array of any shape, of {kinds}.

    Raises:
      TypeError: x or a parameter is of the wrong kind.
      ValueError: an axis is none of x's.
    """
    checked.__signature__ = signature  # type: ignore[attr-defined]
    return public_op(checked)


elu = _from_jax(jax.nn.elu, "x where x > 0, else alpha (exp(x) - 1)")
hard_sigmoid = _from_jax(jax.nn.hard_sigmoid, "relu6(x + 3) / 6, as in PyTorch and Keras 3 (ONNX has x / 5)")
hard_silu = _from_jax(jax.nn.hard_silu, "x relu6(x + 3) / 6")
identity = _from_jax(jax.nn.identity, "x", integers=True)
log_sigmoid = _from_jax(jax.nn.log_sigmoid, "log(1 / (1 + exp(-x)))")
log_softmax = _from_jax(jax.nn.log_softmax, "x - log(sum exp(x)), the sum along an axis")
mish = _from_jax(jax.nn.mish, "x tanh(log(1 + exp(x)))")
relu = _from_jax(jax.nn.relu, "max(x, 0)", integers=True)
relu6 = _from_jax(jax.nn.relu6, "min(max(x, 0), 6)")
selu = _from_jax(jax.nn.selu, "1.0507 x where x > 0, else 1.0507 * 1.6733 (exp(x) - 1)")
sigmoid = _from_jax(jax.nn.sigmoid, "1 / (1 + exp(-x))")
silu = _from_jax(jax.nn.silu, "x / (1 + exp(-x))")
soft_sign = _from_jax(jax.nn.soft_sign, "x / (1 + |x|)")
softmax = _from_jax(jax.nn.softmax, "exp(x) / sum exp(x), the sum along an axis")
sparse_plus = _from_jax(jax.nn.sparse_plus, "0 where x <= -1, x where x >= 1, else (x + 1)^2 / 4")
sparse_sigmoid = _from_jax(jax.nn.sparse_sigmoid, "0 where x <= -1, 1 where x >= 1, else (x + 1) / 2")
squareplus = _from_jax(jax.nn.squareplus, "(x + sqrt(x^2 + b)) / 2")
tanh = _from_jax(jax.nn.tanh, "tanh(x)")
