"""Update rules and schedules against the formulas, and against PyTorch where it is installed."""

from __future__ import annotations

import math

import numpy as np
import optax
import pytest

from cnnjax.train.optimizers import OPTIMIZERS, max_norm, optimizer, schedule


def trajectory(rule: optax.GradientTransformation, steps: int = 5) -> np.ndarray:
    """w after each step of descent on the sum of w^4 / 4, from (1, -2, 0.5)."""
    w = np.array([1.0, -2.0, 0.5], np.float32)
    state, path = rule.init(w), []
    for _ in range(steps):
        change, state = rule.update(w**3, state, w)
        w = optax.apply_updates(w, change)
        path.append(np.asarray(w))
    return np.stack(path)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"sdlm"}))  # which PyTorch lacks
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
    path = []
    for _ in range(5):
        w.grad = w.detach() ** 3
        rule.step()
        path.append(w.detach().numpy().copy())
    np.testing.assert_allclose(trajectory(optimizer(name, 0.05, weight_decay=weight_decay)), path, rtol=2e-5)


def test_sgd_by_hand() -> None:
    np.testing.assert_allclose(trajectory(optimizer("sgd", 0.1), 1), [[0.9, -1.2, 0.4875]], rtol=1e-6)


def test_grad_clip_bounds_the_global_norm() -> None:
    path = trajectory(optimizer("sgd", 1.0, grad_clip=0.25), 1)
    assert np.linalg.norm(path[0] - [1.0, -2.0, 0.5]) == pytest.approx(0.25, rel=1e-5)


def test_schedules_by_hand() -> None:
    constant, cosine, onecycle = (schedule(name, 0.4, 100) for name in ("constant", "cosine", "onecycle"))
    assert float(constant(70)) == pytest.approx(0.4)
    assert float(cosine(0)) == pytest.approx(0.4)
    assert float(cosine(25)) == pytest.approx(0.4 * (1 + math.cos(math.pi / 4)) / 2)
    assert float(cosine(100)) == pytest.approx(0, abs=1e-7)
    assert float(onecycle(0)) == pytest.approx(0.4 / 25)
    assert float(onecycle(30)) == pytest.approx(0.4)
    assert float(onecycle(100)) == pytest.approx(0.4 / 25 / 1e4)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"optimizer must be one of sgd, .*was 'lion'"):
        optimizer("lion", 0.1)
    with pytest.raises(ValueError, match=r"schedule must be one of constant, .*was 'linear'"):
        schedule("linear", 0.1, 10)


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
