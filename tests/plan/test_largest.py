"""The search for the largest batch: how many compilations it takes, and where it ends."""

from __future__ import annotations

import math

import pytest

from cnnjax.plan.largest import Refusal, largest_batch, refusal


def search(
    fixed: float, slope: float, known: int, *, unit: int = 4, says: bool = True
) -> tuple[int, list[int], int | None, float | None]:
    """The answer and the compilations where the memory is `fixed + slope * batch` of 16 GB."""
    compiled: list[int] = []

    def peak_of(size: int) -> float | None:
        compiled.append(size)
        peak = fixed + slope * size
        return peak if says or peak <= 16e9 else None

    found = largest_batch(
        peak_of, {known: fixed + slope * known}, unit=unit, limit=unit * 2**16, usable=16e9
    )  # fmt: skip
    assert found.compilations == len(compiled)
    return found.batch_size, compiled, found.next_size, found.next_peak


def test_two_compilations_find_it_and_verify_it() -> None:
    """(16e9 - 1e7) / 2e5 is 79,950; with four leading binary digits, of 4 devices, 73,728, and then 81,920."""
    assert search(1e7, 2e5, 64) == (73728, [512, 73728], 81920, pytest.approx(16.394e9))


def test_from_a_batch_that_does_not_fit() -> None:
    assert search(1e7, 2e5, 131072)[:2] == (73728, [16384, 73728])


def test_a_net_that_is_large_without_any_example() -> None:
    assert search(15e9, 1e5, 8)[:2] == (9216, [64, 9216])


def test_nothing_fits() -> None:
    batch, compiled, after, needed = search(17e9, 1e5, 8)
    assert (batch, compiled, after, needed) == (0, [4], 4, 17e9 + 4e5)


def test_a_tiny_net_ends_at_the_limit() -> None:
    assert search(0, 1e3, 8) == (4 * 2**16, [64, 4 * 2**16], None, None)


def test_a_compiler_that_does_not_say_how_much_it_needs() -> None:
    """The probe of 80,000 is refused; between it and 10,000 the line through 10,000 and 40,960 leads."""
    batch, compiled, after, _ = search(1e7, 2e5, 10_000, says=False)
    assert batch in (65536, 73728) and len(compiled) <= 4 and after is not None and batch < 79_950


def test_a_first_batch_of_which_nothing_is_said() -> None:
    def peak_of(size: int) -> float | None:
        return None if size > 16 else 1e9 * size

    found = largest_batch(peak_of, {64: math.inf}, unit=4, limit=4 * 2**16, usable=16e9, most=8)
    assert found.batch_size == found.peak / 1e9 == 16


def test_memory_that_jumps() -> None:
    """Above 1,000 examples it is twice as much as the line says: what is answered has been compiled and fits."""
    compiled: dict[int, float] = {}

    def peak_of(size: int) -> float:
        compiled[size] = size * (1e6 if size <= 1000 else 2e6)
        return compiled[size]

    found = largest_batch(peak_of, {64: 64e6}, unit=1, limit=2**16, usable=16e9)
    assert compiled[found.batch_size] == found.peak <= 16e9
    assert found.batch_size == 7680 and found.compilations <= 4


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
         "Used 20.50G of 16.00G hbm. Exceeded hbm capacity by 4.50G.", Refusal(20.5 * 2**30, 16 * 2**30)),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (450.00G) "
         "exceeds available HBM (15.75G).", Refusal(450 * 2**30, 15.75 * 2**30)),
        ("RESOURCE_EXHAUSTED: no", Refusal(None, None)),
    ],
)  # fmt: skip
def test_the_sizes_in_the_compilers_message(sentence: str, expected: Refusal) -> None:
    assert refusal(sentence) == expected
