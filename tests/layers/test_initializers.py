"""The initialiser that starts kernels as the identity, beside PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import ops
from cnnjax.layers.initializers import dirac

DRAW = nnx.initializers.normal(1.0)


@pytest.mark.parametrize(("channels", "filters"), [(3, 8), (5, 5), (6, 4)])
def test_as_pytorchs_of_the_first_filters(channels: int, filters: int) -> None:
    torch = pytest.importorskip("torch")
    shape = (3, 3, channels, filters)
    plain = np.array(DRAW(jax.random.key(0), shape, jnp.float32))
    theirs = torch.from_numpy(np.ascontiguousarray(plain.transpose(3, 2, 0, 1)))
    torch.nn.init.dirac_(theirs[:channels])
    found = dirac(DRAW)(jax.random.key(0), shape, jnp.float32)
    np.testing.assert_array_equal(found, theirs.numpy().transpose(2, 3, 1, 0))


def test_the_first_channels_are_handed_on() -> None:
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    kernel = dirac(DRAW)(jax.random.key(0), (3, 3, 3, 7), jnp.float32)
    np.testing.assert_allclose(ops.conv(jnp.asarray(x), kernel, padding=1)[..., :3], x, rtol=1e-6)
