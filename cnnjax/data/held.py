"""Examples as training holds them, read one by one: those that a data set in memory would have, to the bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnjax.data.damage import CorruptExample
from cnnjax.data.input_spec import InputSpec, Pixels
from cnnjax.data.preprocess import Size
from cnnjax.data.reading import ImageSource, evenly_spaced
from cnnjax.errors import UserError

if TYPE_CHECKING:
    import grain

MOST_BYTES_LOOKED_AT = 2**30
"""Training images, as held, of which mean and deviation are exact; of more, a sample is looked at."""
SAMPLE = 2048
"""Training images in a sample, evenly spaced."""
_READ_AT_ONCE = 64  # images in memory while a sample is looked at


class Held:
    """Examples of a source as training holds them: `held[i]` is `(x, y)`, x `(*held_size, channels)` uint8.

    Args:
      source: images of any size where the specification has a `resize_to`.
      spec: of the net's input.
    """

    def __init__(self, source: ImageSource, spec: InputSpec):
        self._source, self._spec = source, spec

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.int32]:
        image, label = self._source[index]
        return self._spec.hold(image), label


def held_images(source: ImageSource, spec: InputSpec) -> grain.MapDataset:
    """Returns the examples of a source as training holds them, see `InputSpec.hold`; nothing about them is random.

    Args:
      source: a part of what `open_dataset` returns.
      spec: of the net's input, see `spec_of_source`.

    Returns:
      A `grain.MapDataset` of `(x, y)`: x `(*held_size, channels)` uint8, y int32. Its elements raise `CorruptExample`.

    Example:
      >>> from cnnjax.data import open_dataset
      >>> held_images(open_dataset("digits").train, InputSpec(size=32, channels=1))[0][0].shape
      (32, 32, 1)
    """
    import grain

    return grain.MapDataset.source(Held(source, spec))


def spec_of_source(
    source: ImageSource,
    *,
    size: Size,
    channels: int | None = None,
    pixels: Pixels = None,
    skip_corrupt: bool = False,
    **others: Any,
) -> InputSpec:
    """Returns the specification for training images that are not in memory, as `InputSpec.of` does for those that are.

    Mean and deviation are exact, those of `InputSpec.of`, where all images take at most 1 GiB as held. Else they are
    those of 2,048 images, evenly spaced: another number of images, of devices or of processes changes nothing.

    Args:
      source: the training images.
      size: of what the net sees.
      channels: by default those of `source`.
      pixels: as for `InputSpec.with_pixels`.
      skip_corrupt: leave out images that cannot be decoded.
      **others: `resize_to`, `views`, `mirror`.

    Raises:
      CorruptExample: an image cannot be decoded, and `skip_corrupt` is False.
      UserError: as for `InputSpec`.
    """
    stored = None if None in source.shape else source.shape
    spec = InputSpec(size=size, channels=channels or source.shape[2], stored_shape=stored, **others)  # type: ignore[arg-type]
    held = Held(source, spec)
    whole = len(held) * spec.held_size[0] * spec.held_size[1] * spec.channels <= MOST_BYTES_LOOKED_AT
    rows = evenly_spaced(len(held), len(held) if whole else SAMPLE)
    return spec.with_pixels(_read(held, rows, skip_corrupt), pixels)


def sample_images(source: ImageSource, spec: InputSpec, count: int = 512, *, skip_corrupt: bool = False) -> np.ndarray:
    """Returns evenly spaced images as training holds them, for `colour_axes` and the like.

    Args:
      source: the training images.
      spec: of the net's input.
      count: how many; all where there are fewer.
      skip_corrupt: leave out images that cannot be decoded.

    Returns:
      `(count, *held_size, channels)` uint8.

    Raises:
      CorruptExample: an image cannot be decoded, and `skip_corrupt` is False.
    """
    held = Held(source, spec)
    return np.concatenate([*_read(held, evenly_spaced(len(held), count), skip_corrupt)])


def _read(held: Held, rows: np.ndarray, skip_corrupt: bool) -> Iterator[np.ndarray]:
    """Yields images by threads, some at a time, in order."""
    from tqdm import tqdm

    def read(row: int) -> np.ndarray | CorruptExample:
        try:
            return held[row][0]
        except CorruptExample as error:
            return error

    some = False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in tqdm(
            range(0, len(rows), _READ_AT_ONCE), desc="looking at images", delay=2, leave=False, disable=None
        ):
            images = []
            for image in pool.map(read, rows[start : start + _READ_AT_ONCE].tolist()):
                if not isinstance(image, CorruptExample):
                    images.append(image)
                elif not skip_corrupt:
                    raise image
            if images:
                some = True
                yield np.stack(images)
    if not some:
        raise UserError("None of the training images that were looked at can be read: restore them.")
