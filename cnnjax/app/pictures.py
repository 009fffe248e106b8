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
from cnnjax.train.metrics import softmax


def draw(
    folder: Path,
    result: train.Result,
    prepared: Prepared,
    config: Mapping[str, Any],
    first_layer: str | None,
) -> list[str]:
    """Draws the pictures into a run's folder and its TensorBoard events; returns their names."""
    outputs, names = result.outputs, prepared.class_names
    labels, images = labels_of(prepared), Images(prepared)
    report.curves(result.records, folder / "curves.png", augmented=any(config.get(name) for name in SETTINGS))
    drawn = ["curves"]
    kernel = first_kernel(result.state.params, first_layer)
    if kernel is not None:
        drawn += [path.stem for path in report.kernels(kernel, folder / "kernels.png")]
    report.confusion(labels, outputs.argmax(-1), names, folder / "confusion.png")
    report.mistakes(images, labels, softmax(outputs), names, folder / "mistakes.png")
    drawn += ["confusion", "mistakes"]
    train.add_pictures(folder, int(result.state.step), drawn)
    return drawn


def labels_of(prepared: Prepared) -> np.ndarray:
    """Returns the classes of the test examples, which are not decoded for it."""
    test = prepared.test
    return test.y if isinstance(test, train.Examples) else np.array([test.read(i).label for i in range(len(test))])


class Images:
    """The test images, each read when it is asked for: a picture shows a few of them."""

    def __init__(self, prepared: Prepared):
        self._examples = prepared.splits(seed=0)["test"]

    def __getitem__(self, index: int) -> np.ndarray:
        if isinstance(self._examples, train.Examples):
            return self._examples.x[index]
        return self._examples[int(index)][0]


def first_kernel(params: Any, layer: str | None) -> np.ndarray | None:
    """Returns the kernel (H, W, C, F) of the layer at a path; for None, of the first 2-D convolution."""
    if layer is not None:
        for name in layer.split("/"):
            params = params[int(name) if name.isdigit() else name]
        return np.asarray(params["kernel"])
    kernels = [np.asarray(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim == 4 and leaf.shape[2] in (1, 3)]
    return next((kernel for kernel in kernels if kernel.shape[:2] != (1, 1)), None)
