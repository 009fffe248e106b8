"""All that is done to pixels on the way into a net without randomness, as one value that a run keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from cnnjax.data import preprocess
from cnnjax.data.preprocess import Size
from cnnjax.data.views import WeightedViews, airbench_views, mirror_views, shift_views
from cnnjax.errors import UserError

VIEWS = ("whole", "centre", "ten_crop", "mirror", "shift", "airbench")
"""By what a net is evaluated: see `InputSpec.evaluation_views`."""

Pixels = tuple[float, float] | str | None
"""What 0 and 255 become: see `InputSpec.with_pixels`."""


@dataclasses.dataclass(frozen=True, init=False)
class InputSpec:
    """How a net takes its images: their size, channels and scale, and the views by which it is evaluated.

    Images are turned to `channels`, then padded to `size` or resized to `resize_to`, once, on the host. What the net
    sees is standardised, and of `size`: a crop where `resize_to` is larger.

    Attributes:
      size: height and width of what the net sees; an int stands for a square.
      channels: 1 (gray) or 3 (colour), as the net takes them.
      mean: per channel, of pixels in 0..1; by default 0.
      std: likewise; by default 1.
      resize_to: images of any size are resized to this, see `data.resize`; None: they are padded, see
        `data.pad_to_square`.
      views: one of `VIEWS`; by default `"centre"` where `resize_to` is larger than `size`, else `"whole"`.
      mirror: False where an image must not be mirrored, see `data.may_mirror`: then no view is a mirror image.
      stored_shape: (height, width, channels) of the data set's images, for users of the net; None where they differ.
      brightness: mean of the training images in 0..1, for `data.looks_inverted`; None where it was not computed.

    Raises:
      UserError: a size is not positive, `resize_to` smaller than `size`, `channels` neither 1 nor 3, `mean` or `std`
        not of one entry per channel; no such view, or one that these sizes or `mirror` exclude.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_to: tuple[int, int] | None
    views: str
    mirror: bool
    stored_shape: tuple[int, int, int] | None
    brightness: float | None

    def __init__(
        self,
        *,
        size: Size,
        channels: int,
        mean: tuple[float, ...] = (),
        std: tuple[float, ...] = (),
        resize_to: Size | None = None,
        views: str | None = None,
        mirror: bool = True,
        stored_shape: tuple[int, ...] | None = None,
        brightness: float | None = None,
    ) -> None:
        seen = preprocess.height_and_width(size)
        held = seen if resize_to is None else preprocess.height_and_width(resize_to)
        fields = {
            "size": seen,
            "channels": channels,
            "mean": tuple(map(float, mean)) or (0.0,) * channels,
            "std": tuple(map(float, std)) or (1.0,) * channels,
            "resize_to": None if resize_to is None else held,
            "views": views or ("whole" if held == seen else "centre"),
            "mirror": mirror,
            "stored_shape": None if stored_shape is None else tuple(map(int, stored_shape)),
            "brightness": brightness,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        """Raises UserError where the fields contradict each other."""
        held = self.held_size
        if min(self.size) < 1:
            raise UserError(f"size must be at least 1, was {self.size}.")
        if held[0] < self.size[0] or held[1] < self.size[1]:
            raise UserError(f"resize_to must be at least size, {self.size}, was {held}.")
        if self.channels not in (1, 3):
            raise UserError(f"channels must be 1 or 3, was {self.channels}.")
        if not len(self.mean) == len(self.std) == self.channels:
            raise UserError(f"mean and std must have {self.channels} entries, were {self.mean} and {self.std}.")
        if self.views not in VIEWS:
            raise UserError(f"views must be one of {', '.join(VIEWS)}, was {self.views!r}.")
        if self.views == "whole" and held != self.size:
            raise UserError(f"views must be another than 'whole' where images of {held} are cropped to {self.size}.")
        if self.views in ("mirror", "airbench") and not self.mirror:
            raise UserError(f"views must be another than {self.views!r} for characters, which are never mirrored.")

    @classmethod
    def of(
        cls, images: np.ndarray, *, size: Size, channels: int | None = None, pixels: Pixels = None, **others: Any
    ) -> InputSpec:
        """Returns the specification for training images, its mean and std computed from them.

        Args:
          images: `(N, H, W, C)` uint8, as stored.
          size: of what the net sees.
          channels: by default those of `images`.
          pixels: as for `with_pixels`.
          **others: `resize_to`, `views`, `mirror`.

        Raises:
          UserError: as for the class; or the images cannot be brought to this size.
        """
        spec = cls(size=size, channels=channels or images.shape[-1], stored_shape=images.shape[1:], **others)
        return spec.with_pixels(spec.on_host(images), pixels)

    @property
    def held_size(self) -> tuple[int, int]:
        """Height and width of the images that training holds: `resize_to`, or else `size`."""
        return self.resize_to or self.size

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of what the net sees."""
        return (*self.size, self.channels)

    def with_pixels(self, held: np.ndarray | Iterable[np.ndarray], pixels: Pixels = None) -> InputSpec:
        """Returns the same specification with mean, std and brightness chosen.

        Args:
          held: the training images, `(N, *held_size, channels)` uint8, as `on_host` returns them; or several such one
            after the other, where not all are in memory.
          pixels: None: mean 0 and deviation 1 per channel; `"centred"`: mean 0 only, 0..255 less their mean; or
            (low, high): what 0 and 255 become.
        """
        mean, std = preprocess.channel_stats(held)
        brightness = sum(mean) / len(mean)
        if pixels == "centred":
            std = (1 / 255,) * self.channels
        elif isinstance(pixels, str):
            raise ValueError(f"pixels must be None, 'centred' or a pair (low, high), was {pixels!r}")
        elif pixels is not None:
            low, high = pixels
            mean, std = (-low / (high - low),) * self.channels, (1 / (high - low),) * self.channels
        return dataclasses.replace(self, mean=mean, std=std, brightness=brightness)

    def on_host(self, images: np.ndarray) -> np.ndarray:
        """Returns images as training holds them.

        Args:
          images: `(N, H, W, C)` uint8, C is 1 or 3.

        Returns:
          `(N, *held_size, channels)` uint8; images that are so already are returned as they are.

        Raises:
          TypeError: the images are not uint8.
          UserError: they are larger than `size` and there is no `resize_to`; or memory does not suffice.
        """
        if images.dtype != np.uint8:
            raise TypeError(f"images has dtype {images.dtype}; it must be uint8")
        # Gray images become colour last, and colour images gray first: the arrays between are then small.
        if self.channels < images.shape[-1]:
            images = preprocess.to_channels(images, self.channels)
        if self.resize_to is None:
            images = preprocess.pad_to_square(images, self.size)
        else:
            images = preprocess.resize(images, self.resize_to)
        return preprocess.to_channels(images, self.channels)

    def hold(self, image: np.ndarray) -> np.ndarray:
        """Returns one image as training holds it, `(H, W, C)` uint8 to `(*held_size, channels)`.

        To the bit what a data set in memory goes through: `load_dataset` with `resize_to`, then `on_host`.

        Raises:
          UserError: it is larger than `size` and there is no `resize_to`.
        """
        if image.shape == (*self.held_size, self.channels):
            return image
        resized = image if self.resize_to is None else preprocess.resize_image(image, self.resize_to)
        return self.on_host(resized[None])[0]

    def as_input(self, images: np.ndarray) -> np.ndarray:
        """Returns images as the net sees a single one, before `prepare`: `(N, *size, channels)` uint8."""
        return preprocess.centre_crop(self.on_host(images), self.size)

    def prepare(self, pixels: jax.Array) -> jax.Array:
        """Returns pixels 0..255 standardised, float32: `(pixels / 255 - mean) / std` per channel."""
        return preprocess.standardize(pixels, self.mean, self.std)

    def evaluation_views(self) -> Callable[[jax.Array], jax.Array] | None:
        """Returns the views over which the net's answers are averaged when it is evaluated.

        By `views`: None for the whole image; the centre of `size`; corners and centre, see `data.ten_crops`; the image
        and its mirror image, see `data.mirror_views`; shifted and mirrored, see `data.shift_views`, or weighted, see
        `data.airbench_views`. The last three are of the centre.

        Returns:
          A function of `(B, *held_size, C)` that returns `(V, B, *size, C)`; or None.
        """
        if self.views == "whole":
            return None
        if self.views == "centre":
            return lambda images: preprocess.centre_crop(images, self.size)[None]
        if self.views == "ten_crop":
            return partial(preprocess.ten_crops, size=self.size, mirror=self.mirror)

        def views_of_centre(images: jax.Array) -> jax.Array:
            centre = preprocess.centre_crop(images, self.size)
            if self.views == "mirror":
                return mirror_views(centre)
            # the first three are not mirrored
            return shift_views(centre)[: 6 if self.mirror else 3]

        if self.views == "airbench":
            return WeightedViews(views_of_centre, airbench_views.weights)
        return views_of_centre

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON has them: lists for tuples, an int for a square."""

        def side(size: tuple[int, int] | None) -> int | list[int] | None:
            return None if size is None else size[0] if size[0] == size[1] else list(size)

        return {
            "size": side(self.size),
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize_to": side(self.resize_to),
            "views": self.views,
            "mirror": self.mirror,
            "stored_shape": None if self.stored_shape is None else list(self.stored_shape),
            "brightness": self.brightness,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> InputSpec:
        """Returns the specification that `to_json` wrote.

        Raises:
          UserError: the fields are those of another version of cnnjax.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != known:
            raise UserError(
                f"The description of a net's input has the fields {', '.join(sorted(fields))}; it must have "
                f"{', '.join(sorted(known))}. Another version of cnnjax wrote it: train again, or use that version."
            )
        return cls(**fields)
