"""Photographs for training: random crops of random shape, resized and mirrored, on the host."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cnnjax.data.images import to_array
from cnnjax.data.input_spec import InputSpec
from cnnjax.data.reading import ImageSource, Record

if TYPE_CHECKING:
    import grain
    from PIL import Image

SCALE = (0.08, 1.0)
"""Smallest and largest area of a crop, as shares of the image's."""
RATIO = (3 / 4, 4 / 3)
"""Smallest and largest width of a crop over its height."""
_TRIES = 10


class Box(NamedTuple):
    """A crop, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def random_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> Box:
    """Draws a crop as torchvision's `RandomResizedCrop` does.

    Its area is uniform in `scale` times the image's, its width over its height log-uniform in `ratio`, its place
    uniform. If ten of them do not fit, it is the largest centre crop whose ratio is in `ratio`.

    References:
      Szegedy et al., Going deeper with convolutions, 2015, arXiv:1409.4842, section 6.
    """
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < columns <= width and 0 < rows <= height:
            top, left = (int(rng.integers(0, spare + 1)) for spare in (height - rows, width - columns))
            return Box(left, top, left + columns, top + rows)
    columns, rows = width, height
    if width / height < ratio[0]:
        rows = round(width / ratio[0])
    elif width / height > ratio[1]:
        columns = round(height * ratio[1])
    top, left = (height - rows) // 2, (width - columns) // 2
    return Box(left, top, left + columns, top + rows)


class _Records:
    """The records of a source, not decoded: what grain reads."""

    def __init__(self, source: ImageSource):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._source.read(index)


class RandomResizedCrop:
    """Decodes a record, crops it at random, resizes the crop, and mirrors it with probability 1/2.

    To the bit what torchvision does to a picture of Pillow with the same box. A large JPEG is decoded whole:
    at a smaller scale it would be faster, and have other pixels.

    Args:
      source: of the records.
      spec: of the net's input: `size`, `channels` and `mirror` count.
      scale: as for `random_box`.
      ratio: likewise.
    """

    def __init__(
        self,
        source: ImageSource,
        spec: InputSpec,
        scale: tuple[float, float] = SCALE,
        ratio: tuple[float, float] = RATIO,
    ):
        self._source, self._spec, self._scale, self._ratio = source, spec, scale, ratio

    def __call__(self, record: Record, rng: np.random.Generator) -> tuple[np.ndarray, np.int32]:
        """Returns `(x, y)`: x `(*size, channels)` uint8, y int32."""
        return self.crop(self._source.picture(record, self._spec.channels), rng), record.label

    def crop(self, picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Returns a picture cropped at random, resized and mirrored: `(*size, channels)` uint8."""
        from PIL.Image import Resampling, Transpose

        box = random_box(rng, picture.height, picture.width, self._scale, self._ratio)
        mirrored = rng.random() < 0.5 and self._spec.mirror
        # Cropped first: a resize with a box would also take in pixels beyond it.
        crop = picture.crop(box).resize(self._spec.size[::-1], Resampling.BILINEAR)
        return to_array(crop.transpose(Transpose.FLIP_LEFT_RIGHT) if mirrored else crop)


def random_resized_crops(
    source: ImageSource,
    spec: InputSpec,
    seed: int,
    *,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> grain.MapDataset:
    """Returns training examples of photographs: a random crop of each, resized to `spec.size` and mirrored.

    How element i is cropped is a function of (seed, i) alone; elements beyond the length are later epochs, each with
    draws of its own.

    Args:
      source: a part of what `open_dataset` returns.
      spec: of the net's input: `size`, `channels` and `mirror` count.
      seed: the run's seed.
      scale: smallest and largest area of a crop, as shares of the image's.
      ratio: smallest and largest width of a crop over its height.

    Returns:
      A `grain.MapDataset` of `(x, y)`: x `(*size, channels)` uint8, y int32. Its elements raise `CorruptExample`.
    """
    import grain

    records = grain.MapDataset.source(_Records(source))
    # With a seed of its own, the draws do not depend on what stands before it in the chain.
    return records.random_map(RandomResizedCrop(source, spec, scale, ratio), seed=seed)
