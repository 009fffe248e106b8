"""The moving average of the weights against its definition."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.train import ema, lookahead
from tests.train import tiny


@pytest.mark.parametrize("counted", [False, True])
def test_against_the_definition(counted: bool) -> None:
    weights = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    average, expected = {"w": jnp.asarray(weights[0])}, weights[0].astype(np.float64)
    for update, now in enumerate(weights[1:]):
        decay = min(0.8, (1 + update) / (10 + update)) if counted else 0.8
        expected = decay * expected + (1 - decay) * now
        average = ema(average, {"w": jnp.asarray(now)}, 0.8, jnp.int32(update) if counted else None)
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)


def test_the_decay_is_checked() -> None:
    for decay in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"decay must be from 0 to below 1, was {decay}"):
            ema(jnp.ones(1), jnp.ones(1), decay)


@pytest.mark.parametrize("total", [11, 10])
def test_lookahead_against_the_definition(total: int) -> None:
    """Every third update; after the last one the slow weights stand, wherever it falls."""
    steps = np.random.default_rng(0).normal(size=(total, 4)).astype(np.float32)
    slow, fast = {"w": jnp.zeros(4), "count": jnp.int32(0)}, {"w": jnp.zeros(4), "count": jnp.int32(0)}
    slow_w, fast_w = np.zeros(4), np.zeros(4)
    for done, step in enumerate(steps, 1):
        fast_w = fast_w + step
        if done % 3 == 0:
            decay = 0.95**3 * (done / total) ** 3
            slow_w = decay * slow_w + (1 - decay) * fast_w
            fast_w = slow_w
        if done == total:
            fast_w = slow_w
        fast = {"w": fast["w"] + step, "count": jnp.int32(done)}
        slow, fast = lookahead(slow, fast, jnp.int32(done), every=3, total=total)
        np.testing.assert_allclose(fast["w"], fast_w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(slow["w"], slow_w, rtol=1e-5, atol=1e-6)
    assert fast["count"] == total and slow["count"] == 0, "counts are not averaged"


def test_the_dtype_stays() -> None:
    slow, fast = jnp.ones(2, jnp.bfloat16), jnp.zeros(2, jnp.bfloat16)
    moved = lookahead(slow, fast, 5, every=5, total=10)
    assert {each.dtype for each in moved} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(np.asarray(moved[0], float), 0.95**5 * 0.5**3, rtol=4e-3)
    assert ema(slow, fast, 0.9, 3).dtype == jnp.bfloat16


def test_the_average_takes_the_parameters_after_lookahead(tmp_path: Path) -> None:
    result = tiny.fit(tmp_path, tiny.OPTIONS, optimizer="momentum", ema=0.0, lookahead=5)
    jax.tree.map(np.testing.assert_array_equal, result.state.average, result.state.params)
