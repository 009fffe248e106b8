"""Convolutional networks in JAX: pure ops, the nets of the textbooks, and training that resumes to the bit.

``cnnjax.ops``, ``.layers``, ``.models``, ``.data``, ``.train`` and ``.report`` are imported when they are first used.
"""

import importlib
from typing import Any

__all__ = ["data", "layers", "models", "ops", "report", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"cnnjax.{name}")
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")
