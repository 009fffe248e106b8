"""Loss scaling against a plain loop of Python, and what it saves of gradients in float16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.train import freeze, loss_scale_of, scale_loss
from cnnjax.train.state import TrainState, from_arrays, to_arrays

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize("dynamic", [True, False])
def test_against_a_plain_loop(dynamic: bool) -> None:
    """Momentum on given gradients, some of them not finite; the scale doubles after 3 finite ones in a row."""
    gradients = [1.0, 0.5, INF, 0.25, NAN, 1.0, 1.0, 1.0, 2.0, -INF, 1.0, 1.0]
    rule = scale_loss(optax.sgd(0.1, momentum=0.9), 8.0, dynamic=dynamic, growth_interval=3)
    w, v, scale, in_a_row = 1.0, 0.0, 8.0, 0
    params = {"w": jnp.array([1.0])}
    state = rule.init(params)
    update = jax.jit(rule.update)
    for gradient in gradients:
        scaled = {"w": jnp.array([gradient]) * loss_scale_of(state)}
        changes, state = update(scaled, state, params)
        params = optax.apply_updates(params, changes)
        if np.isfinite(gradient):
            v = 0.9 * v + gradient
            w -= 0.1 * v
            in_a_row += 1
            if in_a_row == 3 and dynamic:
                scale, in_a_row = 2 * scale, 0
        elif dynamic:
            scale, in_a_row = scale / 2, 0
        np.testing.assert_allclose(params["w"], [w], rtol=1e-6)
        assert float(loss_scale_of(state)) == scale
    assert scale == (2.0 if dynamic else 8.0)


def test_the_scale_stays_between_1_and_the_largest_power_of_two() -> None:
    for initial, gradient, expected in ((1.0, INF, 1.0), (2.0**127, 1.0, 2.0**127)):
        rule = scale_loss(optax.sgd(0.1), initial, growth_interval=1)
        _, state = rule.update(jnp.array([gradient]), rule.init(jnp.ones(1)))
        assert float(loss_scale_of(state)) == expected


def test_a_gradient_that_float16_rounds_to_zero_is_saved() -> None:
    """d/dw of w x, both in float16, times 2^-26: below the least number of float16, 2^-24."""
    rule = scale_loss(optax.sgd(1.0), 2.0**15)
    w = jnp.array([1.0])
    state = rule.init(w)

    def loss(w: jax.Array, scale: jax.Array | float) -> jax.Array:
        product = (w.astype("float16") * jnp.float16(2.0**-13)).sum()  # the gradient passes through float16
        return (product * jnp.asarray(scale, "float16") * jnp.float16(2.0**-13)).astype("float32")

    assert float(jax.grad(loss)(w, 1.0)[0]) == 0
    changes, _ = rule.update(jax.grad(loss)(w, loss_scale_of(state)), state, w)
    assert float(changes[0]) == -(2.0**-26)


def test_gradients_in_float16_are_divided_by_scales_beyond_float16() -> None:
    rule = scale_loss(optax.sgd(1.0), 2.0**17)
    w = jnp.ones(1, "float16")
    changes, _ = rule.update(jnp.full(1, 1024.0, "float16"), rule.init(w), w)
    assert changes.dtype == "float16" and float(changes[0]) == -(2.0**-7)


def test_the_scale_is_found_in_nested_states() -> None:
    params = {"conv": {"kernel": jnp.ones((2, 2))}, "dense": {"kernel": jnp.ones((2, 2))}}
    inside = optax.chain(freeze(scale_loss(optax.adam(0.1), 64.0), "conv"), optax.scale(1.0))
    outside = scale_loss(freeze(optax.adam(0.1), "conv"), 32.0)
    assert float(loss_scale_of(inside.init(params))) == 64
    assert float(loss_scale_of(outside.init(params))) == 32
    assert loss_scale_of(optax.adam(0.1).init(params)) == 1.0 == loss_scale_of(())


def test_what_the_inner_optimiser_wants_is_passed_on() -> None:
    def update(updates, state, params=None, *, factor, **_):
        return jax.tree.map(lambda u: -factor * u, updates), state

    rule = scale_loss(optax.GradientTransformationExtraArgs(optax.init_empty_state, update), 2.0)
    changes, _ = rule.update(jnp.array([4.0]), rule.init(jnp.ones(1)), factor=3.0)
    assert float(changes[0]) == -6


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"initial": 0.5}, r"initial must be from 1 to 2\^127, was 0.5"),
        ({"growth_interval": 0}, "growth_interval must be at least 1, was 0"),
    ],
)
def test_errors(keywords: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scale_loss(optax.sgd(0.1), **keywords)


def test_wrapped_states_go_into_a_checkpoint_and_back_through_a_scan() -> None:
    """As in training: the state is carried by `lax.scan`, and saved by the names of its leaves."""
    params = {"conv": {"kernel": jnp.ones((2, 2))}, "dense": {"kernel": jnp.ones((2, 2))}}
    rule = scale_loss(freeze(optax.sgd(0.1, momentum=0.9), "^conv"), 4.0, growth_interval=2)

    def update(state: TrainState, gradient: jax.Array) -> tuple[TrainState, jax.Array]:
        scale = loss_scale_of(state.opt_state)
        grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient * scale), state.params)
        changes, opt_state = rule.update(grads, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, changes), {}, opt_state, state.step + 1), jnp.asarray(scale)

    start = TrainState(params, {}, rule.init(params), jnp.int32(0))
    scanned = jax.jit(lambda state, gradients: jax.lax.scan(update, state, gradients))
    middle, scales = scanned(start, jnp.array([1.0, 1.0, INF, 1.0]))
    assert scales.tolist() == [4, 4, 8, 4]
    saved = to_arrays(middle)
    momenta = [name for name in saved if name.startswith("opt_state") and saved[name].shape]
    assert len(momenta) == 1 and momenta[0].endswith("dense/kernel")
    resumed, _ = scanned(from_arrays(saved, start), jnp.array([2.0]))
    straight, _ = scanned(middle, jnp.array([2.0]))
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    np.testing.assert_array_equal(resumed.params["conv"]["kernel"], np.ones((2, 2), np.float32))
