"""A net and data small enough to train in a test's blink: 4x4 images whose class is their brightest quadrant."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import train
from cnnjax.train import checkpoint, loop


class Tiny(nnx.Module):
    """Batch norm (so that there is state beside the parameters) and a dense layer."""

    def __init__(self, width: int = 16, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.conv1 = nnx.Linear(width, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv1(self.norm(x.reshape(len(x), -1)))


def examples(count: int, seed: int) -> train.Examples:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 4, count).astype(np.int32)
    images = draw.integers(0, 120, (count, 4, 4, 1)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 90
    return train.Examples(images, labels)


def fit(folder: Path, options: train.Options, model: nnx.Module | None = None, **changes: Any) -> train.Result:
    """`train.fit` on 96 examples, with 37 to test on (no multiple of anything)."""
    settings = dataclasses.asdict(options)
    data = {"train": examples(96, 1), "test": examples(37, 2)}
    if settings.pop("validation"):
        data["validation"] = examples(20, 3)
    arguments: dict[str, Any] = {"prepare": scaled, **settings, **changes}
    model = model or Tiny(rngs=nnx.Rngs(options.seed))
    return train.fit(model, arguments.pop("data", data), folder, **arguments)


def scaled(pixels: jax.Array) -> jax.Array:
    return pixels / 255


OPTIONS = train.Options(epochs=4, batch_size=16, learning_rate=0.05, checkpoint_every=5, log_every=1)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """Those of a run's newest checkpoint."""
    found = checkpoint.read_newest(folder)
    assert found is not None
    return found.arrays


def same_bits(one: Path, other: Path) -> bool:
    a, b = arrays(one), arrays(other)
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def interrupt_at(number: int, what: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal when update `number` is recorded."""
    record = loop.Run.record

    def recording(self: loop.Run, n: int, values: Mapping[str, float]) -> None:
        record(self, n, values)
        if n == number:
            os.kill(os.getpid(), what)

    monkeypatch.setattr(loop.Run, "record", recording)
