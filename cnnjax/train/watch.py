"""Follows a run: the engine tells, what is shown is the caller's."""

from __future__ import annotations

import logging
from collections.abc import Mapping

log = logging.getLogger("cnnjax")


class Watch:
    """Is told what a run does. This one logs to Python's logger `cnnjax`; override what you want to see otherwise.

    `logging.basicConfig(level=logging.INFO)` shows the evaluations; warnings are shown as they are.
    """

    def warn(self, sentence: str) -> None:
        """Takes a warning; the run goes on."""
        log.warning(sentence)

    def begin(self, done: int, total: int) -> None:
        """Is called before the first update of this process, after `done` of `total`."""
        log.info("update %d of %d", done, total)

    def placed(self, on_each: int, in_all: int) -> None:
        """Takes the bytes of the training state that lie on each device, and those of all of it."""
        if on_each < in_all:
            log.info("the training state takes %.1f MB on each device, of %.1f MB", on_each / 1e6, in_all / 1e6)

    def update(self, count: int, values: Mapping[str, float], examples_per_second: float | None) -> None:
        """Is called after `count` updates; `values` and the speed come with every record, else empty and None."""

    def evaluated(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Takes the scores of an epoch: means of the training, and of every split that was evaluated."""
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        log.info("epoch %d, step %d: %s", epoch, step, shown)

    def stopping(self, signal: str) -> None:
        """Is called by the signal's handler and must not block; the run saves after its present call."""
        log.warning("%s: saving, then leaving", signal)

    def end(self) -> None:
        """Is called after the last update of this process, or after an error."""


class Warnings(Watch):
    """Passes warnings on to another watch, and nothing else: for the processes beside the main one."""

    def __init__(self, to: Watch):
        self._to = to

    def warn(self, sentence: str) -> None:
        """Passes a warning on."""
        self._to.warn(sentence)

    def begin(self, done: int, total: int) -> None:
        """Says nothing."""

    def placed(self, on_each: int, in_all: int) -> None:
        """Says nothing."""

    def evaluated(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Says nothing."""

    def stopping(self, signal: str) -> None:
        """Says nothing."""
