"""The pictures of a finished run on images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import report, train
from cnnjax.app.augmentation import SETTINGS
from cnnjax.train.metrics import softmax


def draw(
    folder: Path,
    result: train.Result,
    test: train.Examples,
    names: Sequence[str],
    config: Mapping[str, Any],
    first_layer: str | None,
) -> list[str]:
    """Draws the pictures into a run's folder and its TensorBoard events; returns their names."""
    outputs = result.outputs
    report.curves(result.records, folder / "curves.png", augmented=any(config.get(name) for name in SETTINGS))
    drawn = ["curves"]
    kernel = first_kernel(result.state.params, first_layer)
    if kernel is not None:
        drawn += [path.stem for path in report.kernels(kernel, folder / "kernels.png")]
    report.confusion(test.y, outputs.argmax(-1), names, folder / "confusion.png")
    report.mistakes(test.x, test.y, softmax(outputs), names, folder / "mistakes.png")
    drawn += ["confusion", "mistakes"]
    train.add_pictures(folder, int(result.state.step), drawn)
    return drawn


def first_kernel(params: Any, layer: str | None) -> np.ndarray | None:
    """Returns the kernel (H, W, C, F) of the layer at a path; for None, of the first 2-D convolution."""
    if layer is not None:
        for name in layer.split("/"):
            params = params[int(name) if name.isdigit() else name]
        return np.asarray(params["kernel"])
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim == 4 and leaf.shape[2] in (1, 3)]
    return next((kernel for kernel in kernels if kernel.shape[:2] != (1, 1)), None)
