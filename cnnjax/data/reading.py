"""Images of a data set read one by one, by index: nothing is decoded ahead, and nothing is kept."""

from __future__ import annotations

import abc
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnnjax.data import memory
from cnnjax.data.damage import named
from cnnjax.data.images import to_array, to_picture
from cnnjax.data.preprocess import Size, height_and_width
from cnnjax.errors import UserError

if TYPE_CHECKING:
    from PIL import Image


class Record(NamedTuple):
    """An example as it is stored.

    Attributes:
      content: an encoded image, or pixels `(H, W, C)` uint8.
      label: its class, int32.
      where: names file and record, for errors.
    """

    content: bytes | np.ndarray
    label: np.int32
    where: str


class ImageSource(abc.ABC):
    """The examples of one part of a data set: `source[i]` is `(image, label)`, read and decoded when it is asked for.

    Any number of threads may read at once.

    Attributes:
      shape: (height, width, channels) of the images as stored; height and width are None where they differ.
      upright: whether photos stand as their Exif orientation says.
    """

    shape: tuple[int | None, int | None, int]
    upright = True

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples."""

    @abc.abstractmethod
    def read(self, index: int) -> Record:
        """Reads an example, `0 <= index < len`, without decoding it.

        Raises:
          CorruptExample: it cannot be read.
          UserError: the whole part cannot be used.
        """

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        """Returns an example as `load_dataset` has it: `(H, W, C)` uint8, and the class, int32.

        Raises:
          CorruptExample: it cannot be read or decoded.
          UserError: the whole part cannot be used: images that differ in size where they must not, or labels missing.
        """
        record = self.read(index)
        return self.image(record), record.label

    def image(self, record: Record) -> np.ndarray:
        """Decodes a record of this source, `(H, W, C)` uint8."""
        if isinstance(record.content, np.ndarray):
            return record.content
        with named(record.where):
            return to_array(
                self._checked(record, to_picture(io.BytesIO(record.content), self.shape[2], upright=self.upright))
            )

    def picture(self, record: Record, channels: int) -> Image.Image:
        """Decodes a record of this source as a picture of mode L or RGB, for Pillow."""
        from PIL import Image

        if isinstance(record.content, np.ndarray):
            pixels = record.content
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            mode = "L" if channels == 1 else "RGB"
            return picture if picture.mode == mode else picture.convert(mode)
        with named(record.where):
            return to_picture(io.BytesIO(record.content), channels, upright=self.upright)

    def _checked(self, record: Record, picture: Image.Image) -> Image.Image:
        height, width, _ = self.shape
        if None not in (height, width) and picture.size != (width, height):
            raise UserError(
                f"{record.where} has {picture.height}x{picture.width} pixels, others of its data set {height}x{width}. "
                "Give an image size, to which they are resized."
            )
        return picture


class ArraySource(ImageSource):
    """Images that are in memory already.

    Args:
      name: of the data set, for errors.
      images: `(N, H, W, C)` uint8.
      labels: `(N,)` int32.
    """

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray):
        self._name, self._images, self._labels = name, images, labels
        self.shape = images.shape[1:]

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Record:
        """Returns a view of the example."""
        return Record(self._images[index], self._labels[index], f"Example {index} of {self._name}")


class OpenDataset(NamedTuple):
    """A data set whose images are read when they are needed.

    Attributes:
      name: as given to `open_dataset`.
      train: the training examples.
      test: the test examples.
      class_names: one name per class.
    """

    name: str
    train: ImageSource
    test: ImageSource
    class_names: tuple[str, ...]

    def nbytes(self, size: Size | None = None, channels: int | None = None) -> int:
        """Returns how many bytes all images take, decoded.

        Args:
          size: to which they are brought; by default as they are stored.
          channels: likewise.

        Raises:
          UserError: the images differ in size and no `size` is given.
        """
        height, width = self.train.shape[:2] if size is None else height_and_width(size)
        if height is None or width is None:
            raise UserError(f"The images of {self.name} differ in size. Give an image size, to which they are resized.")
        return (len(self.train) + len(self.test)) * height * width * (channels or self.train.shape[2])

    def fits_in_memory(self, size: Size | None = None, channels: int | None = None) -> bool:
        """Returns whether `load_dataset` could load it, and bring it to `size` and `channels`, see `nbytes`.

        It keeps the stored channels where a net takes fewer.
        """
        return memory.fits(self.nbytes(size, max(channels or 1, self.train.shape[2])))


def evenly_spaced(n: int, count: int) -> np.ndarray:
    """Returns `count` different indices below n, evenly spaced, `(count,)` int64; all n where `count` is larger."""
    count = min(n, count)
    return np.arange(count) * n // max(count, 1)
