"""Classify images with a trained net: the class probabilities as a table and a figure.

  python experiments/predict.py --workdir=runs/... digit.png photo.jpg
  python experiments/predict.py --workdir=runs/... --index=0,17

Images must have the size of the training images as they are stored, or the size that the net takes (32x32); for a run
of alexnet.py or vgg.py they may have any size. Colours are turned to gray where the net was trained on gray images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from cnnjax import data, models, report, train
from cnnjax.app import classify, process
from cnnjax.errors import UserError
from cnnjax.train.metrics import softmax

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "the folder of a run", required=True)
flags.DEFINE_integer("step", None, "which checkpoint; by default the best by validation, else the newest")
flags.DEFINE_list("index", [], "numbers of test examples to classify")
flags.DEFINE_string("data_dir", None, "where TFDS keeps its data sets, for --index; by default as in training")
flags.DEFINE_string("output", None, "the figure; by default prediction.png in the workdir")


def main(arguments: list[str]) -> None:
    """Restores the net, classifies, prints and draws."""
    state, config = train.restore(FLAGS.workdir, FLAGS.step)
    classify.require_images(FLAGS.workdir, config)
    model = train.load(models.build(config), state["params"], state["rest"])
    named = [(Path(path).name, classify.read_image(path, config)) for path in arguments] + test_examples(config)
    if not named:
        raise UserError("nothing to classify: give PNG or JPEG files, or --index=N for a test example.")
    titles, images = zip(*named, strict=True)
    canvases = np.concatenate([classify.as_input(image[None], config) for image in images])
    inputs = classify.preparation(config)(jnp.asarray(canvases, jnp.float32))
    probabilities = softmax(np.asarray(model(inputs), np.float64))
    show(titles, probabilities, config["class_names"])
    path = Path(FLAGS.output or Path(FLAGS.workdir) / "prediction.png")
    report.predictions(images, titles, probabilities, config["class_names"], path)
    print(f"checkpoint {int(state['step'])} of {FLAGS.workdir}; figure: {path}")


def test_examples(config: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
    """Returns the test examples that `--index` names, each titled with its true class."""
    if not FLAGS.index:
        return []
    dataset = data.load_dataset(config["dataset"], FLAGS.data_dir or config["data_dir"], config["input"].get("frame"))
    return [classify.test_example(dataset, number) for number in FLAGS.index]


def show(titles: tuple[str, ...], probabilities: np.ndarray, names: list[str]) -> None:
    """Prints for each image the most probable class, and ten probabilities."""
    width = max(map(len, names))
    for title, row in zip(titles, probabilities, strict=True):
        print(f"{title}: {names[row.argmax()]} ({row.max():.1%})")
        for label in np.argsort(-row, kind="stable")[:10]:
            print(f"  {names[label]:>{width}}  {row[label]:8.4f}  {'#' * round(40 * row[label])}")


if __name__ == "__main__":
    process.run(main)
