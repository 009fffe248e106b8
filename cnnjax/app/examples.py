"""The examples of a run on images: held in memory, or read and decoded when they are needed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from cnnjax import data, train
from cnnjax.data.npz_rows import NotByRows
from cnnjax.data.preprocess import height_and_width
from cnnjax.data.reading import Record
from cnnjax.errors import UserError
from cnnjax.train import devices

if TYPE_CHECKING:
    from PIL import Image

FLAGS = flags.FLAGS

IN_A_SAMPLE = 2**30
"""Bytes of training images, as held, that are all looked at where a sample of them would do."""

Standard = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation of each channel, of pixels in 0..1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """Describes how a net takes its images.

    Attributes:
      size: side of what it sees; None for images as they are stored.
      resize_to: side to which images are resized on the way in; None where they are padded, or taken as they are.
      channels: 1 or 3; None for those of the data set.
      pixels: what 0 and 255 become, see `data.InputSpec.with_pixels`.
      standard: in place of `pixels`: mean and deviation of each channel.
      views: by which it is evaluated, see `data.InputSpec`.
      random_resized: whether training images are random crops, resized, which are taken as images are read.
    """

    size: int | None
    resize_to: int | None
    channels: int | None
    pixels: data.input_spec.Pixels
    standard: Standard | None
    views: str | None
    random_resized: bool


@dataclasses.dataclass(frozen=True)
class Prepared:
    """Holds a data set as the experiment takes it: the same for every seed.

    Attributes:
      class_names: one name per class.
      spec: of the net's input.
      training: the training examples, or where they are read: `data.ImageSource`.
      test: likewise; as the net is evaluated on them.
      random_resized: as for `Input`.
    """

    class_names: tuple[str, ...]
    spec: data.InputSpec
    training: train.Examples | data.ImageSource
    test: train.Examples | data.ImageSource
    random_resized: bool = False

    @property
    def is_streamed(self) -> bool:
        """True where images are read when they are needed."""
        return not isinstance(self.training, train.Examples)

    def splits(self, seed: int, validation: int = 0) -> dict[str, Any]:
        """Returns the examples for `train.fit`.

        Args:
          seed: of the run; with it how photographs are cropped varies.
          validation: number of photographs to hold out, which are not cropped at random; of others `train.fit` does it.
        """
        if isinstance(self.training, train.Examples):
            return {"train": self.training, "test": self.test}
        splits = {"train": self.training, "test": self.test}
        if self.random_resized and validation:
            held = data.held_out(len(self.training), validation, seed)
            splits["train"] = Chosen(self.training, np.flatnonzero(~held))
            splits["validation"] = Chosen(self.training, np.flatnonzero(held))
        found: dict[str, Any] = {}
        for name, source in splits.items():
            assert isinstance(source, data.ImageSource)
            if self.random_resized and name == "train":
                found[name] = data.random_resized_crops(source, self.spec, seed)
            else:
                found[name] = data.held_images(source, self.spec)
        return found

    def sample(self) -> np.ndarray:
        """Returns training images as held, for the axes of their colours: all of them, or evenly spaced ones."""
        if isinstance(self.training, train.Examples):
            return self.training.x
        height, width = self.spec.held_size
        small = len(self.training) * height * width * self.spec.channels <= IN_A_SAMPLE
        count = {"count": len(self.training)} if small else {}
        return data.sample_images(self.training, self.spec, skip_corrupt=FLAGS.skip_corrupt, **count)


class Chosen(data.ImageSource):
    """Some of the examples of a source.

    Args:
      source: all of them.
      rows: their indices.
    """

    def __init__(self, source: data.ImageSource, rows: np.ndarray):
        self._source, self._rows = source, rows
        self.shape, self.upright = source.shape, source.upright

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Record:
        """Reads an example, without decoding it."""
        return self._source.read(int(self._rows[index]))

    def image(self, record: Record) -> np.ndarray:
        """Decodes a record."""
        return self._source.image(record)

    def picture(self, record: Record, channels: int) -> Image.Image:
        """Decodes a record as a picture, for Pillow."""
        return self._source.picture(record, channels)


def prepare(wanted: Input) -> Prepared:
    """Loads `--dataset`, or opens it where `--stream` says so: by default where it does not fit in memory.

    Raises:
      UserError: flags contradict each other, or the data set cannot be used.
    """
    channels = int(FLAGS.channels) if FLAGS.channels else wanted.channels
    if wanted.channels not in (None, channels):
        raise UserError(f"--channels={channels}: this net takes {wanted.channels}; leave it out.")
    opened = open_streamed(wanted, channels)
    if opened is not None:
        spec = spec_of_opened(wanted, channels, opened)
        return Prepared(opened.class_names, spec, opened.train, opened.test, wanted.random_resized)
    dataset = data.load_dataset(FLAGS.dataset, FLAGS.data_dir, wanted.resize_to, test_share=FLAGS.test_share)
    others = dict(resize_to=wanted.resize_to, views=wanted.views, mirror=may_mirror(wanted, dataset.class_names))
    size = wanted.size or dataset.train_images.shape[1:3]
    if wanted.standard is None:
        spec = data.InputSpec.of(dataset.train_images, size=size, channels=channels, pixels=wanted.pixels, **others)
    else:
        stored = dataset.train_images.shape[1:]
        spec = of_standard(wanted.standard, size=size, channels=channels or stored[2], stored_shape=stored, **others)
    training = train.Examples(spec.on_host(dataset.train_images), dataset.train_labels)
    test = train.Examples(spec.on_host(dataset.test_images), dataset.test_labels)
    return Prepared(dataset.class_names, spec, training, test)


def open_streamed(wanted: Input, channels: int | None) -> data.OpenDataset | None:
    """Opens `--dataset` where its images are to be read when they are needed; None where it is to be loaded."""
    if FLAGS.stream == "never":
        if wanted.random_resized:
            raise UserError(
                "--stream=never: random crops of photographs are taken as these are read; leave it out, or give "
                "--noaugment."
            )
        if FLAGS.skip_corrupt:
            raise UserError(
                "--skip_corrupt is for images that are read when they are needed: leave --stream=never out."
            )
        return None
    streamed = FLAGS.stream == "always" or wanted.random_resized or FLAGS.skip_corrupt
    try:
        opened = data.open_dataset(FLAGS.dataset, FLAGS.data_dir, test_share=FLAGS.test_share)
    except NotByRows:
        if streamed:
            raise
        return None
    if streamed:
        return opened
    # all processes must decide alike, or their programs would differ
    fits = devices.smallest_of_all(opened.fits_in_memory(wanted.resize_to or wanted.size, channels))
    return None if fits else opened


def spec_of_opened(wanted: Input, channels: int | None, opened: data.OpenDataset) -> data.InputSpec:
    """Returns the specification that the same data set in memory would have."""
    source = opened.train
    others = dict(resize_to=wanted.resize_to, views=wanted.views, mirror=may_mirror(wanted, opened.class_names))
    if wanted.size is None and None in source.shape:
        raise UserError(f"The images of {opened.name} differ in size. Give an image size, to which they are resized.")
    size: Any = wanted.size or source.shape[:2]
    # in memory, images that are resized are so before anything looks at them
    height, width = source.shape[:2] if wanted.resize_to is None else height_and_width(wanted.resize_to)
    stored = None if height is None or width is None else (height, width, source.shape[2])
    if wanted.standard is not None:
        return of_standard(
            wanted.standard, size=size, channels=channels or source.shape[2], stored_shape=stored, **others
        )
    spec = data.spec_of_source(
        source, size=size, channels=channels, pixels=wanted.pixels, skip_corrupt=FLAGS.skip_corrupt, **others
    )
    return dataclasses.replace(spec, stored_shape=stored)


def of_standard(standard: Standard, *, channels: int, **others: Any) -> data.InputSpec:
    """Returns a specification with a mean and a deviation of each channel.

    Raises:
      UserError: there are others than the channels of the images.
    """
    mean, std = standard
    if len(mean) != channels:
        raise UserError(
            f"the images have {channels} channels; this net takes {len(mean)}: give --channels={len(mean)}."
        )
    return data.InputSpec(channels=channels, mean=mean, std=std, **others)


def may_mirror(wanted: Input, class_names: tuple[str, ...]) -> bool:
    """Returns whether images of `--dataset` may be mirrored.

    Raises:
      UserError: they may not, and `--tta` asks for it.
    """
    mirror = data.may_mirror(FLAGS.dataset, class_names)
    if not mirror and wanted.views in ("mirror", "airbench"):
        raise UserError(f"--tta={wanted.views}: images of characters are never mirrored; give --tta=shift or none.")
    return mirror
