"""Update rules and schedules against the formulas, and against PyTorch where it is installed."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.train import freeze
from cnnjax.train.optimizers import GROUPED, OPTIMIZERS, SCHEDULES, is_kernel, max_norm, optimizer, schedule


def promotion_of(name: str) -> Any:
    """Strict, but for what optax promotes itself: its schedules and Adam raise a float to an integer power."""
    return jax.numpy_dtype_promotion("standard" if name.startswith("adam") or name in SCHEDULES else "strict")


def trajectory(rule: optax.GradientTransformation, steps: int = 5) -> np.ndarray:
    """w after each step of descent on the sum of w^4 / 4, from (1, -2, 0.5)."""
    w = jnp.array([1.0, -2.0, 0.5], jnp.float32)
    state, path = rule.init(w), []
    for _ in range(steps):
        change, state = rule.update(w**3, state, w)
        w = optax.apply_updates(w, change)
        path.append(np.asarray(w))
    return np.stack(path)


def their_trajectory(rule: Any, w: Any, steps: int = 5) -> np.ndarray:
    """The same of PyTorch's rule, which trains its tensor w."""
    path = []
    for _ in range(steps):
        w.grad = w.detach() ** 3
        rule.step()
        path.append(w.detach().numpy().copy())
    return np.stack(path)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"sdlm", *GROUPED}))  # PyTorch lacks the first
def test_as_pytorch(name: str, weight_decay: float) -> None:
    torch = pytest.importorskip("torch")
    w = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    rule = {
        "sgd": lambda: torch.optim.SGD([w], 0.05, weight_decay=weight_decay),
        "momentum": lambda: torch.optim.SGD([w], 0.05, momentum=0.9, weight_decay=weight_decay),
        "adam": lambda: torch.optim.Adam([w], 0.05, weight_decay=weight_decay),
        "adadelta": lambda: torch.optim.Adadelta([w], 0.05, rho=0.95, eps=1e-6, weight_decay=weight_decay),
        "adamw": lambda: torch.optim.AdamW([w], 0.05, weight_decay=weight_decay),
    }[name]()
    path = their_trajectory(rule, w)
    with promotion_of(name):
        found = trajectory(optimizer(name, 0.05, weight_decay=weight_decay))
    np.testing.assert_allclose(found, path, rtol=2e-5)


def test_sgd_by_hand() -> None:
    np.testing.assert_allclose(trajectory(optimizer("sgd", 0.1), 1), [[0.9, -1.2, 0.4875]], rtol=1e-6)


def test_grad_clip_bounds_the_global_norm() -> None:
    path = trajectory(optimizer("sgd", 1.0, grad_clip=0.25), 1)
    assert np.linalg.norm(path[0] - [1.0, -2.0, 0.5]) == pytest.approx(0.25, rel=1e-5)


def rates_of(rule: optax.Schedule, *updates: int) -> list[float]:
    """What a schedule says of these updates, as one program."""
    return np.asarray(jax.jit(jax.vmap(rule))(np.array(updates, np.int32))).tolist()


def test_schedules_by_hand() -> None:
    constant, cosine, onecycle = (schedule(name, 0.4, 100) for name in ("constant", "cosine", "onecycle"))
    linear, triangle = (schedule(name, 0.4, 100) for name in ("linear", "triangle"))
    assert rates_of(triangle, 0, 23, 100) == pytest.approx([0.08, 0.4, 0.028])
    assert rates_of(triangle, 10, 50) == pytest.approx([0.08 + 0.32 * 10 / 23, 0.4 - 0.372 * 27 / 77])
    with promotion_of("onecycle"):
        assert rates_of(linear, 0, 25, 100) == pytest.approx([0.4, 0.3, 0], abs=1e-7)
        assert rates_of(constant, 70) == pytest.approx([0.4])
        assert rates_of(cosine, 0, 25) == pytest.approx([0.4, 0.4 * (1 + math.cos(math.pi / 4)) / 2])
        assert rates_of(cosine, 100) == pytest.approx([0], abs=1e-7)
        assert rates_of(onecycle, 0, 30, 100) == pytest.approx([0.4 / 25, 0.4, 0.4 / 25 / 1e4])


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"optimizer must be one of sgd, .*was 'lion'"):
        optimizer("lion", 0.1)
    with pytest.raises(ValueError, match=r"schedule must be one of constant, .*was 'step'"):
        schedule("step", 0.1, 10)


def test_adadelta_by_hand() -> None:
    """The first step: E[g^2] = 0.05 g^2, and the step is g sqrt(1e-6) / sqrt(0.05 g^2 + 1e-6)."""
    g = np.array([1.0, -8.0, 0.125])
    expected = np.array([1.0, -2.0, 0.5]) - g * 1e-3 / np.sqrt(0.05 * g**2 + 1e-6)
    np.testing.assert_allclose(trajectory(optimizer("adadelta", 1.0), 1), [expected], rtol=1e-5)


def test_max_norm_by_hand() -> None:
    """Columns (3, 4) and (0.3, 0.4) after the update: the first is brought to norm 2, the second stays."""
    rule = max_norm("dense/kernel", 2.0)
    params = {"dense": {"kernel": np.array([[2.0, 0.2], [3.0, 0.3]], np.float32), "bias": np.array([9.0], np.float32)}}
    changes = {"dense": {"kernel": np.array([[1.0, 0.1], [1.0, 0.1]], np.float32), "bias": np.array([1.0], np.float32)}}
    bounded, _ = rule.update(changes, rule.init(params), params)
    after = optax.apply_updates(params, bounded)["dense"]
    np.testing.assert_allclose(after["kernel"], [[1.2, 0.3], [1.6, 0.4]], rtol=1e-6)
    assert after["bias"] == 10
    zeros = {"dense": {"kernel": np.zeros((2, 1), np.float32)}}
    bounded, _ = rule.update(zeros, rule.init(zeros), zeros)
    assert not np.asarray(bounded["dense"]["kernel"]).any(), "a column of zeros has no direction, and stays"
    with pytest.raises(ValueError, match="kernel must be the path of a parameter, was 'dense2/kernel'"):
        max_norm("dense2/kernel", 2.0).init(params)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_nesterov_as_pytorch_and_by_hand(weight_decay: float) -> None:
    """v <- 0.9 v + g, w <- w - 0.05 (g + 0.9 v)."""
    w, v, path = np.array([1.0, -2.0, 0.5]), np.zeros(3), []
    for _ in range(5):
        g = w**3 + weight_decay * w
        v = 0.9 * v + g
        w = w - 0.05 * (g + 0.9 * v)
        path.append(w)
    rule = optimizer("momentum", 0.05, weight_decay=weight_decay, nesterov=True)
    np.testing.assert_allclose(trajectory(rule), path, rtol=2e-5)
    torch = pytest.importorskip("torch")
    theirs = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    peer = torch.optim.SGD([theirs], 0.05, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    np.testing.assert_allclose(their_trajectory(peer, theirs), path, rtol=2e-5)


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"momentum"}))
def test_only_momentum_has_nesterov(name: str) -> None:
    with pytest.raises(ValueError, match=f"nesterov must be False where the optimizer is '{name}': only momentum has"):
        optimizer(name, 0.1, nesterov=True)


@pytest.mark.parametrize(
    ("name", "own", "theirs"),
    [
        ("momentum", {"momentum": 0.5}, ("SGD", {"momentum": 0.5})),
        ("adam", {"b1": 0.5, "b2": 0.7, "eps": 0.1}, ("Adam", {"betas": (0.5, 0.7), "eps": 0.1})),
        ("adamw", {"b2": 0.7}, ("AdamW", {"betas": (0.9, 0.7), "weight_decay": 0.1})),
        ("adadelta", {"rho": 0.5, "eps": 1e-2}, ("Adadelta", {"rho": 0.5, "eps": 1e-2})),
    ],
)
def test_options_of_an_optimiser(name: str, own: dict[str, float], theirs: tuple[str, dict[str, Any]]) -> None:
    torch = pytest.importorskip("torch")
    w = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    path = their_trajectory(getattr(torch.optim, theirs[0])([w], 0.05, **theirs[1]), w)
    with promotion_of(name):
        found = trajectory(optimizer(name, 0.05, weight_decay=0.1 if name == "adamw" else 0.0, options=own))
    np.testing.assert_allclose(found, path, rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "own", "message"),
    [
        ("adam", {"beta1": 0.5}, "must be among b1, b2, eps where the optimizer is 'adam', was 'beta1'"),
        ("sgd", {"momentum": 0.9}, "must be empty where the optimizer is 'sgd', was 'momentum'"),
        ("adam", {"b1": 1}, "must give 'b1' a number from 0 to below 1, was 1"),
        ("momentum", {"momentum": "0.9"}, "must give 'momentum' a number from 0 to below 1, was '0.9'"),
        ("airbench", {"bias_scaler": math.inf}, "must give 'bias_scaler' a finite number of at least 0, was inf"),
        ("airbench", {"bias_scaler": True}, "must give 'bias_scaler' a finite number of at least 0, was True"),
        ("airbench", {"train_whitening": 1}, "must give 'train_whitening' True or False, was 1"),
    ],
)
def test_bad_options_of_an_optimiser(name: str, own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="optimizer_options " + message):
        optimizer(name, 0.1, options=own)


PARAMS = {
    "conv": {"kernel": np.ones((1, 2, 2), np.float32), "bias": np.ones(2, np.float32)},
    "norm": {"scale": np.ones(2, np.float32)},
}


def updated(rule: optax.GradientTransformation, grads: Any, params: Any) -> Any:
    """The parameters after a first update, as one program."""

    def first(grads: Any, params: Any) -> Any:
        return optax.apply_updates(params, rule.update(grads, rule.init(params), params)[0])

    return jax.jit(first)(grads, params)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_that_spares_biases_and_norms(name: str) -> None:
    """Without a gradient the kernels shrink by rate times decay, whichever the optimiser, and nothing else moves."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    zeros = jax.tree.map(jnp.zeros_like, params)
    for decay, of_the_rest in (("kernels", 1.0), ("all", 0.99)):
        rule = optimizer(name, 0.1, weight_decay=0.1, decay=decay)
        with promotion_of(name):
            after = updated(rule, zeros, params)
        np.testing.assert_allclose(after["conv"]["kernel"], np.full((1, 2, 2), 0.99), rtol=1e-6)
        np.testing.assert_allclose(after["conv"]["bias"], np.full(2, of_the_rest), rtol=1e-6)
        np.testing.assert_allclose(after["norm"]["scale"], np.full(2, of_the_rest), rtol=1e-6)
    with pytest.raises(ValueError, match="decay must be one of all, kernels, was 'biases'"):
        optimizer(name, 0.1, decay="biases")


def test_a_bias_of_any_rank_is_no_kernel() -> None:
    """That of a LocalConv has one number for each pixel."""
    params = {"local": {"bias": jnp.ones((2, 2, 2)), "kernel": jnp.ones((2, 2, 9, 2))}, "scale": jnp.ones(3)}
    assert is_kernel(params) == {"local": {"bias": False, "kernel": True}, "scale": False}


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_in_front_of_a_schedule(name: str) -> None:
    """Of 20 updates, 4 of warm-up: 1/5 to 4/5 of the first rate, then the schedule of 16."""
    warm, plain = schedule(name, 0.4, 20, warmup=4), schedule(name, 0.4, 16)
    with promotion_of(name):
        rates = rates_of(warm, *range(20))
        after, cold = (rates_of(rule, *range(16)) for rule in (plain, schedule(name, 0.4, 16, warmup=0)))
    np.testing.assert_allclose(rates, [after[0] * (t + 1) / 5 for t in range(4)] + after, rtol=1e-6)
    assert cold == after
    for warmup in (20, -1):
        with pytest.raises(ValueError, match=f"warmup must be from 0 to 19, fewer than the 20 updates, was {warmup}"):
            schedule(name, 0.4, 20, warmup=warmup)


def test_frozen_parameters_stay_and_have_no_state() -> None:
    params = jax.tree.map(jnp.asarray, PARAMS)
    grads = jax.tree.map(lambda leaf: 2 * leaf, params)
    rule = freeze(optimizer("momentum", 0.5, weight_decay=0.5, grad_clip=2.0), "^conv/")
    state = rule.init(params)
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(2,)], "the momentum of the norm's scale alone"
    changes, state = rule.update(grads, state, params)
    after = optax.apply_updates(params, changes)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(after["conv"][name], PARAMS["conv"][name])
    # clipped to norm 2 by the gradient of the scale alone, (2, 2) -> (1.414, 1.414); then 0.5 of decay
    np.testing.assert_allclose(after["norm"]["scale"], np.full(2, 1 - 0.5 * (2**0.5 + 0.5)), rtol=1e-6)


def test_freezing_passes_the_curvature_on() -> None:
    params = jax.tree.map(jnp.asarray, PARAMS)
    rule = freeze(optimizer("sdlm", 1.0), "bias")
    curvature = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.48), params)
    changes, _ = rule.update(params, rule.init(params), params, curvature=curvature)
    np.testing.assert_allclose(changes["conv"]["kernel"], np.full((1, 2, 2), -2.0), rtol=1e-6)
    np.testing.assert_array_equal(changes["conv"]["bias"], np.zeros(2, np.float32))


def test_a_pattern_that_freezes_nothing_or_all_is_refused() -> None:
    rule = optax.sgd(0.1)
    names = r"The parameters are conv/bias, conv/kernel, norm/scale\."
    with pytest.raises(ValueError, match=rf"pattern 'dense' is found in no path of a parameter\. {names}"):
        freeze(rule, "dense").init(PARAMS)
    with pytest.raises(ValueError, match=rf"pattern '/' is found in every path: nothing would be trained\. {names}"):
        freeze(rule, "/").init(PARAMS)
    with pytest.raises(ValueError, match=r"pattern must be a regular expression, was '\('"):
        freeze(rule, "(")


def test_defaults_keep_the_state_and_the_program_of_plain_optax() -> None:
    """Checkpoints name the leaves of the state: what is off may add none, nor change an operation."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    for ours, plain in (
        (optimizer("momentum", 0.1), optax.chain(optax.sgd(0.1, momentum=0.9))),
        (optimizer("adamw", 0.1, weight_decay=0.1), optax.chain(optax.adamw(0.1, weight_decay=0.1))),
        (
            optimizer("adam", 0.1, weight_decay=0.1, grad_clip=1.0),
            optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), optax.adam(0.1)),
        ),
    ):
        state = plain.init(params)
        assert jax.tree.structure(ours.init(params)) == jax.tree.structure(state)
        with promotion_of("adam"):
            programs = [str(jax.make_jaxpr(rule.update)(params, state, params)) for rule in (ours, plain)]
        assert programs[0] == programs[1]
