"""The process that a script runs in: errors as sentences, and settings of JAX and malloc."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable

import jax
from absl import app, flags, logging

from cnnjax.app import deterministic, garbage, hosts, interruptions
from cnnjax.data import cache
from cnnjax.errors import UserError
from cnnjax.ops.conv import onednn

FLAGS = flags.FLAGS
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script's `main(arguments)`, as one of a group of processes where the flags say so.

    A UserError ends it with one sentence and exit code 1.
    """
    interruptions.install()
    garbage.resume()

    def run_guarded(argv: list[str]) -> int:
        if not FLAGS["verbosity"].present:
            logging.set_verbosity(logging.FATAL)  # Orbax logs its steps, and each error that it raises as well
        # a saving thread's error is raised again, and reported, where the loop waits for the save
        threading.excepthook = lambda failed: logging.info("thread %s: %s", failed.thread, failed.exc_value)
        sys.unraisablehook = lambda failed: logging.info("%s: %s", failed.object, failed.exc_value)
        sys.path.append(os.getcwd())  # where a net of one's own may be, as package.module:Class
        keep_memory()
        if sentence := onednn.untried():
            print(f"warning: {sentence}", file=sys.stderr)
        return hosts.leave(exit_code(lambda: run_in_group(main, argv[1:])))

    app.run(run_guarded, flags_parser=parse)


def run_in_group(main: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Runs `main` between joining the other processes, if there are any, and their common end."""
    hosts.join()
    if deterministic.is_asked_for():  # compiled code is kept in the workdir, which main knows
        deterministic.exclude_nondeterministic_ops()
    else:
        keep_compiled()
    main(arguments)
    hosts.part()


def exit_code(function: Callable[[], None]) -> int:
    """Calls a function, and prints an error that is meant for people; returns the exit code."""
    try:
        function()
    except KeyboardInterrupt:
        print(interruptions.SENTENCE, file=sys.stderr)
        return 130
    except Exception as error:
        hosts.hold_the_end()
        if sentence := for_people(error):
            print(f"error: {sentence}", file=sys.stderr)
        elif hosts.is_group():  # what follows a raise would wait for the others
            traceback.print_exc()
        else:
            raise
        return 1
    return 0


def for_people(error: Exception) -> str | None:
    """Returns what an error says without its traceback; None for an error of the program."""
    if sentence := hosts.broken(error):
        return sentence
    if isinstance(error, UserError):
        return as_flags(str(error))
    if isinstance(error, OSError):  # a full disk, a folder without permission
        return f"{error.filename}: {error.strerror or error}." if error.filename else f"{error.strerror or error}."
    return None


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; a wrong one ends the process with exit code 1, `--help` with 0 (absl's own with 1)."""
    try:
        return FLAGS(["--help" if word == "-h" else word for word in argv])
    except flags.Error as error:
        print(f"error: {error}\nSee --help for the flags.", file=sys.stderr)
        raise SystemExit(1) from None
    except BrokenPipeError:  # --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except SystemExit:  # by --help
        raise SystemExit(0) from None


def as_flags(sentence: str) -> str:
    """Writes the arguments of the library, in backticks, as this script's flags: `` `seed=3` `` as `--seed=3`."""

    def dashed(found: re.Match[str]) -> str:
        return f"--{found[1]}" if re.split("=", found[1])[0] in FLAGS else found[1]

    return re.sub(r"`(\w+(?:=[^`]*)?)`", dashed, sentence)


def keep_compiled() -> None:
    """Keeps compiled code for the next start.

    It is kept in the cache folder, or where the user's own setting says.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(cache.directory() / "compiled"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def keep_memory() -> None:
    """Keeps memory that an update frees for the next update.

    Otherwise Linux has to zero new pages.

    XLA allocates an executable's temporaries anew at each call, and glibc returns each block above 32 MB to the system
    at once. The thread that dispatches also computes, as other threads' heaps end at 64 MB. Leaves malloc's settings to
    the user who has any.
    """
    if sys.platform != "linux":
        return
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, -1)  # never: a threshold is an int, and temporaries may be more than its 2 GB
        mallopt(M_MMAP_MAX, 0)
