"""Compiling where memory may not suffice, and the largest batch for which it does."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping

import jax

from cnnjax.plan.program import Program, read

MOST_OF_A_DEVICE = 2**16  # examples: larger batches are not looked for
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The compiler's answer where the memory of a device does not suffice.

    Attributes:
      needed: bytes; None where it does not say.
      available: bytes; likewise.
    """

    needed: float | None
    available: float | None


def compile_program(lowered: jax.stages.Lowered) -> Program | Refusal:
    """Compiles a lowered program and reads it; what does not fit is a `Refusal`, any other error is raised."""
    try:
        return read(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return refusal(str(error))


def refusal(sentence: str) -> Refusal:
    """Reads the sizes in XLA's message.

    Example:
      >>> refusal("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.5G of 16.0G hbm.")
      Refusal(needed=22011707392.0, available=17179869184.0)
    """
    for pattern in (r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?)", r"\(([\d.]+)([KMGT]?)\).*?\(([\d.]+)([KMGT]?)\)"):
        if found := re.search(pattern, sentence):
            needed, unit, available, other = found.groups()
            return Refusal(float(needed) * _UNITS[unit], float(available) * _UNITS[other])
    return Refusal(None, None)


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch that fits, as far as a few compilations tell.

    Attributes:
      batch_size: over all devices; 0 where none was found.
      peak: bytes on each device at this batch, as compiled.
      compilations: how many there were.
      next_size: the next larger one, which does not fit; None where larger ones were not looked for.
      next_peak: bytes that it takes, as compiled or by the line through two others; None where nothing says it.
    """

    batch_size: int
    peak: float
    compilations: int
    next_size: int | None
    next_peak: float | None


def largest_batch(
    peak_of: Callable[[int], float | None],
    known: Mapping[int, float],
    *,
    unit: int,
    limit: int,
    usable: float,
    most: int = 4,
) -> Largest:
    """Returns the largest batch that fits, among sizes of four leading binary digits.

    Memory is nearly linear in the batch. The line through the two largest sizes known says which one to compile next,
    until one is compiled that fits, and the next one would not.

    Args:
      peak_of: compiles for a batch size and returns the bytes on each device; None where the compiler refuses and does
        not say.
      known: bytes by batch size, of what is compiled already.
      unit: batch sizes are multiples of this.
      limit: larger ones are not tried.
      usable: bytes on each device.
      most: number of compilations at most.
    """
    peaks = dict(known)
    done = 0
    while (size := _next(peaks, unit, limit, usable)) and done < most:
        peak, done = peak_of(size), done + 1
        peaks[size] = math.inf if peak is None else peak
    best, _ = _bracket(peaks, usable)
    after = _after(best, unit)
    if after > limit:
        return Largest(best, peaks[best], done, None, None)
    expected = peaks.get(after, _line(peaks, after))
    return Largest(best, peaks.get(best, 0.0), done, after, expected if math.isfinite(expected) else None)


def _next(peaks: Mapping[int, float], unit: int, limit: int, usable: float) -> int | None:
    """Returns the batch size to compile next; None where the largest one is known."""
    best, too_large = _bracket(peaks, usable)
    after = _after(best, unit)
    if after > limit or after >= too_large:
        return None
    if len(_numbers(peaks)) < 2:  # the state and the activations cannot be told apart yet
        guess: float = 8 * best if best else too_large // 8
    else:
        guess = _solution(peaks, usable)
        if guess < after:
            return None
    size = _rounded(min(guess, limit), unit)
    return max(_rounded((best + too_large) / 2, unit) if size >= too_large else size, after)


def _bracket(peaks: Mapping[int, float], usable: float) -> tuple[int, float]:
    """Returns the largest size known to fit, 0 without any, and the smallest known not to."""
    fits = [size for size, peak in peaks.items() if peak <= usable]
    fails = [size for size, peak in peaks.items() if peak > usable]
    return max(fits, default=0), min(fails, default=math.inf)


def _rounded(size: float, unit: int) -> int:
    """Rounds down to a multiple of the unit with four leading binary digits."""
    count = max(int(size) // unit, 1)
    step = 2 ** max(count.bit_length() - 4, 0)
    return count // step * step * unit


def _after(size: int, unit: int) -> int:
    """Returns the next larger of these."""
    count = size // unit
    return _rounded((count + 2 ** max(count.bit_length() - 4, 0)) * unit, unit)


def _numbers(peaks: Mapping[int, float]) -> list[tuple[int, float]]:
    return sorted((size, peak) for size, peak in peaks.items() if math.isfinite(peak))[-2:]


def _line(peaks: Mapping[int, float], size: float) -> float:
    """Returns the bytes at a size by the line through the two largest known; infinite where there are not two."""
    if len(_numbers(peaks)) < 2:
        return math.inf
    (x0, y0), (x1, y1) = _numbers(peaks)
    return y1 + (y1 - y0) / (x1 - x0) * (size - x1)


def _solution(peaks: Mapping[int, float], usable: float) -> float:
    """Returns the size at which that line reaches `usable`."""
    (x0, y0), (x1, y1) = _numbers(peaks)
    slope = (y1 - y0) / (x1 - x0)
    return math.inf if slope <= 0 else x1 + (usable - y1) / slope
