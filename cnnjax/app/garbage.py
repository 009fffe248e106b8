"""Garbage collection at the start of a script: it would look, again and again, at objects that stay."""

from __future__ import annotations

import gc


def pause() -> None:
    """Stops the collection of cycles until `resume`; scripts call it before they import JAX."""
    gc.disable()


def resume() -> None:
    """Collects again, but not what was made until now: modules, classes and functions, which stay."""
    gc.freeze()
    gc.enable()
