"""The pools under test: one row for each form that a pool can take, as a function of x `(N, 8, 9, 4)` alone."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from cnnjax import ops

SHAPE = (2, 8, 9, 4)

POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "max": lambda x: ops.max_pool(x, 2),
    "max overlapping": lambda x: ops.max_pool(x, 3, stride=2),
    "max padded": lambda x: ops.max_pool(x, 3, stride=2, padding=1),
    "max dilated": lambda x: ops.max_pool(x, 3, stride=1, padding=2, dilation=2),
    "max ceil": lambda x: ops.max_pool(x, 2, padding=0, ceil_mode=True),
    "max many channels": lambda x: ops.max_pool(jnp.concatenate([x] * 4, -1), 2),
    "max many taps": lambda x: ops.max_pool(x, (8, 9), stride=1, padding=((0, 1), (0, 0))),
    "min": lambda x: ops.min_pool(x, 2),
    "avg": lambda x: ops.avg_pool(x, 2),
    "avg overlapping": lambda x: ops.avg_pool(x, 3, stride=1, padding=1),
    "avg dilated": lambda x: ops.avg_pool(x, 3, stride=2, padding=2, dilation=2),
    "avg many taps": lambda x: ops.avg_pool(x, 17, stride=1, padding=8),
    "lp of 1": lambda x: ops.lp_pool(x, 2, p=1),
    "lp of 2": lambda x: ops.lp_pool(x, 2),
    "lp of 3": lambda x: ops.lp_pool(x, 3, p=3, stride=2, padding=1),
    "lp of infinity": lambda x: ops.lp_pool(x, 2, p=float("inf")),
    "pool": lambda x: ops.pool(x, 3, jax.nn.logsumexp, stride=2, padding=1, pad_value=0),
    "pool many taps": lambda x: ops.pool(x, (8, 9), jnp.sum),
    "global avg": ops.global_avg_pool,
    "global max": ops.global_max_pool,
    "adaptive avg": lambda x: ops.adaptive_avg_pool(x, (3, 4)),
    "adaptive avg even": lambda x: ops.adaptive_avg_pool(x, (4, 3)),
    "adaptive max": lambda x: ops.adaptive_max_pool(x, (3, 4)),
    "adaptive max even": lambda x: ops.adaptive_max_pool(x, (4, 3)),
    "fractional max": lambda x: ops.fractional_max_pool(x, 2, output_size=4, key=jax.random.key(0)),
    "stochastic": lambda x: ops.stochastic_pool(abs(x), 2, key=jax.random.key(0)),
    "stochastic mean": lambda x: ops.stochastic_pool(abs(x), 2, key=None, deterministic=True),
    "unpool": lambda x: ops.max_unpool(*ops.max_pool(x, 2, return_indices=True), (8, 9)),
}

#: A form that no example in tests/ops/examples.py takes: for JAX's tools that are tried on every op there.
BESIDE_EXAMPLES = ("avg",)
#: One row for each primitive: in the quick suite; the others are slow tests where each has to be compiled.
CORE = ("max padded", "avg", "avg overlapping", "lp of 2", "global max", "adaptive avg", "adaptive max", "unpool")

INDICES: dict[str, Callable[[jax.Array], tuple[jax.Array, jax.Array]]] = {
    "max": lambda x: ops.max_pool(x, 3, stride=2, padding=1, return_indices=True),
    "max many taps": lambda x: ops.max_pool(x, (8, 9), return_indices=True),
    "min": lambda x: ops.min_pool(x, 2, return_indices=True),
    "adaptive max": lambda x: ops.adaptive_max_pool(x, (3, 4), return_indices=True),
    "adaptive max even": lambda x: ops.adaptive_max_pool(x, (4, 3), return_indices=True),
    "fractional max": lambda x: ops.fractional_max_pool(
        x, 2, output_size=4, key=jax.random.key(0), return_indices=True
    ),
}


def sample(shape: tuple[int, ...] = SHAPE, dtype: str = "float32") -> jax.Array:
    """Draws an input without zeros, ties or NaN."""
    return jax.random.normal(jax.random.key(1), shape, "float32").astype(dtype)


def gradient(op: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Returns the gradient of the sum of the squares of what `op` gives."""
    return jax.grad(lambda x: jnp.square(op(x)).sum())


def quick_and_slow(quick: tuple[str, ...] = CORE) -> list[object]:
    """Returns parameters for pytest: some rows, and the others marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in POOLS]
