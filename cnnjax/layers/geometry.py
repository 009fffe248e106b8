"""How a layer's windows lie over its input, in plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from cnnjax.ops.geometry import Ints, Padding, Sizes, dilated, per_dimension, resolve_padding

#: A distance in pixels: a fraction where outputs lie closer than inputs.
Distance = int | Fraction


class WindowGeometry(NamedTuple):
    """How windows lie over an input, one entry per spatial dimension.

    Tap t of window o reads the input at o * stride + t * dilation - low.

    Attributes:
      window: taps.
      stride: from a window to the next, in pixels of the input; a fraction where the output is finer.
      dilation: from a tap to the next.
      low: how far before the input the first window begins.
    """

    window: Sizes
    stride: tuple[Distance, ...]
    dilation: Sizes
    low: tuple[Distance, ...]

    @property
    def extents(self) -> Sizes:
        """The sizes of the dilated windows, holes included."""
        return tuple(map(dilated, self.window, self.dilation))

    def over_holes(self, holes: Sequence[int]) -> WindowGeometry:
        """Returns these windows, over an input with zeros between its pixels, in pixels of the input itself.

        Args:
          holes: from a pixel to the next, in steps of these windows' input.
        """
        if max(holes, default=1) == 1:
            return self
        window = tuple(-(-extent // hole) for extent, hole in zip(self.extents, holes, strict=True))
        stride, low = (
            tuple(Fraction(n) / hole for n, hole in zip(ns, holes, strict=True)) for ns in (self.stride, self.low)
        )
        return WindowGeometry(window, stride, (1,) * len(window), low)

    def transposed(self) -> WindowGeometry:
        """Returns how the adjoint reads: the windows of the output's pixels over what these windows give."""
        steps = [int(stride) for stride in self.stride]
        low = tuple(extent - 1 - pad for extent, pad in zip(self.extents, self.low, strict=True))
        ones = (1,) * len(steps)
        return WindowGeometry(self.extents, ones, ones, low).over_holes(steps)


def place_windows(
    sizes: Sequence[int], window: Ints, stride: Ints = 1, dilation: Ints = 1, padding: Padding = "VALID"
) -> WindowGeometry:
    """Returns the geometry of the windows that an op slides over an input of these spatial sizes.

    Example:
      >>> place_windows((28, 28), 5, padding="SAME").low
      (2, 2)
    """
    rank = len(sizes)
    window, stride, dilation = (
        per_dimension(name, value, rank)
        for name, value in (("window", window), ("stride", stride), ("dilation", dilation))
    )
    pads = resolve_padding(padding, tuple(sizes), window, stride, dilation)
    return WindowGeometry(window, stride, dilation, tuple(low for low, _ in pads))


def spread_windows(sizes: Sequence[int], outputs: Sequence[int]) -> WindowGeometry:
    """Returns windows spread evenly over an input, as adaptive pools have them.

    Where they lie unevenly a window's place may be off by less than one pixel.
    """
    steps = tuple(Fraction(size, count) for size, count in zip(sizes, outputs, strict=True))
    return WindowGeometry(tuple(map(math.ceil, steps)), steps, (1,) * len(steps), (0,) * len(steps))
