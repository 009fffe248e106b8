"""What JAX asks of the pools' primitives: of linear ones, and of those that select elements."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import ad

from cnnjax.ops.primitives import (
    define_batching_by_examples,
    define_eager_call,
    define_nan_check,
    define_taylor_rule,
)

Linear = Callable[[jax.Array], jax.Array]


def define_linear(primitive: Primitive, static: tuple[str, ...]) -> None:
    """Lets every transformation of JAX through a primitive that is linear in its first operand.

    Args:
      primitive: of operands `(N, ..., C)`, the first an x, or a y where its parameter `of` is "x": then it is the
        transpose. The others have no derivative.
      static: the names of its parameters.
    """

    def transpose(dy: Any, a: Any, *fixed: jax.Array, of: str, **parameters: Any) -> list[Any]:
        if type(dy) is ad.Zero:
            return [ad.Zero(a.aval), *(None for _ in fixed)]
        return [primitive.bind(dy, *fixed, of="x" if of == "y" else "y", **parameters), *(None for _ in fixed)]

    def jvp(primals: Any, tangents: Any, **parameters: Any) -> tuple[jax.Array, Any]:
        y, da = primitive.bind(*primals, **parameters), tangents[0]
        if type(da) is ad.Zero:
            return y, ad.Zero(jax.typeof(y).to_tangent_aval())
        return y, primitive.bind(da, *primals[1:], **parameters)

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    define_taylor_rule(primitive, linear_in=(0,))
    define_batching_by_examples(primitive)
    define_eager_call(primitive, static)
    define_nan_check(primitive)


def define_selection(primitive: Primitive, static: tuple[str, ...], derivative: Callable[..., Linear]) -> None:
    """Lets every transformation of JAX through a primitive that selects elements of its first operand x.

    Args:
      primitive: of operands x, and of integers that have no derivative; all are `(N, ..., C)`, and so is its result.
      static: the names of its parameters.
      derivative: takes the operands and parameters; returns the selection as a linear function of tangents of x. It is
        not called where the result is an integer.
    """

    def jvp(primals: Any, tangents: Any, **parameters: Any) -> tuple[jax.Array, Any]:
        y, dx = primitive.bind(*primals, **parameters), tangents[0]
        if type(dx) is ad.Zero or not jnp.issubdtype(y.dtype, jnp.floating):
            return y, ad.Zero(jax.typeof(y).to_tangent_aval())
        return y, derivative(*map(lax.stop_gradient, primals), **parameters)(dx)

    def taylor(primals: Any, series: Any, **parameters: Any) -> tuple[jax.Array, list[jax.Array]]:
        y = primitive.bind(*primals, **parameters)
        if not jnp.issubdtype(y.dtype, jnp.floating):
            return y, [jnp.zeros_like(y) for _ in series[0]]
        select = derivative(*primals, **parameters)
        return y, [select(term) for term in series[0]]

    ad.primitive_jvps[primitive] = jvp
    rules: dict[Primitive, Callable[..., Any]] = jet.jet_rules
    rules[primitive] = taylor
    define_batching_by_examples(primitive)
    define_eager_call(primitive, static)
    define_nan_check(primitive)


def no_derivative(*operands: jax.Array, **parameters: Any) -> Linear:
    """Stands for the derivative of a primitive whose result is an integer."""
    raise NotImplementedError("an index has no derivative")
