"""Notices other processes that keep cores busy: a spin test."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from cnnjax.errors import UserError

T = TypeVar("T")
SETTLE_SECONDS = 0.02  # of spinning before the test: the scheduler first has to spread the threads over the cores
SPIN_SECONDS = 0.05  # of a test
FREE = 0.9  # share of a core that each thread of a test gets where all cores are free
TESTS = 5  # of which one has to find all cores free: a look at the clock by another process is none of our business
PAUSE_SECONDS = 0.1  # between tests, within which the spinning threads of a contender go to sleep
ATTEMPTS = 5  # to time something alone
WAIT_SECONDS = 1.0  # between these
BLOCK = bytes(2**20)  # large enough for hashlib to let go of Python's lock


def undisturbed(measure: Callable[[], T], *, refuse: bool) -> tuple[T, bool]:
    """Returns what `measure` returns, and whether other processes were busy before or after it.

    Args:
      measure: times something.
      refuse: whether it is measured again where others were busy, and the run ended where they stay so.

    Raises:
      UserError: other processes stay busy.
    """
    share = 1.0
    for _ in range(ATTEMPTS if refuse else 1):
        before = free_share()
        if before < FREE and refuse:
            share = before
            time.sleep(WAIT_SECONDS)
            continue
        measured = measure()
        share = min(before, free_share())
        if share >= FREE or not refuse:
            return measured, share < FREE
    raise UserError(
        f"other processes keep cores of this machine busy: of {cores()} threads that did nothing but compute, one got "
        f"{share:.0%} of a core. Beside them no timing means anything, PyTorch's least of all: end them, or wait until "
        "they have ended, and run this again; --busy=mark goes on, and marks what was disturbed."
    )


def free_share() -> float:
    """Returns the largest `core_share` of some tests, the first one that finds all cores free."""
    share = 0.0
    for number in range(TESTS):
        if number:
            time.sleep(PAUSE_SECONDS)
        share = max(share, core_share())
        if share >= FREE:
            break
    return share


def core_share() -> float:
    """Spins one thread per core; returns the smallest share of a core's time that one of them got.

    It is CPU time over wall time, so a slow or throttled core counts as a whole one.
    """
    shares = [1.0] * cores()
    together = threading.Barrier(len(shares))

    def spin(number: int) -> None:
        together.wait()
        compute(SETTLE_SECONDS)
        wall, cpu = time.perf_counter(), time.thread_time()
        compute(SPIN_SECONDS)
        shares[number] = (time.thread_time() - cpu) / (time.perf_counter() - wall)

    threads = [threading.Thread(target=spin, args=(number,)) for number in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return min(shares)


def compute(seconds: float) -> None:
    """Keeps a core busy, without Python's lock."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        hashlib.sha256(BLOCK)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
