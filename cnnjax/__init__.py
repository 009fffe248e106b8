"""Convolutional networks in JAX: pure ops, the nets of the textbooks, and training that resumes to the bit.

``cnnjax.ops``, ``.layers``, ``.models``, ``.data``, ``.train``, ``.report`` and ``.interop`` are imported when they are
first used; ``cnnjax.describe(model, input_shape)`` is the layer table.
"""

import importlib
from typing import Any

PARTS = ("data", "interop", "layers", "models", "ops", "report", "train")
__all__ = ["data", "describe", "interop", "layers", "models", "ops", "report", "train"]


def __getattr__(name: str) -> Any:
    if name == "describe":
        return importlib.import_module("cnnjax.inspect").describe
    if name in PARTS:
        return importlib.import_module(f"cnnjax.{name}")
    raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")
