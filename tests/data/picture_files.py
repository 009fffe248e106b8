"""Folders of tiny image files, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def save(path: Path, shape: tuple[int, ...], value: int) -> None:
    """Saves an image of one gray value or colour: `(height, width)` is gray, `(height, width, 3)` colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def fill(folder: Path, counts: dict[str, int], shape: tuple[int, ...] = (6, 5)) -> None:
    """Makes folders of classes; image i of class c has the value 100 c + i."""
    for label, (name, count) in enumerate(counts.items()):
        for i in range(count):
            save(folder / name / f"{i:03}.png", shape, 100 * label + i)
