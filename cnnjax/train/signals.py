"""Signals that save first: SIGTERM and Ctrl-C while a run is under way."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def catch_signals(tell: Callable[[str], None], *, group: bool = False) -> Iterator[list[signal.Signals]]:
    """Collects SIGTERM and SIGINT instead of ending the process; a second SIGINT does what it did before.

    Args:
      tell: is called with the signal's name when one arrives.
      group: whether this is one of several processes. SIGTERM is then left to JAX, which tells the others; a handler
        here would take it away. SIGINT is sent on as SIGTERM.
    """
    caught: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        tell(caught[-1].name)
        if group:
            os.kill(os.getpid(), signal.SIGTERM)

    numbers = (signal.SIGINT,) if group else (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
