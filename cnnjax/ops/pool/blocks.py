"""Lowering a primitive in blocks of examples and channels, so that its temporary arrays stay small on the CPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir

from cnnjax.ops.pool.choose import block_sizes


def define_lowering(
    primitive: Primitive,
    compute: Callable[..., jax.Array],
    temporaries: Callable[..., int],
    *,
    by_platform: bool = False,
) -> None:
    """Lets the primitive compile as `compute`, on a single CPU device in blocks where it would take much memory.

    Args:
      primitive: one whose operands and result are `(N, ..., C)`, and that computes each example and channel alone.
      compute: takes the primitive's operands and parameters.
      temporaries: takes the operands' abstract values and the parameters; returns about how many bytes `compute`
        needs beside its operands and its result.
      by_platform: whether `compute` also takes `platform`: `"cpu"`, `"tpu"`, or `"gpu"`.
    """

    def compute_on(platform: str) -> Callable[..., jax.Array]:
        return partial(compute, platform=platform) if by_platform else compute

    whole = mlir.lower_fun(compute_on("cpu"), multiple_results=False)

    def on_cpu(ctx: Any, *operands: Any, **parameters: Any) -> Any:
        batch, channels = ctx.avals_in[0].shape[0], ctx.avals_in[0].shape[-1]
        devices = getattr(ctx.module_context.axis_context, "num_devices", None)
        # a loop over a sharded axis would gather it; a symbolic batch has no size to divide
        if devices != 1 or not isinstance(batch, int):
            return whole(ctx, *operands, **parameters)
        block = block_sizes(batch, channels, temporaries(*ctx.avals_in, **parameters))
        if block == (batch, channels):
            return whole(ctx, *operands, **parameters)

        def blocked(*arrays: jax.Array) -> jax.Array:
            return _in_blocks(lambda *slices: compute_on("cpu")(*slices, **parameters), arrays, block)

        return mlir.lower_fun(blocked, multiple_results=False)(ctx, *operands)

    mlir.register_lowering(primitive, mlir.lower_fun(compute_on("gpu"), multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(compute_on("tpu"), multiple_results=False), platform="tpu")
    mlir.register_lowering(primitive, on_cpu, platform="cpu")


def _in_blocks(f: Callable[..., jax.Array], arrays: tuple[jax.Array, ...], block: tuple[int, int]) -> jax.Array:
    """Computes f of the arrays, `block` examples and channels at a time."""
    batch, channels = arrays[0].shape[0], arrays[0].shape[-1]

    def bounds(rank: int, example: Any, channel: Any) -> tuple[Any, ...]:
        return (example, *(jnp.zeros((), jnp.int32),) * (rank - 2), channel)

    def step(i: jax.Array, result: jax.Array) -> jax.Array:
        example = i // (channels // block[1]) * block[0]
        channel = i % (channels // block[1]) * block[1]
        slices = [
            lax.dynamic_slice(a, bounds(a.ndim, example, channel), (block[0], *a.shape[1:-1], block[1])) for a in arrays
        ]
        return lax.dynamic_update_slice(result, f(*slices), bounds(result.ndim, example, channel))

    shape = jax.eval_shape(f, *arrays)
    steps = (batch // block[0]) * (channels // block[1])
    return lax.fori_loop(jnp.int32(0), jnp.int32(steps), step, jnp.zeros(shape.shape, shape.dtype))
