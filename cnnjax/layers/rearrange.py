"""Layers that move pixels and channels about: paddings, patches, shuffles."""

from __future__ import annotations

from cnnjax import ops
from cnnjax.layers.base import Functional
from cnnjax.layers.geometry import WindowGeometry, place_windows
from cnnjax.ops.geometry import Sizes


class Pad(Functional):
    """`Pad(padding, **keywords)`: `ops.pad`."""

    _op = staticmethod(ops.pad)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns windows of one pixel that begin in the padding."""
        return place_windows(x_shape[:-1], 1, padding=self.keywords["padding"])


class Unfold(Functional):
    """`Unfold(window, **keywords)`: `ops.unfold`."""

    _op = staticmethod(ops.unfold)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns the windows that are written out."""
        return place_windows(x_shape[:-1], **self.keywords)


class Fold(Functional):
    """`Fold(spatial_shape, window, **keywords)`: `ops.fold`."""

    _op = staticmethod(ops.fold)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns which windows of the input reach a pixel of the output."""
        keywords = {name: value for name, value in self.keywords.items() if name != "spatial_shape"}
        return place_windows(y_shape[:-1], **keywords).transposed()


class PixelShuffle(Functional):
    """`PixelShuffle(r)`: `ops.pixel_shuffle`."""

    _op = staticmethod(ops.pixel_shuffle)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns windows of one pixel, several to a pixel of the input."""
        return place_windows(y_shape[:-1], self.keywords["r"], self.keywords["r"]).transposed()


class PixelUnshuffle(Functional):
    """`PixelUnshuffle(r)`: `ops.pixel_unshuffle`."""

    _op = staticmethod(ops.pixel_unshuffle)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns the blocks whose pixels become channels."""
        return place_windows(x_shape[:-1], self.keywords["r"], self.keywords["r"])


class ChannelShuffle(Functional):
    """`ChannelShuffle(groups)`: `ops.channel_shuffle`."""

    _op = staticmethod(ops.channel_shuffle)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns windows of one pixel."""
        return place_windows(x_shape[:-1], 1)
