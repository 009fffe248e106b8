"""One update of LeNet-5 by the public training path, against the numbers that it gave when this was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnnjax import data, models, train

UPDATE_ME = "if you meant to change the numerics, update me; else you broke them"

LOSS = 3.205199
#: Per parameter the Euclidean norm of its change: of the gradient, times the learning rate.
CHANGES = {
    "conv1/bias": 0.0479076,
    "conv1/kernel": 0.2145704,
    "conv2/bias": 0.0554623,
    "conv2/kernel": 0.6110566,
    "dense1/bias": 0.0393527,
    "dense1/kernel": 1.0822505,
    "dense2/bias": 0.0405528,
    "dense2/kernel": 0.5152528,
    "dense3/bias": 0.0439651,
    "dense3/kernel": 0.4427784,
}
#: The first three weights of some parameters after the update.
WEIGHTS = {
    "conv1/bias": [-0.0113109, 0.0001313, 0.0106686],
    "conv1/kernel": [-0.4832797, -0.4361653, -0.1782500],
    "conv2/kernel": [-0.1976339, 0.0290196, -0.0148905],
    "dense3/kernel": [-0.1563291, 0.2659409, 0.2572328],
}


def flat(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def test_one_update_of_lenet5(tmp_path: Path) -> None:
    digits = data.digits()
    images = data.pad_to_square(digits.train_images[:64], 32)
    mean, std = data.channel_stats(images)
    model = models.build({"model": {"name": "lenet5"}, "seed": 3})
    before = jax.tree.map(np.array, train.split(model)[1])  # copies: fit donates
    result = train.fit(
        model,
        {"train": train.Examples(images, digits.train_labels[:64])},
        tmp_path,
        epochs=1,
        batch_size=64,
        learning_rate=0.1,
        optimizer="momentum",
        seed=3,
        log_every=1,
        prepare=lambda pixels: data.standardize(pixels, mean, std),
    )
    after = {name(path): np.asarray(leaf) for path, leaf in flat(result.state.params)}
    changes = {name(path): np.linalg.norm(after[name(path)] - old) for path, old in flat(before)}
    assert result.updates == 1
    assert result.records[0]["train_loss"] == pytest.approx(LOSS, rel=1e-5), UPDATE_ME
    assert changes == pytest.approx(CHANGES, rel=1e-5), UPDATE_ME
    for key, expected in WEIGHTS.items():
        np.testing.assert_allclose(after[key].ravel()[:3], expected, rtol=0, atol=1e-6, err_msg=f"{key}: {UPDATE_ME}")
