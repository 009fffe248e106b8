"""Losses and metrics of labels of every kind: the numbers of PyTorch's formulas, in NumPy."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import train
from cnnjax.data.mixing import soft_labels

LOGITS = np.random.default_rng(0).normal(size=(4, 300)).astype(np.float32)
CLASSES = np.array([0, 1, 43, 44])


def by_hand(smoothing: float) -> float:
    wide = LOGITS.astype(np.float64)
    of_softmax = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    shares = (1 - smoothing) * np.eye(300)[CLASSES] + smoothing / 300
    return -(shares * of_softmax).sum(-1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["int32", "uint8", "int8", "int16"])
def test_classes_of_any_kind_of_int(dtype: str, smoothing: float) -> None:
    """300 classes are more than eight bits count, of which 44 + 256 is one."""
    y = jnp.asarray(CLASSES.astype(dtype))
    loss = train.cross_entropy(jnp.asarray(LOGITS), y, label_smoothing=smoothing)
    np.testing.assert_allclose(loss, by_hand(smoothing), rtol=1e-6)
    np.testing.assert_array_equal(soft_labels(y, 300, 4), np.eye(300)[CLASSES])


@pytest.mark.parametrize("wrong", [-1, 300])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_class_that_is_none_shows(wrong: int, smoothing: float) -> None:
    y = jnp.asarray([0, 1, 43, wrong])
    assert np.isnan(train.cross_entropy(jnp.asarray(LOGITS), y, label_smoothing=smoothing))


@pytest.mark.parametrize("function", [train.cross_entropy, train.accuracy, train.top_k(2)])
@pytest.mark.parametrize("y", [np.zeros((4, 1), int), np.zeros(1, int), np.zeros(300), np.zeros((4, 299))])
def test_labels_are_not_broadcast(function: Callable, y: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"labels must be int classes \(N,\) or shares .*for outputs \(4, 300\)"):
        function(jnp.asarray(LOGITS), jnp.asarray(y))
