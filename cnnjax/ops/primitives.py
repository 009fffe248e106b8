"""The rules that JAX asks of a primitive beside its derivative and its lowering."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax._src import checkify  # its table of rules has no public name
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import batching
from jax.sharding import PartitionSpec


def aval_like(aval: Any, shape: tuple[int, ...], dtype: jnp.dtype | None = None) -> jax.core.ShapedArray:
    """Returns the abstract value of a result on the mesh of an operand; of its sharding nothing is known."""
    sharding = aval.sharding.update(spec=PartitionSpec(*[None] * len(shape)))
    return aval.update(shape=shape, dtype=aval.dtype if dtype is None else dtype, sharding=sharding)


def define_eager_call(primitive: Primitive, static: tuple[str, ...]) -> None:
    """Lets the primitive run outside jit, under `jax.disable_jit` and `jax_debug_nans` too, compiled by itself.

    Args:
      primitive: the primitive.
      static: the names of its parameters.
    """
    compiled = jax.jit(primitive.bind, static_argnames=static)

    def run(*arrays: jax.Array, **parameters: Any) -> jax.Array:
        # without jit, and in search of the NaN in a compiled function, JAX would bind the primitive, and so call this
        # function, without end
        with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
            result = compiled(*arrays, **parameters)
        _raise_on_special(primitive.name, result)
        return result

    primitive.def_impl(run)


def _raise_on_special(name: str, result: jax.Array) -> None:
    """Does for a result what `jax_debug_nans` and `jax_debug_infs` ask, if they are on."""
    for what, asked, special in (
        ("nan", jax.debug_nans.value, jnp.isnan),
        ("inf", jax.debug_infs.value, jnp.isinf),
    ):
        if asked:
            with jax.debug_nans(False), jax.debug_infs(False):
                found = bool(special(result).any())
            if found:
                raise FloatingPointError(f"invalid value ({what}) encountered in {name}")


def define_nan_check(primitive: Primitive) -> None:
    """Lets checkify's float checks see the results of the primitive."""
    checkify.error_checks[primitive] = functools.partial(checkify.nan_error_check, primitive)


def define_taylor_rule(primitive: Primitive, linear_in: tuple[int, ...]) -> None:
    """Lets `jax.experimental.jet` through a primitive that is linear in one operand or bilinear in two.

    Args:
      primitive: of one result.
      linear_in: the positions of these operands; the others, such as indices, have no derivative.
    """

    def rule(
        primals: Sequence[jax.Array], series: Sequence[Sequence[jax.Array]], **parameters: Any
    ) -> tuple[jax.Array, list[jax.Array]]:
        terms = [[primal, *terms] for primal, terms in zip(primals, series, strict=True)]

        def at(**orders: int) -> jax.Array:
            chosen = [each[orders.get(str(i), 0)] for i, each in enumerate(terms)]
            return primitive.bind(*chosen, **parameters)

        order, first, *second = len(terms[0]), str(linear_in[0]), *map(str, linear_in[1:])
        if not second:
            coefficients = [at(**{first: k}) for k in range(order)]
        else:
            coefficients = [
                functools.reduce(jnp.add, [at(**{first: j, second[0]: k - j}) for j in range(k + 1)])
                for k in range(order)
            ]
        return coefficients[0], coefficients[1:]

    rules: dict[Primitive, Callable[..., Any]] = jet.jet_rules
    rules[primitive] = rule


def define_batching_by_examples(primitive: Primitive) -> None:
    """Lets vmap merge the mapped axis into the batch, the first axis of every operand and of the result."""

    def rule(arguments: Sequence[jax.Array], axes: Sequence[int | None], **parameters: Any) -> tuple[jax.Array, int]:
        size = next(a.shape[axis] for a, axis in zip(arguments, axes, strict=True) if axis is not None)
        many = [
            jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
            for a, axis in zip(arguments, axes, strict=True)
        ]
        result = primitive.bind(*(a.reshape(-1, *a.shape[2:]) for a in many), **parameters)
        return result.reshape(size, many[0].shape[1], *result.shape[1:]), 0

    batching.primitive_batchers[primitive] = rule
