"""Times contenders in turns, after checking that they compute the same numbers."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from absl import flags
from busy import undisturbed

from cnnjax.errors import UserError

FLAGS = flags.FLAGS
T = TypeVar("T")
Arrays = Any  # an array, or a tree of arrays
Run = Callable[[], Arrays]  # one call, computed to its end
Contenders = dict[str, Run]
Result = dict[str, Any]  # of one case: its name, what was measured, seconds, ratios and their spread by peer
LEAST_SECONDS = 0.05  # of one timing: shorter calls are repeated
LONG_SECONDS = 0.5  # calls of this length need no call before to fill the caches
PAUSE_SECONDS = 0.005  # before a timing: threads of the contender before may still be spinning


class Timings(NamedTuple):
    """Holds the timings of a case.

    Attributes:
      seconds: per call of each contender, one timing per round.
      disturbed: number of rounds beside which other processes were busy; only `--busy=mark` keeps such.
    """

    seconds: dict[str, list[float]]
    disturbed: int


def in_turns(contenders: Contenders, rounds: int) -> Timings:
    """Times each contender once per round, in a drawn order; a round beside busy processes is timed again."""
    calls = {}
    for name, run in contenders.items():
        run()
        started = time.perf_counter()
        run()
        calls[name] = time.perf_counter() - started
    order = random.Random(0)
    timed = [alone(lambda: one_round(contenders, calls, order)) for _ in range(rounds)]
    seconds = {name: [one[name] for one, _ in timed] for name in contenders}
    return Timings(seconds, sum(disturbed for _, disturbed in timed))


def one_round(contenders: Contenders, calls: dict[str, float], order: random.Random) -> dict[str, float]:
    """Returns the seconds per call of each contender, of which `calls` says about how long one takes."""
    seconds = {}
    for name in order.sample(list(contenders), len(contenders)):
        run, repeats = contenders[name], max(1, math.ceil(LEAST_SECONDS / calls[name]))
        if calls[name] < LONG_SECONDS:
            run()
        time.sleep(PAUSE_SECONDS)
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        seconds[name] = (time.perf_counter() - started) / repeats
    return seconds


def alone(measure: Callable[[], T]) -> tuple[T, bool]:
    """Measures, and tells whether other processes were busy meanwhile; `--busy` says what happens then."""
    return undisturbed(measure, refuse=FLAGS.busy == "refuse")


def compare(name: str, measure: str, contenders: Contenders, tolerance: float, reference: str | None = None) -> Result:
    """Checks that all contenders compute the same numbers, and times them.

    Args:
      name: of the case.
      measure: what is timed.
      contenders: ours first.
      tolerance: as for `check_equal`.
      reference: whose numbers are right; by default ours.
    """
    own, *_ = contenders
    reference = reference or own
    expected = contenders[reference]()
    for other in contenders:
        if other != reference:
            check_equal(f"{other} at {name}, {measure}", expected, contenders[other](), tolerance)
    seconds, disturbed = in_turns(contenders, FLAGS.rounds)
    layouts = [peer for peer in seconds if peer.startswith("torch ")]
    if layouts:
        best = min(layouts, key=lambda layout: median(seconds[layout]))
        seconds["torch"] = seconds[best]
    peers = [peer for peer in seconds if peer not in (own, *layouts)] + (layouts if len(layouts) > 2 else [])
    ratios = {peer: [a / b for a, b in zip(seconds[own], seconds[peer], strict=True)] for peer in peers}
    return {
        "case": name,
        "measure": measure,
        "seconds": seconds,
        "ratios": {peer: median(values) for peer, values in ratios.items()},
        "spread": {peer: [min(values), max(values)] for peer, values in ratios.items()},
        "disturbed": disturbed,
    }


def check_equal(what: str, expected: Arrays, got: Arrays, tolerance: float) -> None:
    """Raises UserError where two trees of arrays differ.

    They may differ by `tolerance` times the largest number.
    """
    for ours, theirs in zip(jax.tree.leaves(expected), jax.tree.leaves(got), strict=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        error = abs(ours - theirs).max() / abs(ours).max() if ours.shape == theirs.shape else math.inf
        if not error <= tolerance:
            raise UserError(f"{what}: not our numbers (shapes {theirs.shape}, {ours.shape}; error {error:.1e}).")
