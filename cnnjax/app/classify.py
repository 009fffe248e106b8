"""An experiment on images, from flags to pictures.

Other scripts find here how a run turned images into input.
"""

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
from cnnjax.app import flags as shared
from cnnjax.app.summary import print_files, print_header, print_scores
from cnnjax.errors import UserError
from cnnjax.train import run_dir
from cnnjax.train.metrics import softmax

FLAGS = flags.FLAGS

RESIZE_RATIO = 256 / 224
"""Resize-to-crop ratio of AlexNet."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """Describes an experiment on images: net, recipe, input.

    Attributes:
      name: of the experiment, for the default workdir.
      model: name and keywords for `models.build`; the number of classes and channels come from the data set.
      recipe: values of the flags that are not given.
      size: side of the square images that the model takes; smaller ones are padded, see `data.pad_to_square`.
      crops: instead, resize images of any size, see `data.resize`: with `--augment` to 8/7 of `size`, of which the
        model sees random crops, mirrored and with jittered colours; without it to `size`.
      ten_crop: with `crops`, evaluate by the mean over ten crops, see `data.ten_crops`, not by the centre crop alone;
        by default with `--augment`.
      pixels: what 0 and 255 become; by default pixels are standardised to mean 0 and deviation 1 per channel, with
        `"centred"` to mean 0 only.
      first_layer: layer whose kernels are drawn: its path in the parameters, such as `"blocks/0/conv"`.
      loss: as for `train.fit`.
      before_epoch: makes `train.fit`'s argument from the model.
      settings: what else decides the numbers, for the config.
    """

    name: str
    model: Mapping[str, Any]
    recipe: Mapping[str, Any]
    size: int
    crops: bool = False
    ten_crop: bool | None = None
    pixels: tuple[float, float] | str | None = None
    first_layer: str = "conv1"
    loss: train.Loss = train.cross_entropy
    before_epoch: Callable[[nnx.Module], train.BeforeEpoch] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def resize_to(self, options: train.Options) -> int | None:
        """Returns the side to resize to before cropping; None where images are padded."""
        if not self.crops:
            return None
        return round(self.size * RESIZE_RATIO) if options.augment else self.size


def run(experiment: Experiment) -> None:
    """Trains the experiment's net on `--dataset`, or resumes its run, and reports."""
    options = shared.options(experiment.recipe)
    if options.optimizer == "sdlm" and experiment.before_epoch is None:
        raise UserError("--optimizer=sdlm needs the curvature that --variant=1998 computes; choose another optimizer.")
    folder = Path(FLAGS.workdir) if FLAGS.workdir else run_dir.dated(Path("runs"), experiment.name)
    with run_dir.claim(folder):
        resize_to = experiment.resize_to(options)
        dataset = data.load_dataset(FLAGS.dataset, FLAGS.data_dir, resize_to)
        splits = examples(dataset, options, resize_to or experiment.size)
        config = configuration(experiment, dataset, splits["train"], options)
        net = models.build(config)
        print_header(folder, config, splits)
        describe(net, (experiment.size, experiment.size, config["model"]["channels"]))
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
            views=evaluation_views(config),
            loss=experiment.loss,
            before_epoch=experiment.before_epoch(net) if experiment.before_epoch else None,
        )
        if result.logits is None:
            step = int(result.state.step)
            print(f"stopped after update {step}, saved. Go on with: {shared.command_to_go_on(folder)}")
            return
        draw(folder, result, splits["test"], dataset.class_names, experiment.first_layer)
        print_scores(result)
        print_files(folder)


def examples(dataset: data.Dataset, options: train.Options, size: int) -> dict[str, train.Examples]:
    """Returns the splits of a data set as squares of `size`.

    They are train, test and, if asked for, validation.
    """
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
    experiment: Experiment, dataset: data.Dataset, training: train.Examples, options: train.Options
) -> dict[str, Any]:
    """Returns what `config.json` and each checkpoint hold.

    That is what decides the numbers, and what users of the net need.
    """
    channels = training.images.shape[-1]
    mean, std = mean_and_std(experiment.pixels, training.images)
    resize_to, ten_crop = experiment.resize_to(options), experiment.ten_crop
    crops: dict[str, Any] = {}
    if resize_to is not None:
        crops = {"frame": resize_to, "ten_crop": options.augment if ten_crop is None else ten_crop}
    return {
        "experiment": experiment.name,
        "dataset": FLAGS.dataset,
        "data_dir": FLAGS.data_dir,
        "data_crc32": zlib.crc32(training.labels.tobytes(), zlib.crc32(np.ascontiguousarray(training.images).data)),
        "class_names": list(dataset.class_names),
        "model": {**experiment.model, "num_classes": len(dataset.class_names), "channels": channels},
        "input": {
            "size": experiment.size,
            "stored_shape": list(dataset.test_images.shape[1:]),
            "mean": list(mean),
            "std": list(std),
            **crops,
        },
        **dataclasses.asdict(options),
        "environment": run_dir.environment(),
        **experiment.settings,
    }


def mean_and_std(
    pixels: tuple[float, float] | str | None, images: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std per channel that turn 0 and 255 into `pixels`.

    They are as `data.standardize` takes them.
    """
    channels = images.shape[-1]
    if pixels is None:
        return data.channel_stats(images)
    if isinstance(pixels, str):  # "centred"
        return data.channel_stats(images)[0], (1 / 255,) * channels
    low, high = pixels
    return (-low / (high - low),) * channels, (1 / (high - low),) * channels


def preparation(config: Mapping[str, Any]) -> train.Prepare:
    """Returns the function that turns pixels 0..255 into the net's input."""
    mean, std = config["input"]["mean"], config["input"]["std"]
    return lambda pixels: data.standardize(pixels, mean, std)


def augmentation(config: Mapping[str, Any], training: np.ndarray) -> train.Augment | None:
    """Returns the augmentation of a run, for `train.fit`; None where images stay as they are.

    Args:
      config: the run's.
      training: all training images, uint8 `(N, H, W, C)`.
    """
    size = config["input"]["size"]
    if "frame" not in config["input"]:
        return data.augment_for(config["model"]["channels"]) if config.get("augment") else None
    if not config.get("augment"):
        return lambda key, pixels: data.centre_crop(pixels, size)
    axes = data.colour_axes(training)

    def crop_and_jitter(key: jax.Array, pixels: jax.Array) -> jax.Array:
        crop_key, colour_key = jax.random.split(key)
        return data.pca_jitter(colour_key, data.crop_flip(crop_key, pixels, pad=0, size=size), axes)

    return crop_and_jitter


def evaluation_views(config: Mapping[str, Any]) -> train.Views | None:
    """Returns the views by which a net is evaluated; None for the whole image."""
    size = config["input"]["size"]
    if "frame" not in config["input"]:
        return None
    if config["input"]["ten_crop"]:
        return partial(data.ten_crops, size=size)
    return lambda images: data.centre_crop(images, size)[None]


def as_input(images: np.ndarray, config: Mapping[str, Any]) -> np.ndarray:
    """Returns images as the net of a run's config takes them, uint8 (N, size, size, C)."""
    size, resize_to = config["input"]["size"], config["input"].get("frame")
    if resize_to is None:
        return data.pad_to_square(images, size)
    return data.centre_crop(data.resize(images, resize_to), size)


def read_image(path: str, config: Mapping[str, Any]) -> np.ndarray:
    """Reads an image file as uint8 (H, W, channels).

    Raises UserError where the net of this config cannot take its size.
    """
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
    """Raises UserError where the run in a folder was not trained on images."""
    if "input" not in config:
        raise UserError(f"{folder} holds a run on {config.get('dataset')}: only nets of images can be looked at.")


def test_example(dataset: data.Dataset, index: str) -> tuple[str, np.ndarray]:
    """Returns the test example of a number: a title and the image.

    The title has the true class.
    """
    if not index.strip().isdigit() or int(index) >= len(dataset.test_labels):
        raise UserError(f"--index={index}: must be a number from 0 to {len(dataset.test_labels) - 1}.")
    true = dataset.class_names[dataset.test_labels[int(index)]]
    return f"test {int(index)} (true: {true})", dataset.test_images[int(index)]


def draw(folder: Path, result: train.Result, test: train.Examples, names: Sequence[str], first_layer: str) -> None:
    """Draws the pictures of a finished run into its folder and its TensorBoard events."""
    assert result.logits is not None
    first = result.state.params
    for name in first_layer.split("/"):
        first = first[int(name) if name.isdigit() else name]
    report.curves(result.records, folder / "curves.png")
    report.kernels(np.asarray(first["kernel"]), folder / "kernels.png")
    report.confusion(test.labels, result.logits.argmax(-1), names, folder / "confusion.png")
    report.mistakes(test.images, test.labels, softmax(result.logits), names, folder / "mistakes.png")
    train.add_pictures(folder, int(result.state.step), ["curves", "kernels", "confusion", "mistakes"])
