"""Makes the net that a run's configuration describes: one of ours, a registered one, or a class by its path."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from cnnjax.errors import UserError
from cnnjax.models.draw import draw_at_once

Make = Callable[..., nnx.Module]
MODELS: dict[str, Make] = {}
"""Makers by name."""
OFFERED = ("num_classes", "channels", "size", "dtype", "rngs")
"""Keywords that a net of one's own gets where its signature has them."""


def register(name: str, make: Make) -> Make:
    """Registers a net under a name, for `build` and `--model=NAME`.

    Args:
      name: letters, digits, `_` and `-`.
      make: a class or function, called as `make(num_classes=..., channels=..., size=..., dtype=..., rngs=...)` with
        those of these keywords that it takes, and with keywords of its own.

    Returns:
      `make`.

    Raises:
      ValueError: the name is taken by another, or not well-formed.

    Example:
      >>> class Mine(nnx.Module):
      ...     def __init__(self, num_classes, *, rngs):
      ...         self.dense = nnx.Linear(64, num_classes, rngs=rngs)
      >>> make = register("mine", Mine)
      >>> build({"model": {"name": "mine", "num_classes": 3}}).dense.out_features
      3
    """
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"name must be of letters, digits, _ and -, was {name!r}")
    if MODELS.get(name, make) is not make:
        raise ValueError(f"name {name!r} is taken by {MODELS[name]}: choose another")
    MODELS[name] = make
    return make


def build(config: Mapping[str, Any]) -> nnx.Module:
    """Builds the model that a run's config describes, freshly initialised.

    Args:
      config: `config["model"]` holds the model's name and keywords, `{"name": "lenet5", "channels": 1, ...}`. The name
        is one of `MODELS`, `package.module:Class`, or `path/file.py:Class`; a net of one's own gets those of the
        keywords `OFFERED` that its signature has. `config["dtype"]` is the computation's dtype (default float32),
        `config["seed"]` the seed (default 0).

    Returns:
      The model, in training mode.

    Raises:
      UserError: no such model, one without these keywords, or a configuration without any.

    Example:
      >>> build({"model": {"name": "lenet5", "variant": "classic"}}).variant
      'classic'
    """
    if "model" not in config:
        raise UserError(
            'the configuration has no "model": it is of a run of `train.fit` on a net of your own. Make that net, and '
            "give it to `train.load`."
        )
    options = dict(config["model"])
    name = options.pop("name")
    make = find(name)
    offered = {**options, "dtype": config.get("dtype", "float32")}
    seed = config.get("seed", 0)
    try:
        if _is_own(make):
            model = draw_at_once(make, _taken(make, offered), seed)
        else:  # whether a net of one's own can be traced, nobody knows
            model = make(**_taken(make, {**offered, "rngs": nnx.Rngs(seed)}))
    except (TypeError, ValueError) as error:
        raise UserError(f"the model {name} cannot be built from {options}: {error}.") from error
    if not isinstance(model, nnx.Module):
        raise UserError(f"the model {name} made a {type(model).__name__}; it must be a flax.nnx.Module.")
    return model


def find(name: str) -> Make:
    """Returns the maker of a name: registered, or imported from `module:Class` or `file.py:Class`.

    Raises:
      UserError: there is none.
    """
    if name in MODELS:
        return MODELS[name]
    where, colon, attribute = name.rpartition(":")
    if not colon:
        raise UserError(
            f"there is no model {name!r}: it must be one of {', '.join(MODELS)}, or one of your own as "
            "package.module:Class or file.py:Class."
        )
    module = _file(Path(where)) if where.endswith(".py") else _module(where)
    if not hasattr(module, attribute):
        raise UserError(f"{where} has no {attribute!r}: the model must be one of its classes or functions.")
    return getattr(module, attribute)


def _is_own(make: Make) -> bool:
    """True for the nets of this package."""
    return isinstance(make, type) and make.__module__.startswith(f"{__package__}.")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except (ImportError, TypeError, ValueError) as error:  # the last two: an empty or relative name
        raise UserError(
            f"the module {name} of the model cannot be imported ({error}): install it, or give a file as "
            "path/file.py:Class."
        ) from None


def _file(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"the file {path} of the model is not there, seen from {Path.cwd()}: give its path.")
    name = f"cnnjax_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.resolve().parent))  # where the file's own imports are looked for, last
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise UserError(f"the file {path} of the model cannot be read: {error}.") from None
    return module


def _taken(make: Make, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Drops those keywords of `OFFERED` that the maker's signature does not have.

    Raises:
      UserError: it does not take the dtype asked for.
    """
    # of __init__: flax's metaclass hides a class's own signature behind (*args, **kwargs)
    called = make.__init__ if isinstance(make, type) else make  # type: ignore[misc]
    parameters = inspect.signature(called).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return dict(offered)
    dropped = [name for name in OFFERED if name in offered and name not in parameters]
    if "dtype" in dropped and offered["dtype"] not in (None, "float32"):
        raise UserError(f"`dtype={offered['dtype']}`: this model takes no dtype; add the keyword, or use float32.")
    return {name: value for name, value in offered.items() if name not in dropped}
