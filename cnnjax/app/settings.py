"""The settings of a run: the flags that were given, and a recipe for the others."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from cnnjax.errors import UserError
from cnnjax.models.build import OFFERED
from cnnjax.train import Options

FLAGS = flags.FLAGS


def apply_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Sets the flags that were not given to the values of a recipe; returns those that are no flags."""
    others = {}
    for name, value in recipe.items():
        if name not in FLAGS:
            others[name] = value
        elif not FLAGS[name].present:
            FLAGS[name].value = value
    return others


def options(recipe: Mapping[str, Any]) -> Options:
    """Returns the options of a run: by the flags, and by the recipe for what is not given.

    Raises:
      UserError: they contradict each other.
    """
    others = apply_recipe(recipe)
    names = [field.name for field in dataclasses.fields(Options) if field.name in FLAGS]
    given = {name: FLAGS[name].value for name in names if FLAGS[name].value is not None}
    given["optimizer_options"] = json_object("optimizer_options", '{"b2": 0.99}')
    return Options.of({**others, **given})


def model_options() -> dict[str, Any]:
    """Returns the keywords of `--model_options`.

    Raises:
      UserError: they are no JSON object, or other flags give one of them.
    """
    options = json_object("model_options", '{"width": 32}')
    for name in ("name", *OFFERED):
        if name in options:
            raise UserError(f"--model_options: {name} comes from other flags or from the data set: leave it out.")
    return options


def json_object(name: str, example: str) -> dict[str, Any]:
    """Returns the keywords that a flag gives as JSON; UserError, with an example, where it does not."""
    text = str(FLAGS[name].value)
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--{name}={text!r} is not JSON ({error}), as in '{example}'.") from None
    if not isinstance(found, dict):
        raise UserError(f"--{name}={text!r} must be keywords, as in '{example}'.")
    return found


def no_arguments(arguments: list[str]) -> None:
    """Raises UserError where a script that takes only flags was given other arguments."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: flags are written --name=value (see --help).")


def command_to_go_on(workdir: Path) -> str:
    """Returns the command line that resumes this run."""
    command = [os.path.basename(sys.executable), *sys.argv]
    if FLAGS.workdir is None:
        command.append(f"--workdir={workdir}")
    return shlex.join(command)
