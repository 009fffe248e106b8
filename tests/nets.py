"""Nets without the draw of their weights, which compiles a program per shape: longer than most tests of them take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import describe, models


def shapes(**options: Any) -> nnx.Module:
    """The net of these options as shapes alone: nothing is drawn, nothing allocated."""
    return nnx.eval_shape(lambda: models.build({"model": options}))


def count(model: nnx.Module) -> int:
    """How many parameters there are."""
    return sum(param.size for param in jax.tree.leaves(nnx.state(model, nnx.Param)))


def rows(input_shape: tuple[int, ...], **options: Any) -> list[Any]:
    """The layer table of the net of these options."""
    found: list[Any] = []

    def describing() -> jax.Array:
        found.extend(describe(models.build({"model": options}), input_shape))
        return jnp.zeros(())

    jax.eval_shape(describing)
    return found


def filled(make: Callable[[], nnx.Module]) -> nnx.Module:
    """What `make` gives, its parameters from NumPy: kernels of the variance of their fan-in, the rest about 1.

    jax.device_put compiles nothing; jnp.asarray compiles a program per shape.
    """
    draw = np.random.default_rng(0)

    def fill(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jax.device_put(np.zeros(leaf.shape, leaf.dtype))
        if len(leaf.shape) > 1:
            return jax.device_put((draw.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5).astype(leaf.dtype))
        return jax.device_put(draw.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype))

    return jax.tree.map(fill, nnx.eval_shape(make))
