"""The pictures of a finished run on images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import report, train
from cnnjax.app.augmentation import SETTINGS
from cnnjax.app.examples import Prepared
from cnnjax.data import CorruptExample
from cnnjax.train.metrics import softmax


def draw(
    folder: Path,
    result: train.Result,
    prepared: Prepared,
    config: Mapping[str, Any],
    first_layer: str | None,
) -> list[str]:
    """Draws the pictures into a run's folder and its TensorBoard events; returns their names."""
    outputs, labels, names = result.outputs, result.labels, prepared.class_names
    test = prepared.splits(seed=0)["test"]
    augmented = any(config.get(name) for name in (*SETTINGS, "random_resized_crops") if name != "flip")
    report.curves(result.records, folder / "curves.png", augmented=augmented)
    drawn = ["curves"]
    kernel = first_kernel(train.split(result.model)[1], first_layer)  # whole, where the state's may be sharded
    if kernel is not None:
        drawn += [path.stem for path in report.kernels(kernel, folder / "kernels.png")]
    report.confusion(labels, outputs.argmax(-1), names, folder / "confusion.png")
    numbers = None if len(labels) == len(test) else readable(test)
    report.mistakes(Images(test), labels, softmax(outputs), names, folder / "mistakes.png", numbers=numbers)
    drawn += ["confusion", "mistakes"]
    train.add_pictures(folder, int(result.state.step), drawn)
    return drawn


def readable(test: Any) -> list[int]:
    """Returns the numbers of the test examples that can be read: those that were scored, where some were skipped."""
    return [number for number in range(len(test)) if is_readable(test, number)]


def is_readable(source: Any, number: int) -> bool:
    """Returns whether an example can be read."""
    try:
        source[number]
    except CorruptExample:
        return False
    return True


class Images:
    """The images of some examples, each read when it is asked for: a picture shows a few of them.

    Args:
      examples: arrays, or a source of `(image, label)`.
    """

    def __init__(self, examples: Any):
        self._examples = examples

    def __getitem__(self, number: Any, /) -> np.ndarray:
        """Returns an image, `(H, W, C)` uint8."""
        if isinstance(self._examples, train.Examples):
            return self._examples.x[number]
        return self._examples[int(number)][0]


def first_kernel(params: Any, layer: str | None) -> np.ndarray | None:
    """Returns the kernel (H, W, C, F) of the layer at a path; for None, of the first 2-D convolution."""
    if layer is not None:
        for name in layer.split("/"):
            params = params[int(name) if name.isdigit() else name]
        return np.asarray(params["kernel"])
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim == 4 and leaf.shape[2] in (1, 3)]
    return next((kernel for kernel in kernels if kernel.shape[:2] != (1, 1)), None)
