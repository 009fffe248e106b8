"""What an element of an array sees of the image along one of its dimensions, as an interval that moves with indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from typing import NamedTuple

Distance = int | Fraction
Shape = tuple[int, ...]


class Term(NamedTuple):
    """How an interval moves: by `step` pixels with coordinate `(index // inner) % count` along an axis.

    `inner` is 1 and `count` the axis' size, but where a reshape has joined axes.
    """

    axis: int
    inner: int
    count: int  # type: ignore[assignment]  # a tuple's own count is not needed
    step: Distance

    @property
    def reach(self) -> Distance:
        """How far the interval moves from the first coordinate to the last."""
        return (self.count - 1) * self.step

    def is_continued_by(self, other: Term) -> bool:
        """True where two terms are the digits of one coordinate, this one the lower."""
        size = self.inner * self.count
        return (other.axis, other.inner, other.step) == (self.axis, size, self.step * self.count)


class Span(NamedTuple):
    """The pixels that an element sees: `size` of them from `low` plus its terms on; padding included."""

    low: Distance
    size: Distance
    terms: tuple[Term, ...] = ()

    @property
    def reach(self) -> Distance:
        """How far the intervals of all elements move."""
        return sum(term.reach for term in self.terms)

    @property
    def high(self) -> Distance:
        """Where the last element's interval ends."""
        return self.low + self.reach + self.size

    def along(self, axis: int) -> list[Term]:
        """Returns the terms of an axis."""
        return [term for term in self.terms if term.axis == axis]

    def widened(self, axes: Sequence[int]) -> Span:
        """Returns what is seen by an element that reads all indices of these axes."""
        gone = [term for term in self.terms if term.axis in axes]
        kept = tuple(term for term in self.terms if term.axis not in axes)
        return Span(self.low, self.size + sum(term.reach for term in gone), kept)

    def moved(self, axis_of: Callable[[int], int | None]) -> Span | None:
        """Returns the same span with its axes renamed; None where an axis that matters is gone."""
        terms = []
        for term in self.terms:
            axis = axis_of(term.axis)
            if axis is not None:
                terms.append(term._replace(axis=axis))
            elif term.count > 1:
                return None
        return self._replace(terms=tuple(sorted(terms)))

    def resliced(self, axis: int, size: int, start: int, step: int, count: int) -> Span | None:
        """Returns the span of elements `start`, `start + step`, ... of an axis of this size; start may be negative."""
        terms = self.along(axis)
        if not terms or (start, step, count) == (0, 1, size):
            return self
        if len(terms) > 1 or (terms[0].inner, terms[0].count) != (1, size):
            return None
        term = terms[0]
        return self._with(term, Term(axis, 1, count, term.step * step), self.low + start * term.step, self.size)

    def windowed(
        self, axis: int, size: int, window: int, stride: Distance, dilation: int, low: Distance, count: int, to: int
    ) -> Span | None:
        """Returns the span of windows over an axis: the formula of `cnnjax.ops.receptive_field`.

        Args:
          axis: the axis of this size, over which the windows slide.
          size: of the axis.
          window: taps.
          stride: from a window to the next.
          dilation: from a tap to the next.
          low: how far before the axis the first window begins.
          count: how many windows there are.
          to: the axis of the windows in the result.
        """
        terms = self.along(axis)
        if not terms:
            return self
        if len(terms) > 1 or terms[0].inner * terms[0].count != size:
            return None
        term = terms[0]
        step = Fraction(term.step) / term.inner  # pixels that a reshape or a repetition has set closer
        seen = self.size + (window - 1) * dilation * step
        return self._with(term, Term(to, 1, count, step * stride), self.low - low * step, seen)

    def reshaped(self, old: Shape, new: Shape) -> Span | None:
        """Returns the span after a reshape; None where an axis is cut in a way that no terms describe."""
        if old == new:
            return self
        terms: list[Term] = []
        for term in self.terms:
            if term.count > 1:
                pieces = _pieces(term, old, new)
                if pieces is None:
                    return None
                terms += pieces
        terms.sort(key=lambda term: (term.axis, term.inner))
        joined: list[Term] = []
        for term in terms:
            last = joined[-1] if joined else None
            if last and last.is_continued_by(term):
                joined[-1] = last._replace(count=last.count * term.count)
            else:
                joined.append(term)
        return self._replace(terms=tuple(joined))

    def _with(self, old: Term, new: Term, low: Distance, size: Distance) -> Span:
        kept = [new if term is old else term for term in self.terms]
        return Span(low, size, tuple(sorted(kept)))


def join(first: Span | None, second: Span | None, image: int) -> Span | None:
    """Returns what is seen by an element that reads one of each, of an image of this size; None if no terms say it.

    Where both move alike it is the interval around both. Where one stands still and sees the whole, so does the result.
    """
    if first is None or second is None:
        return None
    common = tuple(term for term in first.terms if term in second.terms)
    ours, theirs = ([term for term in span.terms if term not in common] for span in (first, second))
    one, other = (
        Span(span.low, span.size + sum(term.reach for term in rest), common)
        for span, rest in ((first, ours), (second, theirs))
    )
    low, high = min(one.low, other.low), max(one.low + one.size, other.low + other.size)
    apart = not {term.axis for term in ours} & {term.axis for term in theirs}
    alike = not ours and not theirs
    if alike or (apart and (one == other or _fixed_on_all(one, ours, other, theirs, image))):
        return Span(low, high - low, common)
    return None


def join_all(spans: Sequence[Span | None], image: int) -> Span | None:
    """Returns what is seen by an element that reads one of each."""
    return reduce(lambda first, second: join(first, second, image), spans)


def _fixed_on_all(one: Span, ours: list[Term], other: Span, theirs: list[Term], image: int) -> bool:
    """True where a span that stands still holds all that the other one sees, or all of the image."""
    for still, moving, moves in ((one, ours, other), (other, theirs, one)):
        low, high = still.low, still.low + still.size
        holds_it = low <= moves.low and high >= moves.low + moves.size
        if not moving and (holds_it or (low <= 0 and high >= image)):
            return True
    return False


def _pieces(term: Term, old: Shape, new: Shape) -> list[Term] | None:
    """Returns the terms of a term after a reshape, one for each new axis that has a part of its coordinate."""
    begin = term.inner
    for size in old[term.axis + 1 :]:
        begin *= size
    end, pieces, covered, suffix = begin * term.count, [], 1, 1
    for axis in reversed(range(len(new))):
        low, high = max(begin, suffix), min(end, suffix * new[axis])
        if low < high:
            if high % low or low % suffix or low % begin:
                return None
            pieces.append(Term(axis, low // suffix, high // low, term.step * (low // begin)))
            covered *= high // low
        suffix *= new[axis]
    return pieces if covered == term.count else None
