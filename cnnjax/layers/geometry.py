"""How a layer's windows lie over its input, in plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from cnnjax.ops.geometry import Ints, Padding, Sizes, per_dimension, resolve_padding

#: A distance in pixels: a fraction where outputs lie closer than inputs.
Distance = int | Fraction


class WindowGeometry(NamedTuple):
    """How windows lie over an input, one entry per spatial dimension.

    Tap t of window o reads the input at o * stride + t * dilation - low.

    Attributes:
      window: taps.
      stride: from a window to the next, in pixels of the input; a fraction where the output is finer.
      dilation: from a tap to the next; a fraction where taps between the input's pixels read nothing.
      low: how far before the input the first window begins.
    """

    window: Sizes
    stride: tuple[Distance, ...]
    dilation: tuple[Distance, ...]
    low: tuple[Distance, ...]

    def over_holes(self, holes: Sequence[int]) -> WindowGeometry:
        """Returns these windows, over an input with zeros between its pixels, in pixels of the input itself.

        Args:
          holes: from a pixel to the next, in steps of these windows' input.
        """
        if max(holes, default=1) == 1:
            return self
        finer = [[Fraction(n) / hole for n, hole in zip(ns, holes, strict=True)] for ns in self[1:]]
        return WindowGeometry(self.window, *map(tuple, finer))

    def transposed(self) -> WindowGeometry:
        """Returns how the adjoint reads: the windows of the output's pixels over what these windows give."""
        reach = [(taps - 1) * step for taps, step in zip(self.window, self.dilation, strict=True)]
        low = tuple(far - pad for far, pad in zip(reach, self.low, strict=True))
        once = WindowGeometry(self.window, (1,) * len(reach), self.dilation, low)
        return once.over_holes([int(stride) for stride in self.stride])


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

    Window o reads the pixels from floor(o * step) to ceil((o + 1) * step), step = size / count. In parts of a pixel,
    `1 / parts` with `parts` the denominator of the step, it has taps at all parts in which these pixels lie.
    """
    steps = tuple(Fraction(size, count) for size, count in zip(sizes, outputs, strict=True))
    parts = [step.denominator for step in steps]
    window = tuple(step.numerator + part - 1 for step, part in zip(steps, parts, strict=True))
    dilation = tuple(Fraction(1, part) for part in parts)
    return WindowGeometry(window, steps, dilation, tuple(1 - tap for tap in dilation))
