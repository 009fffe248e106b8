"""Runs that give the same bits on a GPU each time: XLA's flag, and the folder that keeps what XLA chose."""

from __future__ import annotations

import os
from pathlib import Path

import jax
from absl import flags

from cnnjax.errors import UserError
from cnnjax.train.run_dir import COMPILED

FLAGS = flags.FLAGS
XLA_FLAG = "--xla_gpu_exclude_nondeterministic_ops"
"""Takes operations that add in a fixed order; compiling fails where XLA has none."""


def is_asked_for() -> bool:
    """True with `--deterministic`; False where a script has no such flag."""
    return "deterministic" in FLAGS and FLAGS.deterministic


def exclude_nondeterministic_ops() -> None:
    """Sets XLA's flag in the environment, which JAX reads when it first looks for devices.

    Where the user's own XLA_FLAGS have the flag, they stay as they are.

    Raises:
      UserError: they turn it off, or name a file.
    """
    own = os.environ.get("XLA_FLAGS", "").strip()
    if own and not own.startswith("-"):
        raise UserError(
            f"XLA_FLAGS={own} names a file, to which `deterministic` adds nothing: write its flags into XLA_FLAGS."
        )
    given = [word for word in own.split() if word.partition("=")[0] == XLA_FLAG]
    if not given:
        os.environ["XLA_FLAGS"] = f"{own} {XLA_FLAG}=true".strip()
    elif given[-1].partition("=")[2].lower() in ("false", "0"):
        raise UserError(f"XLA_FLAGS has {given[-1]}, which contradicts `deterministic`: leave one of them out.")


def keep_compiled_in(folder: Path) -> None:
    """Keeps all compiled programs in a run's folder, or where the user's own setting says; for `--deterministic` only.

    XLA measures which kernels are fastest when it compiles, and may choose others the next time. JAX keeps these
    choices beside the programs (`jax_persistent_cache_enable_xla_caches`), but XLA does not hand out all of them: so
    no program is too small to be kept. The folder's path is part of JAX's key: a run that moves is compiled afresh.
    """
    if not is_asked_for():
        return
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(folder.resolve() / COMPILED))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
