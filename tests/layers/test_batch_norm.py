"""The layer takes what `nnx.BatchNorm` takes and gives its numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import layers

X = 3 * jax.random.normal(jax.random.key(0), (4, 5, 5, 3)) + 2


def pair(**keywords: Any) -> tuple[layers.BatchNorm, nnx.BatchNorm]:
    """Ours and flax's, with the same scale, bias and running statistics."""
    made = tuple(kind(3, momentum=0.9, rngs=nnx.Rngs(0), **keywords) for kind in (layers.BatchNorm, nnx.BatchNorm))
    for norm in made:
        norm.mean[...], norm.var[...] = norm.mean[...] + 1, norm.var[...] + 3
        if norm.scale is not None:
            norm.scale[...] *= 2
        if norm.bias is not None:
            norm.bias[...] += 0.5
    return made


def check(ours: layers.BatchNorm, theirs: nnx.BatchNorm, **call: Any) -> None:
    np.testing.assert_allclose(ours(X, **call), theirs(X, **call), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.mean[...], rtol=1e-6)
    np.testing.assert_allclose(ours.var[...], theirs.var[...], rtol=1e-5)


@pytest.mark.parametrize("use_scale", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_with_and_without_scale_and_bias(use_scale: bool, use_bias: bool) -> None:
    ours, theirs = pair(use_scale=use_scale, use_bias=use_bias)
    check(ours, theirs)
    ours.eval(), theirs.eval()
    check(ours, theirs)
    names = {"scale"} & {"scale" if use_scale else ""} | {"bias"} & {"bias" if use_bias else ""}
    assert set(nnx.to_pure_dict(nnx.state(ours, nnx.Param))) == names


def test_running_average_by_the_layer_and_by_the_call() -> None:
    check(*pair(use_running_average=True))
    check(*pair(use_running_average=True), use_running_average=False)
    check(*pair(), use_running_average=True)
    ours, _ = pair(use_running_average=None)
    with pytest.raises(ValueError, match="use_running_average"):
        ours(X)


def test_a_mask_as_flax_has_it() -> None:
    mask = jax.random.bernoulli(jax.random.key(1), 0.5, X.shape)
    check(*pair(), mask=mask)


def test_the_dtype_is_that_of_x_in_training_and_evaluation() -> None:
    for layer in (layers.BatchNorm(3, rngs=nnx.Rngs(0)), layers.BatchNormMaxPool(3, 2, rngs=nnx.Rngs(0))):
        x = X.astype(jnp.bfloat16)
        assert layer(x).dtype == layer(x, mask=jnp.ones(x.shape, bool)).dtype == jnp.bfloat16
        layer.eval()
        assert layer(x).dtype == jnp.bfloat16


def test_a_mask_has_no_unbiased_variance() -> None:
    layer = layers.BatchNorm(3, unbiased=True, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="mask must be None where unbiased is True"):
        layer(X, mask=jnp.ones(X.shape, bool))


@pytest.mark.parametrize("parts", [1, 2])
def test_the_running_variance_may_be_unbiased(parts: int) -> None:
    """As in PyTorch, with divisor n - 1; the output is that of the biased one."""
    biased, unbiased = (
        layers.BatchNorm(3, momentum=0.9, parts=parts, unbiased=u, rngs=nnx.Rngs(0)) for u in (False, True)
    )
    np.testing.assert_array_equal(biased(X), unbiased(X))
    variances = [np.var(part, axis=(0, 1, 2), ddof=1) for part in np.split(np.asarray(X), parts)]
    np.testing.assert_allclose(unbiased.var[...], 0.9 + 0.1 * np.mean(variances, 0), rtol=1e-5)
    pooled = layers.BatchNormMaxPool(3, 2, momentum=0.9, parts=parts, unbiased=True, rngs=nnx.Rngs(0))
    pooled(X)
    np.testing.assert_allclose(pooled.var[...], unbiased.var[...], rtol=1e-6)
