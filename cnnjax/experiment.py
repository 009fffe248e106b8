"""One image-classification experiment, from flags to pictures. Imported by experiments only."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from flax import nnx

from cnnjax import data, describe, models, report, train
from cnnjax import flags as shared
from cnnjax.errors import UserError
from cnnjax.train import run_dir
from cnnjax.train.metrics import softmax

FLAGS = flags.FLAGS

FRAME = 256 / 224
"""The sides of the images that random crops are taken of, in those of the crops, as AlexNet's paper has them."""


def run(
    name: str,
    model: Mapping[str, Any],
    recipe: Mapping[str, Any],
    *,
    size: int,
    crops: bool = False,
    ten_crop: bool | None = None,
    pixels: tuple[float, float] | str | None = None,
    first_layer: str = "conv1",
    loss: train.Loss = train.cross_entropy,
    before_epoch: Callable[[nnx.Module], train.BeforeEpoch] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Train the model that ``models.build`` knows by `model` on ``--dataset``, and report.

    Args:
      name: of the experiment, for the default workdir.
      model: name and keywords; the number of classes and of channels come from the data set.
      recipe: the values of the flags that were not given.
      size: of the square images that the model takes; smaller ones are enlarged or framed, see `data.pad_to_square`.
      crops: instead, images of any size are resized, see `data.resize`: with ``--augment`` to 8/7 of `size`, of which
        the model sees random crops, mirrored and with jittered colours; without it to `size`.
      ten_crop: of crops, evaluate by the mean over ten, see `data.ten_crops`, and not by the middle one alone; by
        default with ``--augment``.
      pixels: what 0 and 255 become; by default pixels are brought to mean 0 and deviation 1 per channel, with
        "centred" to mean 0.
      first_layer: whose kernels are drawn: its path in the parameters, as "blocks/0/conv".
      loss, before_epoch: as for `train.fit`; before_epoch is made of the model.
      settings: what else decides the numbers, for the config.
    """
    options = shared.options(recipe)
    if options.optimizer == "sdlm" and before_epoch is None:
        raise UserError("--optimizer=sdlm needs the curvature that --variant=1998 computes; choose another optimizer.")
    frame = None
    if crops:
        frame = round(size * FRAME) if options.augment else size
        ten_crop = options.augment if ten_crop is None else ten_crop
    folder = Path(FLAGS.workdir) if FLAGS.workdir else run_dir.dated(Path("runs"), name)
    with run_dir.claim(folder):
        dataset = data.load(FLAGS.dataset, FLAGS.data_dir, frame)
        splits = examples(dataset, options, frame or size)
        config = {**configuration(name, model, dataset, splits["train"], options, pixels), **(settings or {})}
        views = None
        if frame is not None:
            config["input"] |= {"size": size, "frame": frame, "ten_crop": ten_crop}
            views = partial(data.ten_crops, size=size) if ten_crop else lambda x: data.centre_crop(x, size)[None]
        net = models.build(config)
        introduce(folder, config, splits)
        describe(net, (size, size, config["model"]["channels"]))
        result = train.fit(
            net,
            splits["train"],
            splits["test"],
            splits.get("validation"),
            options,
            folder,
            config,
            prepare=preparation(config),
            augment=augmentation(config, splits["train"].images),
            views=views,
            loss=loss,
            before_epoch=before_epoch(net) if before_epoch else None,
        )
        if result.logits is None:
            print(
                f"stopped after update {int(result.state.step)}, saved. Go on with: {shared.command_to_go_on(folder)}"
            )
            return
        draw(folder, result, splits["test"], dataset.class_names, first_layer)
        summarize(folder, result)


def examples(dataset: data.Dataset, options: train.Options, size: int) -> dict[str, train.Examples]:
    """The splits of a data set as squares of `size`: train, test and, if asked for, validation."""
    held = data.hold_out(dataset, options.validation, options.seed)
    splits = {
        "train": train.Examples(*held[:2]),
        "validation": train.Examples(*held[2:]),
        "test": train.Examples(dataset.test_images, dataset.test_labels),
    }
    return {
        name: train.Examples(data.pad_to_square(split.images, size), split.labels)
        for name, split in splits.items()
        if len(split.labels)
    }


def configuration(
    name: str,
    model: Mapping[str, Any],
    dataset: data.Dataset,
    training: train.Examples,
    options: train.Options,
    pixels: tuple[float, float] | str | None,
) -> dict[str, Any]:
    """What ``config.json`` and each checkpoint hold: what decides the numbers, and what a user of them needs."""
    channels = training.images.shape[-1]
    if pixels is None:
        mean, std = data.channel_stats(training.images)
    elif isinstance(pixels, str):
        mean, std = data.channel_stats(training.images)[0], (1 / 255,) * channels
    else:
        paper, ink = pixels
        mean, std = ((-paper / (ink - paper),) * channels, (1 / (ink - paper),) * channels)
    return {
        "experiment": name,
        "dataset": FLAGS.dataset,
        "data_dir": FLAGS.data_dir,
        "data_crc32": zlib.crc32(training.labels.tobytes(), zlib.crc32(np.ascontiguousarray(training.images).data)),
        "class_names": list(dataset.class_names),
        "model": {**model, "num_classes": len(dataset.class_names), "channels": channels},
        "input": {"size": training.images.shape[1], "stored_shape": list(dataset.test_images.shape[1:])}
        | {"mean": list(mean), "std": list(std)},
        **dataclasses.asdict(options),
        "environment": run_dir.environment(),
    }


def preparation(config: Mapping[str, Any]) -> train.Prepare:
    """The function that turns pixels 0..255 into the input of the model of a run's config."""
    mean, std = config["input"]["mean"], config["input"]["std"]
    return lambda pixels: data.standardize(pixels, mean, std)


def augmentation(config: Mapping[str, Any], training: np.ndarray) -> train.Augment | None:
    """What is done to the training images of a run's config: ``augment(key, pixels) -> pixels``, or None for nothing.

    training: all of them, uint8 (N, H, W, C).
    """
    size, frame = config["input"]["size"], config["input"].get("frame")
    if frame is None:
        return data.augment_for(config["model"]["channels"]) if config.get("augment") else None
    if not config.get("augment"):
        return lambda key, pixels: data.centre_crop(pixels, size)
    axes = data.colour_axes(training)

    def changed(key: jax.Array, pixels: jax.Array) -> jax.Array:
        place, colour = jax.random.split(key)
        return data.pca_jitter(colour, data.crop_flip(place, pixels, pad=0, size=size), axes)

    return changed


def as_input(images: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """Images as the net of a run's config takes them, uint8 (N, size, size, C): of a frame, its middle."""
    size, frame = config["input"]["size"], config["input"].get("frame")
    if frame is None:
        return data.pad_to_square(images, size)
    return np.asarray(data.centre_crop(data.resize(images, frame), size))


def read_image(path: str, config: Mapping[str, Any]) -> np.ndarray:
    """An image file as uint8 (H, W, channels), of the size that the run of this config was trained on, if of one."""
    from PIL import Image, UnidentifiedImageError

    height, width, channels = config["input"]["stored_shape"]
    size = config["input"]["size"]
    try:
        with Image.open(path) as file:
            image = np.asarray(file.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError:
        raise UserError(f"{path} is no image that Pillow can read: give a PNG or JPEG file.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if "frame" not in config["input"] and image.shape[:2] not in {(height, width), (size, size)}:
        raise UserError(
            f"{path} has {image.shape[0]}x{image.shape[1]} pixels (height x width); "
            f"this net was trained on {config['dataset']}: resize it to {height}x{width}."
        )
    return image.reshape(*image.shape[:2], channels)


def require_images(folder: str, config: Mapping[str, Any]) -> None:
    """Raise UserError where the run in a folder was not trained on images."""
    if "input" not in config:
        raise UserError(f"{folder} holds a run on {config.get('dataset')}: only nets of images can be looked at.")


def test_example(dataset: data.Dataset, index: str) -> tuple[str, np.ndarray]:
    """A test example by its number as ``--index`` gave it: a title with its true class, and the image."""
    if not index.strip().isdigit() or int(index) >= len(dataset.test_labels):
        raise UserError(f"--index={index}: must be a number from 0 to {len(dataset.test_labels) - 1}.")
    true = dataset.class_names[dataset.test_labels[int(index)]]
    return f"test {int(index)} (true: {true})", dataset.test_images[int(index)]


def introduce(folder: Path, config: Mapping[str, Any], splits: Mapping[str, train.Examples]) -> None:
    """Say what is about to run where."""
    device = config["environment"]["device"]
    counts = ", ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
    print(f"{config['experiment']} on {config['dataset']} ({counts}), {jax.local_device_count()} x {device}: {folder}")


def draw(
    folder: Path, result: train.Result, test: train.Examples, names: list[str] | tuple[str, ...], first_layer: str
) -> None:
    """Leave the pictures of a finished run in its folder and among its TensorBoard events."""
    assert result.logits is not None
    first = result.state.params
    for name in first_layer.split("/"):
        first = first[int(name) if name.isdigit() else name]
    report.curves(result.records, folder / "curves.png")
    report.kernels(np.asarray(first["kernel"]), folder / "kernels.png")
    report.confusion(test.labels, result.logits.argmax(-1), names, folder / "confusion.png")
    report.mistakes(test.images, test.labels, softmax(result.logits), names, folder / "mistakes.png")
    train.add_pictures(folder, int(result.state.step), ["curves", "kernels", "confusion", "mistakes"])


def summarize(folder: Path, result: train.Result) -> None:
    """Print what came out of a run on images and where everything is."""
    outcome(result)
    print(
        f"everything is in {folder}: config.json, metrics.jsonl, checkpoints/, events/ (tensorboard --logdir={folder}),"
    )
    print("  curves.png, kernels.png, confusion.png, mistakes.png")
    print(f"classify an image with: python experiments/predict.py --workdir={folder} IMAGE")
    print(f"look inside with: python experiments/visualize.py --workdir={folder}")


def outcome(result: train.Result) -> None:
    """Print the scores of a finished run, a word where it overfitted, and the time that it took."""
    tested = [record for record in result.records if "test_accuracy" in record]
    last = tested[-1]
    print(f"\ntest accuracy {last['test_accuracy']:.2%}, loss {last['test_loss']:.4f}", end="")
    print(f" after {last['epoch']} epochs ({int(result.state.step):,} updates)")
    if "validation_loss" in last:
        best = min(tested, key=lambda record: record["validation_loss"])
        print(
            f"best by validation: epoch {best['epoch']}, validation accuracy {best['validation_accuracy']:.2%}", end=""
        )
        print(f", test accuracy {best['test_accuracy']:.2%}")
    if word := overfitting(result.records):
        print(word)
    if result.updates:
        print(f"{result.updates:,} updates in {result.seconds:.1f} s, evaluations and compiling included")


def overfitting(records: Sequence[report.Record]) -> str | None:
    """A sentence if the test loss has turned, by more than a twentieth of its lowest, while the train loss fell on."""
    epochs, tested = report.by_epoch(records, "test_loss")
    trained = dict(zip(*report.by_epoch(records, "train_loss"), strict=True))
    lowest = int(np.argmin(tested))
    turn, last = epochs[lowest], epochs[-1]
    if not {turn, last} <= trained.keys() or tested[-1] <= 1.05 * tested[lowest] or trained[last] >= trained[turn]:
        return None
    return (
        f"the test loss turned after epoch {turn} ({tested[lowest]:.4f}, at the end {tested[-1]:.4f}) "
        f"while the train loss fell from {trained[turn]:.4f} to {trained[last]:.4f}: the net overfits"
    )
