"""Convolutional networks in JAX: pure ops, the nets of the textbooks, and training that resumes to the bit.

The parts `cnnjax.ops`, `.layers`, `.models`, `.inspect`, `.data`, `.train`, `.plan`, `.report` and `.interop` are
imported when they are first used; `cnnjax.describe(model, input_shape)` is the layer table.
"""

import importlib
from typing import TYPE_CHECKING, Any

#: Also in pyproject.toml.
__version__ = "0.1.0"
#: What `import *` gives. `inspect` is left to the standard library there.
__all__ = ["data", "describe", "errors", "interop", "layers", "models", "ops", "plan", "report", "train"]

_PARTS = ("data", "errors", "inspect", "interop", "layers", "models", "ops", "plan", "report", "train")

if TYPE_CHECKING:
    from cnnjax import data, errors, interop, layers, models, ops, plan, report, train
    from cnnjax import inspect as inspect
    from cnnjax.inspect import describe
else:  # hidden from type checkers, which would take any name for a part

    def __getattr__(name: str) -> Any:
        if name == "describe":
            return importlib.import_module("cnnjax.inspect").describe
        if name in _PARTS:
            return importlib.import_module(f"cnnjax.{name}")
        raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*_PARTS, "describe", "__version__", "__doc__", "__name__", "__path__", "__file__"})
