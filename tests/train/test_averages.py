"""The moving average of the weights against its definition."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.train import ema


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
