"""A trained net of a run's folder, and the images to show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import data, models, train
from cnnjax.data import preprocess
from cnnjax.errors import UserError
from cnnjax.train.devices import data_mesh


class TrainedNet(NamedTuple):
    """Holds a trained net, in evaluation mode.

    Attributes:
      model: the net; its weights are the moving average where one was kept.
      spec: of its input.
      step: number of updates done.
      config: of its run.
    """

    model: nnx.Module
    spec: data.InputSpec
    step: int
    config: dict[str, Any]


def restore(folder: str, step: int | None = None) -> TrainedNet:
    """Restores the net of a run.

    Args:
      folder: of the run.
      step: which checkpoint; by default the best by validation, else the newest.

    Raises:
      UserError: no such run or checkpoint, a damaged one, or a net that was not trained on images.
    """
    state, config = train.restore(folder, step)
    if "input" not in config:
        what = config.get("dataset", "data of one's own")
        raise UserError(f"{folder} holds a run on {what}: only nets of images can be looked at.")
    model = train.load(models.build(config), state.get("average") or state["params"], state["rest"])
    return TrainedNet(model, data.InputSpec.from_json(config["input"]), int(state["step"]), config)


def dataset_of(config: Mapping[str, Any], data_dir: str | None) -> data.OpenDataset:
    """Opens the data set that a run was trained on; by default where the run found it."""
    return data.open_dataset(config["dataset"], data_dir or config["data_dir"], test_share=config["test_share"])


def in_memory(config: Mapping[str, Any], data_dir: str | None) -> data.Dataset:
    """Loads the data set that a run was trained on, its images resized as the run's were."""
    resize_to = data.InputSpec.from_json(config["input"]).resize_to
    return data.load_dataset(
        config["dataset"], data_dir or config["data_dir"], resize_to, test_share=config["test_share"]
    )


def predict(net: TrainedNet, images: np.ndarray) -> np.ndarray:
    """Returns a net's outputs `(N, classes)` for images as training holds them, by the views its run evaluates."""
    graph, params, rest = train.split(net.model)
    state = train.TrainState(params, rest, (), jnp.zeros((), jnp.int32))
    by_views = net.spec.evaluation_views()
    return np.asarray(train.make_predict(graph, data_mesh(), net.spec.prepare, views=by_views)(state, images))


def test_example(dataset: data.OpenDataset, spec: data.InputSpec, index: str) -> tuple[str, np.ndarray, int]:
    """Returns the test example of a number: a title, the image, resized as the run's were, and the true class.

    Raises:
      UserError: there is no such example, or it cannot be read.
    """
    if not index.strip().isdecimal() or int(index) >= len(dataset.test):
        raise UserError(f"--index={index}: must be a number from 0 to {len(dataset.test) - 1}.")
    image, label = dataset.test[int(index)]
    if spec.resize_to is not None:
        image = preprocess.resize_image(image, spec.resize_to)
    return f"test {int(index)} (true: {dataset.class_names[int(label)]})", image, int(label)
