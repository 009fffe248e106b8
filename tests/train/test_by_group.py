"""Groups of parameters with optimisers of their own, and Muon against its definition in NumPy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax.train import by_group, muon

PARAMS = {
    "whiten": {"kernel": np.ones((2, 2, 3, 4), np.float32), "bias": np.ones(4, np.float32)},
    "blocks": {0: {"convs": {0: {"kernel": np.ones((3, 3, 4, 5), np.float32)}},
                   "norms": {0: {"bias": np.ones(5, np.float32)}}}},
    "head": {"kernel": np.ones((5, 2), np.float32)},
}  # fmt: skip


def changes(rule: optax.GradientTransformation, updates: int, gradient: float = 1.0) -> list[dict[str, np.ndarray]]:
    """What each update adds to the parameters, by path, of gradients that are all alike."""
    params: Any = jax.tree.map(jnp.asarray, PARAMS)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), params)
    now, found = rule.init(params), []
    step = jax.jit(rule.update)
    for _ in range(updates):
        change, now = step(grads, now, params)
        found.append({by_group.path_name(path): np.asarray(leaf)
                      for path, leaf in jax.tree_util.tree_leaves_with_path(change)})  # fmt: skip
        params = optax.apply_updates(params, change)
    return found


def test_the_first_group_whose_expression_is_found_counts() -> None:
    rule = by_group.by_group(
        {"^head": optax.sgd(2.0), "kernel$": optax.sgd(3.0), "none": optax.sgd(4.0)}, optax.sgd(1.0)
    )
    (found,) = changes(rule, 1)
    each = {name: -float(array.flat[0]) for name, array in found.items()}
    assert each == {"head/kernel": 2, "whiten/kernel": 3, "blocks/0/convs/0/kernel": 3, "whiten/bias": 1,
                    "blocks/0/norms/0/bias": 1}  # fmt: skip


def test_until_stops_after_so_many_updates() -> None:
    found = changes(by_group.until(optax.sgd(0.5), 2), 4)
    assert [float(one["whiten/bias"][0]) for one in found] == [-0.5, -0.5, 0, 0]
    assert [float(one["whiten/bias"][0]) for one in changes(by_group.until(optax.sgd(0.5), None), 3)] == [-0.5] * 3


def test_airbench_scales_the_rate_of_norm_biases_and_not_their_decay() -> None:
    """One update without momentum's past: the step is lr (g + wd w) (1 + 0.85)."""
    found = changes(by_group.airbench(0.01, weight_decay=0.5, updates_per_epoch=1), 4)
    assert found[0]["head/kernel"].flat[0] == pytest.approx(-0.01 * 1.5 * 1.85)
    assert found[0]["blocks/0/norms/0/bias"].flat[0] == pytest.approx(-0.64 * (1 + 0.5 / 64) * 1.85)
    assert all(not one["whiten/kernel"].any() for one in found)
    assert [bool(one["whiten/bias"].any()) for one in found] == [True, True, True, False]


def test_airbench_trains_a_first_layer_that_was_drawn_as_the_others() -> None:
    found = changes(by_group.airbench(0.01, weight_decay=0.5, updates_per_epoch=1, train_whitening=True), 4)
    for one in found:
        assert {one[name].flat[0] for name in ("whiten/kernel", "whiten/bias")} == {one["head/kernel"].flat[0]}
        assert one["head/kernel"].flat[0] < 0


def newton_schulz(g: np.ndarray, steps: int) -> np.ndarray:
    """The iteration in float64, by the singular values alone: x -> 3.4445 x - 4.7750 x^3 + 2.0315 x^5."""
    left, values, right = np.linalg.svd(g.astype(np.float64), full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(steps):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return left * values @ right


@pytest.mark.parametrize("shape", [(4, 30), (30, 4), (6, 6)])
def test_orthogonalize_against_singular_values(shape: tuple[int, int]) -> None:
    g = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    np.testing.assert_allclose(muon.orthogonalize(jnp.asarray(g), 3), newton_schulz(g, 3), atol=2e-5)
    near = np.linalg.svd(np.asarray(muon.orthogonalize(jnp.asarray(g), 5)), compute_uv=False)
    assert near.min() > 0.6 and near.max() < 1.3


def test_muon_against_its_definition() -> None:
    """Three updates of a kernel of 3x3, 4 channels, 5 filters; PyTorch lays it out as (5, 4, 3, 3)."""
    draw = np.random.default_rng(0)
    w = draw.normal(size=(3, 3, 4, 5)).astype(np.float32)
    rule = muon.muon(lambda count: 0.2 / (count.astype(jnp.float32) + 1), momentum=0.6, steps=3)
    ours, expected = jnp.asarray(w), w.transpose(3, 2, 0, 1).astype(np.float64)
    now, kept = rule.init(ours), np.zeros_like(expected)
    for number in range(3):
        g = draw.normal(size=w.shape).astype(np.float32)
        change, now = rule.update(jnp.asarray(g), now, ours)
        ours = ours + change
        theirs = g.transpose(3, 2, 0, 1)
        kept = 0.6 * kept + theirs
        expected *= np.sqrt(5) / np.linalg.norm(expected)
        expected -= 0.2 / (number + 1) * newton_schulz((theirs + 0.6 * kept).reshape(5, -1), 3).reshape(expected.shape)
        np.testing.assert_allclose(ours.transpose(3, 2, 0, 1), expected, atol=1e-5)
    with pytest.raises(ValueError, match="params must be the parameters, was None"):
        rule.update(jnp.asarray(w), now)


def test_the_rates_of_the_muon_recipe() -> None:
    """At a constant rate of 0.24 biases have 106 and the head 1,340, decayed by 0.004 in all; whitening ends."""
    found = changes(by_group.airbench_muon(0.24, weight_decay=0.004, updates_per_epoch=1), 4, gradient=1e-3)
    for name, rate in (("head/kernel", 1340), ("blocks/0/norms/0/bias", 106), ("whiten/bias", 106)):
        assert found[0][name].flat[0] == pytest.approx(-(1e-3 * rate + 0.004) * 1.85, rel=1e-4)
    falls = [bool(one["whiten/bias"].any()) for one in found]
    assert falls == [True, True, True, False] and not found[0]["whiten/kernel"].any()
    kernel = 1 + found[0]["blocks/0/convs/0/kernel"]
    constant = 1 / np.sqrt(3 * 3 * 4)  # what the norm makes of ones; their direction has one singular value, 1
    step = 0.24 * newton_schulz(np.ones((36, 5)), 3)[0, 0]
    np.testing.assert_allclose(kernel, constant - step, rtol=1e-4)
