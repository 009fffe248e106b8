"""Ctrl-C before there is anything to save: the process ends at once, wherever it is."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

SENTENCE = "interrupted: what was saved before is kept."


def install() -> None:
    """Ends the process with exit code 130 at Ctrl-C, without raising KeyboardInterrupt.

    Raised inside a callback of C code, as happens while XLA compiles, the exception would be printed at best and lost.
    While a run is under way, `train.fit` puts its own handler here, which saves first.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def _end(number: int, frame: FrameType | None) -> None:
    print(f"\n{SENTENCE}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(130)
