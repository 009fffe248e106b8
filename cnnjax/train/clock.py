"""How long something takes, and how much of that is compiling."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from jax import monitoring

COMPILING = "/jax/core/compile/"
"""What the names of JAX's events begin with that say when something is traced, lowered or compiled."""


class Clock:
    """Measures the time within a `with`.

    Attributes:
      seconds: from its begin to its end.
      compile_seconds: those of them in which JAX traces, lowers or compiles, in whichever threads, each counted once.
    """

    def __enter__(self) -> Clock:
        self._spans: list[tuple[float, float]] = []
        self.seconds = self.compile_seconds = 0.0
        monitoring.register_event_time_span_listener(self._note)
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.perf_counter() - self._begin
        monitoring.unregister_event_time_span_listener(self._note)
        self.compile_seconds = covered(self._spans)

    def _note(self, event: str, start_time: float, end_time: float, **others: Any) -> None:
        if event.startswith(COMPILING):
            self._spans.append((start_time, end_time))


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Returns the length of the union of spans of time, which may overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
