"""Activation functions with a trained parameter: as their ops, in a table, in half precision, and in a net."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import cnnjax
from cnnjax import data, layers, ops

X = jnp.linspace(-3.0, 3.0, 24).reshape(2, 3, 4)
EACH = jnp.array([0.5, -1.0, 0.0, 2.0])


def test_they_are_their_ops() -> None:
    prelu, swish, scaled = layers.PReLU(4), layers.Swish(4), layers.ScaledSigmoid(4)
    prelu.alpha[...] = swish.beta[...] = scaled.alpha[...] = EACH
    np.testing.assert_array_equal(prelu(X), ops.prelu(X, EACH))
    np.testing.assert_array_equal(swish(X), ops.swish(X, EACH))
    np.testing.assert_array_equal(scaled(X), ops.scaled_sigmoid(X, EACH))


def test_before_training() -> None:
    np.testing.assert_array_equal(layers.PReLU()(X), jnp.where(X > 0, X, 0.25 * X))
    np.testing.assert_allclose(layers.Swish()(X), ops.silu(X), rtol=1e-6)
    np.testing.assert_array_equal(layers.ScaledSigmoid(4)(X), jnp.zeros_like(X))
    sizes = [leaf.shape for make in (layers.PReLU, layers.Swish) for leaf in jax.tree.leaves(nnx.state(make()))]
    assert sizes == [(1,), (1,)]


@pytest.mark.parametrize("make", [layers.PReLU, layers.Swish, layers.ScaledSigmoid])
def test_half_precision_keeps_float32_parameters(make: type) -> None:
    layer = make(4)
    assert layer(X.astype("bfloat16")).dtype == "bfloat16"
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(layer))} == {"float32"}
    with pytest.raises(ValueError, match="features must be at least 1, got 0"):
        make(0)
    with pytest.raises(ValueError, match=r"must have shape \(\), \(1,\) or \(4,\), .* got \(3,\)"):
        make(3)(X)


def test_rows_of_the_layer_table() -> None:
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(
        layers.Conv(1, 3, (3, 3), rngs=rngs), layers.PReLU(3), layers.Conv(3, 2, (3, 3), rngs=rngs), layers.Swish()
    )
    rows = cnnjax.describe(net, (8, 8, 1))
    params = {row.layer.split(" ")[-1]: row.params for row in rows}
    assert params == {"(Conv)": 9 * 3 * 2 + 2, "(PReLU)": 3, "(Swish)": 1}
    assert rows[-1].receptive_field == rows[-2].receptive_field


class LearnedTanh(layers.Layer):
    """An activation function of one's own, as the docstring of cnnjax.layers.activations shows."""

    def __init__(self, features: int):
        self.alpha = nnx.Param(jnp.ones(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        alpha = self.alpha[...].astype(x.dtype)
        return alpha[None] * jnp.tanh(x)


def trained(activation: nnx.Module) -> tuple[nnx.Module, float]:
    """A net of two dense layers after 300 updates on all digits at once; and its share of right test answers."""
    digits = data.digits()
    rngs = nnx.Rngs(0)
    net = nnx.Sequential(nnx.Linear(64, 64, rngs=rngs), activation, nnx.Linear(64, 10, rngs=rngs), ops.softmax)
    graph, params = nnx.split(net, nnx.Param)
    x, x_test = (
        jnp.asarray(images.reshape(-1, 64) / 255, jnp.float32) for images in (digits.train_images, digits.test_images)
    )
    one_hot = jax.nn.one_hot(digits.train_labels, 10)
    rule = optax.sgd(0.5, momentum=0.9)

    def loss(params: nnx.State) -> jax.Array:
        return -(one_hot * jnp.log(nnx.merge(graph, params)(x) + 1e-9)).sum(-1).mean()

    def step(carry: tuple[nnx.State, optax.OptState], _: None) -> tuple[tuple[nnx.State, optax.OptState], None]:
        params, state = carry
        changes, state = rule.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, changes), state), None

    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=300))((params, rule.init(params)))
    net = nnx.merge(graph, params)
    right = np.asarray(net(x_test)).argmax(-1) == digits.test_labels
    return net, float(right.mean())


def test_the_net_of_the_tutorial_learns_the_digits() -> None:
    """Dense 64, scaled sigmoid, dense 10, softmax, every alpha zero at first."""
    activation = layers.ScaledSigmoid(64)
    net, accuracy = trained(activation)
    assert accuracy > 0.9
    assert np.abs(np.asarray(net.layers[1].alpha[...])).min() > 0, "every alpha has moved"


@pytest.mark.parametrize("activation", [layers.PReLU(64), layers.Swish(), LearnedTanh(64)])
def test_nets_of_the_others_learn_too(activation: nnx.Module) -> None:
    _, accuracy = trained(activation)
    assert accuracy > 0.9
