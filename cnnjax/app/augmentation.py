"""What a run on images changes at random, as the flags ask: images first, then pairs of images and labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from absl import flags

from cnnjax import data, train
from cnnjax.app.examples import Prepared
from cnnjax.errors import UserError
from cnnjax.train.step import apply_augment

FLAGS = flags.FLAGS
SETTINGS = ("augment", "flip", "jitter", "cutout", "mixup", "cutmix", "label_smoothing")
"""Flags that decide what training sees."""


def augmentation(
    prepared: Prepared, *, whole_cutout: bool = False, own: train.Augment | None = None, **crop: Any
) -> train.Augment | None:
    """Returns the augmentation that the flags ask for, for `train.fit`; None where images stay as they are.

    Args:
      prepared: the data.
      whole_cutout: whether `--cutout` covers whole squares, by the mean colour; else what of them is inside, by black.
      own: what `--augment` does in place of the usual, alone.
      **crop: `pad` and `mode` of `data.crop_flip`, of images that are not larger than what the net sees.

    Raises:
      UserError: `--cutout` is larger than the images; or `--flip` is for images that are not mirrored.
    """
    spec = prepared.spec
    if own is not None and FLAGS.augment:
        for name in ("jitter", "cutout", "mixup", "cutmix"):
            if FLAGS[name].value:
                raise UserError(f"--{name}: --augment has distortions of its own with this net: leave one of them out.")
        return own
    if FLAGS.cutout and FLAGS.cutout >= min(spec.size):
        raise UserError(f"--cutout={FLAGS.cutout} would blank the whole image: give less than {min(spec.size)}.")
    # random crops of photographs are made as these are read
    distorted = None
    if not prepared.random_resized:
        distorted = distortion(spec, prepared.sample, augment=FLAGS.augment, alternating=alternates(prepared), **crop)
    on_images = [one for one in (distorted, jitter(), cutout(spec, whole_cutout)) if one is not None]
    changing = together(on_images, mix(len(prepared.class_names)))
    if changing is None or not alternates(prepared):
        return changing

    def flip_first(key: jax.Array, x: jax.Array, y: jax.Array, *, info: data.BatchInfo) -> tuple[jax.Array, jax.Array]:
        return apply_augment(changing, key, data.alternating_flip(x, info), y, None)

    return flip_first


def together(on_images: Sequence[train.Augment], mixing: train.Augment | None) -> train.Augment | None:
    """Returns the changes of images one after the other, and then of images and labels; None without any."""
    if mixing is None and len(on_images) <= 1:
        return on_images[0] if on_images else None

    def change_images(key: jax.Array, x: jax.Array) -> jax.Array:
        for number, change in enumerate(on_images):
            x = change(jax.random.fold_in(key, number), x)
        return x

    if mixing is None:
        return change_images

    def change_both(key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        image_key, mixing_key = jax.random.split(key)
        return mixing(mixing_key, change_images(image_key, x), y)

    return change_both


def alternates(prepared: Prepared) -> bool:
    """True where `--flip=alternating` mirrors the images.

    Raises:
      UserError: they must not be mirrored, or are so at random as they are read; or `--augment` is not on.
    """
    if FLAGS.flip != "alternating":
        return False
    spec = prepared.spec
    if not FLAGS.augment or prepared.random_resized or not spec.mirror or spec.channels == 1:
        raise UserError("--flip=alternating is for colour images in memory, mirrored by --augment: give --flip=random.")
    return True


def distortion(
    spec: data.InputSpec, sample: Callable[[], np.ndarray], *, augment: bool, alternating: bool = False, **crop: Any
) -> train.Augment | None:
    """Returns what `--augment` does to the images, or the crop that the net sees of larger ones.

    Args:
      spec: of the input.
      sample: returns training images as held, whose colours are looked at.
      augment: `--augment`.
      alternating: whether images are mirrored otherwise.
      **crop: as for `augmentation`.
    """
    mirror = spec.mirror and not alternating
    if spec.held_size != spec.size:
        if augment:
            return data.random_crops(sample(), spec.size, mirror=mirror)
        return partial(_centre, size=spec.size)
    channels = spec.stored_shape[-1] if spec.stored_shape else spec.channels
    return data.augment_for(channels, mirror=mirror, **crop) if augment else None


def jitter() -> train.Augment | None:
    """Returns what `--jitter` does to the images."""
    strength = FLAGS.jitter
    if not strength:
        return None
    return partial(data.colour_jitter, brightness=strength, contrast=strength, saturation=strength)


def cutout(spec: data.InputSpec, whole: bool = False) -> train.Augment | None:
    """Returns what `--cutout` does to the images, see `augmentation`."""
    if not FLAGS.cutout:
        return None
    others: dict[str, Any] = {"inside": True, "fill": tuple(255 * mean for mean in spec.mean)} if whole else {}
    return partial(data.cutout, size=FLAGS.cutout, **others)


def mix(classes: int) -> Callable[..., tuple[jax.Array, jax.Array]] | None:
    """Returns what `--mixup` or `--cutmix` do to images and labels."""
    if FLAGS.mixup:
        return partial(data.mixup, alpha=FLAGS.mixup, num_classes=classes)
    if FLAGS.cutmix:
        return partial(data.cutmix, alpha=FLAGS.cutmix, num_classes=classes)
    return None


def loss(given: train.Loss | None) -> train.Loss:
    """Returns the loss: the experiment's own, or the cross-entropy with `--label_smoothing`.

    Raises:
      UserError: the experiment has a loss of its own, which takes no mixed or smoothed labels; or `--mixup` and
        `--cutmix` at once.
    """
    if FLAGS.mixup and FLAGS.cutmix:
        raise UserError("--mixup and --cutmix each change pairs of images: give one of them.")
    if given is not None:
        for name in ("label_smoothing", "mixup", "cutmix"):
            if FLAGS[name].value:
                raise UserError(f"--{name} is for the cross-entropy; this net has a loss of its own: leave it out.")
        return given
    return partial(train.cross_entropy, label_smoothing=FLAGS.label_smoothing) if FLAGS.label_smoothing else (
        train.cross_entropy
    )  # fmt: skip


def metrics() -> dict[str, train.Metric]:
    """Returns the metrics that `--metric` names.

    Raises:
      UserError: there is no such metric.
    """
    known: dict[str, train.Metric] = {"accuracy": train.accuracy, "top5": train.top_k(5)}
    names = FLAGS.metric or ["accuracy"]
    for name in names:
        if name not in known:
            raise UserError(f"--metric={name}: must be one of {', '.join(known)}.")
    return {name: known[name] for name in ("accuracy", *names)}


def settings() -> dict[str, Any]:
    """Returns what these flags are, for the config."""
    return {
        **{name: FLAGS[name].value or None for name in SETTINGS},
        "augment": bool(FLAGS.augment),
        "dtype": FLAGS.dtype,
    }


def _centre(key: jax.Array, pixels: jax.Array, *, size: tuple[int, int]) -> jax.Array:
    return data.centre_crop(pixels, size)
