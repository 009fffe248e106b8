"""Ctrl-C before there is anything to save: the process ends at once, wherever it is."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

SENTENCE = "interrupted: what was saved before is kept."
#: Called before the process ends.
before_the_end: list[Callable[[], object]] = []


def install() -> None:
    """Ends the process with exit code 130 at Ctrl-C, without raising KeyboardInterrupt.

    Scripts call it before they import JAX. Raised inside an import or a callback of C code, the exception would be
    printed at best, and lost. While a run is under way, `train.fit` puts its own handler here, which saves first.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def say(sentence: str) -> None:
    """Prints a line on standard error from a signal handler, which may have come in the middle of another print."""
    with contextlib.suppress(OSError):
        os.write(2, f"\n{sentence}\n".encode())


def _end(number: int, frame: FrameType | None) -> None:
    say(SENTENCE)
    for function in before_the_end:
        function()
    with contextlib.suppress(Exception):  # the signal came while it was written to
        sys.stdout.flush()
    os._exit(130)
