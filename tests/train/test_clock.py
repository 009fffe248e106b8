"""The clock: spans of time by hand, and a program that takes long to compile."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import pytest

from cnnjax.train import clock


@pytest.mark.parametrize(
    ("spans", "length"),
    [
        ([], 0),
        ([(1, 3), (5, 6)], 3),
        ([(5, 6), (1, 3), (2, 4)], 4),
        ([(1, 9), (2, 3), (4, 5)], 8),
    ],
)
def test_what_overlaps_counts_once(spans: list[tuple[float, float]], length: float) -> None:
    assert clock.covered(spans) == length


def test_compiling_is_told_from_running() -> None:
    """Nothing but compiling takes long in the first part, nothing but waiting in the second."""

    def long(x: jax.Array) -> jax.Array:
        for number in range(40):
            x = jnp.sin(x) + jnp.cumsum(x) * number
        return x

    jitted, x = jax.jit(long), jnp.zeros(3)
    with clock.Clock() as first:
        jax.block_until_ready(jitted(x))
    with clock.Clock() as second:
        jax.block_until_ready(jitted(x))
        time.sleep(0.2)
    assert 0.5 * first.seconds < first.compile_seconds <= first.seconds
    assert second.compile_seconds == 0 and second.seconds >= 0.2
