"""Times contenders in turns, after checking that they compute the same numbers."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import numpy as np
from absl import flags

from cnnjax.errors import UserError

FLAGS = flags.FLAGS
Arrays = Any  # an array, or a tree of arrays
Run = Callable[[], Arrays]  # one call, computed to its end
Contenders = dict[str, Run]
Result = dict[str, Any]  # of one case: its name, what was measured, seconds, ratios and their spread by peer
LEAST_SECONDS = 0.05  # of one timing: shorter calls are repeated
PAUSE_SECONDS = 0.005  # before a timing: threads of the contender before may still be spinning


def in_turns(contenders: Contenders, rounds: int) -> dict[str, list[float]]:
    """Returns the seconds per call of each contender, one timing per round."""
    repeats = {}
    for name, run in contenders.items():
        run()
        started = time.perf_counter()
        run()
        repeats[name] = max(1, math.ceil(LEAST_SECONDS / (time.perf_counter() - started)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    order = random.Random(0)
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            run = contenders[name]
            run()
            time.sleep(PAUSE_SECONDS)
            started = time.perf_counter()
            for _ in range(repeats[name]):
                run()
            seconds[name].append((time.perf_counter() - started) / repeats[name])
    return seconds


def compare(name: str, measure: str, contenders: Contenders, tolerance: float) -> Result:
    """Checks that all contenders compute the numbers of the first, and times them."""
    own, *others = contenders
    expected = contenders[own]()
    for other in others:
        check_equal(f"{other} at {name}, {measure}", expected, contenders[other](), tolerance)
    seconds = in_turns(contenders, FLAGS.rounds)
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
