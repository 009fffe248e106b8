"""Classify images with a trained net: the class probabilities as a table and a figure.

  python experiments/predict.py --workdir=runs/... digit.png photo.jpg
  python experiments/predict.py --workdir=runs/... --index=0,17

Images may have any size: they are resized to that of the training images. Colours are turned to gray where the net was
trained on gray images.
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from cnnjax.app import garbage, interruptions

    interruptions.install()
    garbage.pause()

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags

from cnnjax import data, report
from cnnjax.app import process
from cnnjax.app.restored import TrainedNet, dataset_of, restore, test_example
from cnnjax.errors import UserError
from cnnjax.train.metrics import softmax

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "the folder of a run", required=True)
flags.DEFINE_integer("step", None, "which checkpoint; by default the best by validation, else the newest")
flags.DEFINE_list("index", [], "numbers of test examples to classify")
flags.DEFINE_string("data_dir", None, "where TFDS keeps its data sets, for --index; by default as in training")
flags.DEFINE_string("output", None, "the figure; by default prediction.png in the workdir")

SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def main(arguments: list[str]) -> None:
    """Restores the net, classifies, prints and draws."""
    path = Path(FLAGS.output or Path(FLAGS.workdir) / "prediction.png")
    if path.parent.is_file():
        raise UserError(f"--output={path}: {path.parent} is a file, not a folder.")
    if path.suffix not in SUFFIXES:
        raise UserError(f"--output={path} must end in one of {', '.join(SUFFIXES)}.")
    net = restore(FLAGS.workdir, FLAGS.step)
    named = [(Path(file).name, read(file, net)) for file in arguments] + test_examples(net)
    if not named:
        raise UserError("nothing to classify: give PNG or JPEG files, or --index=N for a test example.")
    titles, images = zip(*named, strict=True)
    inputs = net.spec.prepare(jnp.asarray(np.concatenate([net.spec.as_input(one[None]) for one in images])))
    probabilities = softmax(np.asarray(net.model(inputs), np.float64))
    names = net.config["class_names"]
    show(titles, probabilities, names)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = report.predictions(images, titles, probabilities, names, path)
    print(f"checkpoint {net.step} of {FLAGS.workdir}; figure: {', '.join(map(str, drawn))}")


def read(file: str, net: TrainedNet) -> np.ndarray:
    """Reads an image file; says so where it looks like the negative of what the net has learned from."""
    image = data.read_image(file, net.spec)
    if data.looks_inverted(image, net.spec.brightness):
        print(
            f"warning: {file} looks inverted: bright where the training images are dark. The answer may be wrong; "
            "invert it first.",
            file=sys.stderr,
        )
    return image


def test_examples(net: TrainedNet) -> list[tuple[str, np.ndarray]]:
    """Returns the test examples that `--index` names, each titled with its true class."""
    if not FLAGS.index:
        return []
    dataset = dataset_of(net.config, FLAGS.data_dir)
    return [test_example(dataset, net.spec, number)[:2] for number in FLAGS.index]


def show(titles: tuple[str, ...], probabilities: np.ndarray, names: list[str]) -> None:
    """Prints for each image the most probable class, and ten probabilities."""
    if not np.isfinite(probabilities).all():
        raise UserError("the net gives NaN for these images: its run diverged, so there is nothing to predict.")
    width = max(map(len, names))
    for title, row in zip(titles, probabilities, strict=True):
        print(f"{title}: {names[row.argmax()]} ({row.max():.1%})")
        for label in np.argsort(-row, kind="stable")[:10]:
            print(f"  {names[label]:>{width}}  {row[label]:8.4f}  {'#' * round(40 * row[label])}")


if __name__ == "__main__":
    process.run(main)
