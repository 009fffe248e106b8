"""Data sets and a net of one's own, as files so small that a script trains on them in a blink."""

from __future__ import annotations

from pathlib import Path

import numpy as np

CLASSES = 3
NET = '''
import jax
from flax import nnx


class Small(nnx.Module):
    """A convolution, a mean over its map, and a dense layer."""

    def __init__(self, num_classes, channels, width=4, *, rngs):
        self.conv = nnx.Conv(channels, width, (3, 3), rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))


def none(num_classes):
    return num_classes
'''


def write_net(folder: Path) -> None:
    """Writes `my_nets.py`."""
    (folder / "my_nets.py").write_text(NET)


def write_npz(path: Path, train: int = 24, test: int = 9) -> None:
    """Writes 8x8 gray images, the brighter the higher their class."""
    draw = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % CLASSES
        noise = draw.integers(0, 40, (count, 8, 8))
        arrays |= {f"x_{part}": (noise + 80 * labels[:, None, None]).astype(np.uint8), f"y_{part}": labels}
    np.savez(path, **arrays)
