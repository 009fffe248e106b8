"""What the elements of an array see of the image, along one of its dimensions: an interval that moves with the index.

Element i of an axis reads the units of `unit` pixels that lie between offset + rate * i and that plus width. Mostly a
rate is 1, an offset and a width 0; where an output is finer than its input, as behind a transposed convolution, they
are fractions, and neighbours may see the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from typing import NamedTuple

Distance = int | Fraction
Shape = tuple[int, ...]


class Term(NamedTuple):
    """How an interval moves along an axis, with the index or, where a reshape has joined axes, a part of it.

    Attributes:
      axis: the axis.
      inner: the moving coordinate is `(index // inner) % length`.
      length: of the coordinate; the axis' size where inner is 1.
      unit: pixels.
      rate: units from a coordinate to the next.
      offset: units from the span's low to where coordinate 0 begins to read.
      width: units that a coordinate reads on from there.
    """

    axis: int
    inner: int
    length: int
    unit: Distance
    rate: Distance = 1
    offset: Distance = 0
    width: Distance = 0

    @property
    def is_regular(self) -> bool:
        """True where the interval moves by one unit from a coordinate to the next."""
        return (self.rate, self.offset, self.width) == (1, 0, 0)

    def units_of(self, coordinate: int) -> tuple[int, int]:
        """Returns the first and the last unit that a coordinate reads."""
        begin = self.offset + self.rate * coordinate
        return math.ceil(begin), math.floor(begin + self.width)

    @property
    def most_units(self) -> int:
        """How many units more than one a coordinate reads, at most."""
        phases = range(min(self.length, Fraction(self.rate).denominator))
        return max((last - first for first, last in map(self.units_of, phases)), default=0)

    def is_continued_by(self, other: Term) -> bool:
        """True where two terms are the digits of one coordinate, this one the lower."""
        digits = self.inner * self.length, self.unit * self.length
        return self.is_regular and other.is_regular and (other.axis, other.inner, other.unit) == (self.axis, *digits)


class Span(NamedTuple):
    """The pixels that an element sees: `size` of them from `low` on, and where its terms move it; padding included."""

    low: Distance
    size: Distance
    terms: tuple[Term, ...] = ()

    @property
    def pixels(self) -> Distance:
        """How many pixels an element sees, at most."""
        return self.size + sum(term.unit * term.most_units for term in self.terms)

    def along(self, axis: int) -> list[Term]:
        """Returns the terms of an axis."""
        return [term for term in self.terms if term.axis == axis]

    def at(self, term: Term, coordinate: int) -> tuple[Distance, Distance]:
        """Returns the first pixel that a coordinate of a term sees, and the one past the last."""
        first, last = term.units_of(coordinate)
        return self.low + term.unit * first, self.low + term.unit * last + self.size

    def widened(self, axes: Sequence[int]) -> Span:
        """Returns what is seen by an element that reads all indices of these axes."""
        low, size = self.low, self.size
        for term in self.terms:
            if term.axis in axes:
                first, last = term.units_of(0)[0], term.units_of(term.length - 1)[1]
                low, size = low + term.unit * first, size + term.unit * (last - first)
        return Span(low, size, tuple(term for term in self.terms if term.axis not in axes))

    def moved(self, axis_of: Callable[[int], int | None]) -> Span | None:
        """Returns the same span with its axes renamed; None where an axis that matters is gone."""
        terms = []
        for term in self.terms:
            axis = axis_of(term.axis)
            if axis is not None:
                terms.append(term._replace(axis=axis))
            elif term.length > 1:
                return None
        return self._replace(terms=tuple(sorted(terms)))

    def windowed(
        self,
        axis: int,
        size: int,
        count: int,
        *,
        window: int = 1,
        stride: Distance = 1,
        dilation: Distance = 1,
        low: Distance = 0,
    ) -> Span | None:
        """Returns the span of windows over an axis; None where a reshape has mixed it with others.

        Args:
          axis: over which the windows slide.
          size: of the axis.
          count: how many windows there are.
          window: taps.
          stride: from a window to the next.
          dilation: from a tap to the next.
          low: how far before the axis the first window begins; negative behind it.
        """
        terms = self.along(axis)
        if not terms or (size, 1, 1, 0) == (count, window, stride, low):
            return self
        if len(terms) > 1 or terms[0].inner * terms[0].length != size:
            return None
        term = terms[0]
        _, inner, _, unit, rate, offset, width = term
        if inner > 1:  # each coordinate stands several times
            if not term.is_regular:
                return None
            rate, width = Fraction(1, inner), Fraction(inner - 1, inner)
            offset = -width
        new = Term(axis, 1, count, unit, rate * stride, offset - rate * low, width + rate * (window - 1) * dilation)
        kept = [other for other in self.terms if other is not term]
        return _regular(self.low, self.size, kept, new)

    def reshaped(self, old: Shape, new: Shape) -> Span | None:
        """Returns the span after a reshape; None where an axis is cut in a way that no terms describe."""
        if old == new:
            return self
        terms: list[Term] = []
        for term in self.terms:
            pieces = _pieces(term, old, new) if term.length > 1 else []
            if pieces is None:
                return None
            terms += pieces
        joined: list[Term] = []
        for term in sorted(terms, key=lambda term: (term.axis, term.inner)):
            if joined and joined[-1].is_continued_by(term):
                joined[-1] = joined[-1]._replace(length=joined[-1].length * term.length)
            else:
                joined.append(term)
        return self._replace(terms=tuple(joined))


def join(first: Span | None, second: Span | None, image: int) -> Span | None:
    """Returns what is seen by an element that reads one of each, of an image of this size; None if no terms say it.

    Where both move alike it is the interval around both. Where one stands still and sees the whole, so does the result.
    """
    if first is None or second is None or first == second:
        return first if first == second else None
    common = tuple(term for term in first.terms if term in second.terms)
    ours, theirs = ([term for term in span.terms if term not in common] for span in (first, second))
    if len(ours) == len(theirs) == 1 and ours[0].axis == theirs[0].axis:
        return _union_along(first, second, ours[0], theirs[0])
    if {term.axis for term in ours} & {term.axis for term in theirs}:
        return None
    one, other = first.widened([term.axis for term in ours]), second.widened([term.axis for term in theirs])
    if not one.terms == other.terms == common or not all(term.is_regular for term in common):
        return None
    low, high = min(one.low, other.low), max(one.low + one.size, other.low + other.size)
    still = not ours and not theirs
    if still or one == other or _sees_all(one, ours, other, image) or _sees_all(other, theirs, one, image):
        return Span(low, high - low, common)
    return None


def join_all(spans: Sequence[Span | None], image: int) -> Span | None:
    """Returns what is seen by an element that reads one of each."""
    return reduce(lambda first, second: join(first, second, image), spans)


def _sees_all(still: Span, moving: Sequence[Term], other: Span, image: int) -> bool:
    """True where a span stands still and holds all that another one sees, or all of the image."""
    low, high = still.low, still.low + still.size
    holds_it = low <= other.low and high >= other.low + other.size
    return not moving and (holds_it or (low <= 0 and high >= image))


def _union_along(first: Span, second: Span, ours: Term, theirs: Term) -> Span | None:
    """Returns the union of two spans that move by other terms along one axis, at the same pace."""
    if (ours.inner, ours.length, ours.unit * ours.rate) != (theirs.inner, theirs.length, theirs.unit * theirs.rate):
        return None
    rest = [term for term in first.terms if term is not ours]
    if not all(term.is_regular for term in rest):
        return None
    apart = Fraction(second.low - first.low) / ours.unit
    if ours.unit == theirs.unit and first.size == second.size and apart.denominator == 1:
        begin = min(ours.offset, theirs.offset + apart)
        end = max(ours.offset + ours.width, theirs.offset + apart + theirs.width)
        return _regular(first.low, first.size, rest, ours._replace(offset=begin, width=end - begin))
    phases = range(min(ours.length, math.lcm(*(Fraction(term.rate).denominator for term in (ours, theirs)))))
    pairs = [(first.at(ours, i), second.at(theirs, i)) for i in phases]
    if all(a[0] <= b[0] and b[1] <= a[1] for a, b in pairs):
        return first
    return second if all(b[0] <= a[0] and a[1] <= b[1] for a, b in pairs) else None


def _regular(low: Distance, size: Distance, rest: Sequence[Term], term: Term) -> Span:
    """Returns the span of these terms, the last made regular where it moves by whole units."""
    axis, inner, length, unit, rate, offset, width = term
    if Fraction(rate).denominator == Fraction(offset).denominator == 1:
        low, size = low + unit * offset, size + unit * math.floor(width)
        term = Term(axis, inner, length, unit * rate)
    return Span(low, size, tuple(sorted([*rest, term])))


def _pieces(term: Term, old: Shape, new: Shape) -> list[Term] | None:
    """Returns the terms of a term after a reshape, one for each new axis that has a part of its coordinate."""
    begin = term.inner * math.prod(old[term.axis + 1 :])
    end, pieces, covered, suffix = begin * term.length, [], 1, 1
    for axis in reversed(range(len(new))):
        low, high = max(begin, suffix), min(end, suffix * new[axis])
        if low < high:
            if high % low or low % suffix or low % begin:
                return None
            unit = term.unit * (low // begin)
            pieces.append(term._replace(axis=axis, inner=low // suffix, length=high // low, unit=unit))
            covered *= high // low
        suffix *= new[axis]
    whole = len(pieces) == 1 or term.is_regular
    return pieces if covered == term.length and whole else None
