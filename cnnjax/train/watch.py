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
        """Something is not as it was, or was put right; the run goes on."""
        log.warning(sentence)

    def begin(self, done: int, total: int) -> None:
        """The first update of this process follows, after `done` of `total`."""
        log.info("update %d of %d", done, total)

    def update(self, count: int, values: Mapping[str, float], examples_per_second: float | None) -> None:
        """So many updates were made; `values` and the speed are new at every record, else empty and None."""

    def evaluated(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Every split was scored."""
        shown = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items())
        log.info("epoch %d, step %d: %s", epoch, step, shown)

    def stopping(self, signal: str) -> None:
        """A signal came: the run will save and leave at the end of the call under way. Must not block."""
        log.warning("%s: saving, then leaving", signal)

    def end(self) -> None:
        """The last update of this process is made, or an error ended the run."""
