"""Folder of a run: held by one process at a time, with one configuration for all of them."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from cnnjax.errors import UserError
from cnnjax.train.devices import is_main
from cnnjax.train.fingerprint import comparable

#: Settings that may differ when a run is resumed: none of them changes the numbers.
MAY_CHANGE = frozenset(
    {"data_dir", "keep", "eval_every", "checkpoint_every", "log_every", "profile", "stream", "workers"}
)
#: Settings that runs have had since they could be given, and what they were before.
SINCE: dict[str, Any] = {
    "deterministic": False,
    "skip_corrupt": False,
    "lookahead": None,
    "flip": "random",
    "optimizer_options": {},
}
#: The same for its environment.
ALONE = {"processes": 1, "at_once": 1}
#: Folder of a run's compiled programs, where they are kept with it.
COMPILED = "compiled"
#: Environment variables that change the bits.
VARIABLES = ("CNNJAX_ONEDNN", "XLA_FLAGS")
#: Versions on which the digests of functions depend.
COMPILED_BY = ("python", "jax", "jaxlib", "flax", "optax", "cnnjax")

_held: set[Path] = set()  # the workdirs that this process has locked


def dated(parent: Path, name: str) -> Path:
    """Makes a new folder `parent/YYYYMMDD-HHMMSS-name`."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for suffix in ["", *(f"-{n}" for n in range(2, 1000))]:
        with contextlib.suppress(FileExistsError):
            path = parent / f"{stamp}-{name}{suffix}"
            _make(path, exist_ok=False)
            return path
    raise UserError(f"{parent} already holds a thousand runs of this second: give `workdir`.")


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Makes a workdir, or opens an existing one, and locks it for this process.

    Of several processes of one run the main one locks it, and the others do nothing. A process that holds it may claim
    it again, inside.

    Raises:
      UserError: not writable; locked by another process; it holds other files than a run's.
    """
    if not is_main():
        yield
        return
    fresh = not path.exists()
    _make(path, exist_ok=True)
    if path.resolve() in _held:
        yield
        return
    try:
        lock = open(path / ".lock", "a")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"`workdir={path}` cannot be written to ({error.strerror}): give another folder.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"`workdir={path}` is in use by another process: wait for it to end, or give another folder."
            ) from None
        strangers = sorted(p.name for p in path.iterdir() if p.name not in (".lock", "config.new", COMPILED))
        if strangers and "config.json" not in strangers:
            raise UserError(
                f"`workdir={path}` holds {strangers[0]} but no config.json, so it is not a run's folder: "
                "give an empty or a new one."
            )
        _held.add(path.resolve())
        try:
            yield
        finally:
            _held.discard(path.resolve())
            left = {p.name for p in path.iterdir()}
            if fresh and left <= {".lock", COMPILED}:  # an error came before anything was worth keeping
                shutil.rmtree(path)
            elif left == {".lock"}:
                (path / ".lock").unlink()


def settle_config(path: Path, config: Mapping[str, Any], *, writes: bool = True) -> list[str]:
    """Writes `config.json`, or checks that `config` may resume its run.

    Args:
      path: the workdir.
      config: what decides the numbers, as JSON values, with the versions and devices under `"environment"`.
      writes: False in a process beside the main one, which only checks.

    Returns:
      What has changed in `config["environment"]` since the run began: from here on its bits may differ.

    Raises:
      UserError: names every entry that differs and may not.
    """
    file = path / "config.json"
    config = json.loads(json.dumps(config))  # tuples become lists, as in the file
    old = read_config(path) if file.exists() else {"environment": {}}
    if "environment" in old and not _has_checkpoint(path):  # a run without a checkpoint: there is nothing to go on with
        if writes:
            write_json(file, config)
        return []
    may_change = {"environment", *MAY_CHANGE}
    if config.get("patience") is not None:
        may_change.discard("eval_every")  # early stopping counts evaluations
    changed = differences(*({**ALONE, **one.get("environment", {})} for one in (old, config)))
    rates = old.get("schedule", ""), config.get("schedule", "")  # None: of an own optimiser, compared as a function
    if (
        rates in (("constant", "constant"), (None, None))
        and config["epochs"] >= old["epochs"]
        and float(old["epochs"]).is_integer()  # the records of an epoch are of all of it
        and not config.get("lookahead")
    ):
        may_change.add("epochs")
    pair = {**SINCE, **old}, {**SINCE, **config}
    if "data" in old and "data" in config:
        for settings, data in zip(pair, comparable(old["data"], config["data"]), strict=True):
            settings["data"] = data
    if any(line.split(":")[0] in COMPILED_BY for line in changed):
        pair = _without_code(pair[0]), _without_code(pair[1])
    if differing := differences(*pair, but=may_change):
        raise UserError(
            f"`workdir={path}` holds a run with other settings: {'; '.join(differing)}. "
            "Give the settings of that run to go on with it, or another `workdir`."
        )
    if writes:
        write_json(file, config)
    return changed


def begun(path: Path) -> dict[str, Any] | None:
    """Returns the `config.json` of the run that a workdir holds; None where there is nothing to go on with."""
    return read_config(path) if (path / "config.json").exists() and _has_checkpoint(path) else None


def _has_checkpoint(path: Path) -> bool:
    """True where a workdir holds a checkpoint, intact or damaged."""

    def names(folder: str) -> list[str]:
        return [one.name for one in (path / folder).iterdir()] if (path / folder).is_dir() else []

    intact = any(name.isdigit() for name in names("checkpoints"))  # Orbax's unfinished ones have more to their names
    return intact or any(name[:1].isdigit() for name in names("damaged"))


def _without_code(config: Mapping[str, Any]) -> dict[str, Any]:
    """Drops the digests of functions: other versions compile them to other code, or give layers other attributes."""
    names = {name: text and text.split(" ")[0] for name, text in config.get("functions", {}).items()}
    return {**config, "functions": names}


def read_config(path: Path) -> dict[str, Any]:
    """Reads the `config.json` of a workdir; UserError where there is none or it is not JSON."""
    try:
        return json.loads((path / "config.json").read_text())
    except OSError as error:
        raise UserError(f"{path / 'config.json'} cannot be read ({error.strerror}): is that a run's folder?") from None
    except ValueError as error:
        raise UserError(f"{path / 'config.json'} is not JSON ({error}): put it right.") from None


def environment() -> dict[str, Any]:
    """Returns what the bits depend on beside the configuration: versions, environment variables, device, cores."""
    import importlib.metadata

    import jax

    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")}
    device = jax.local_devices()[0]
    return {
        "cnnjax": importlib.metadata.version("cnnjax"),
        "commit": _commit(Path(__file__).parents[2]),
        **versions,
        **{name: os.environ.get(name) for name in VARIABLES},
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cores": available_cores(),
    }


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _commit(checkout: Path) -> str | None:
    """Returns the commit of a git checkout, with `+` where files differ from it; None outside of one."""
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        status = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no", "--", "cnnjax"],
                                capture_output=True, text=True, timeout=5, check=True)  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()[:12] + ("+" if status.stdout.strip() else "")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], but: Collection[str] = ()) -> list[str]:
    """Lists `name: was old, is now new` for each entry that differs.

    Nested entries are named `a.b`.
    """
    found = []
    for name in [*new, *(name for name in old if name not in new)]:
        was, now = old.get(name), new.get(name)
        if name in but or was == now:
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found += [f"{name}.{line}" for line in differences(was, now)]
        else:
            found.append(f"{name}: was {was}, is now {now}")
    return found


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file atomically."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(fresh, path)


def _make(path: Path, *, exist_ok: bool) -> None:
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except FileExistsError:
        if exist_ok:
            raise UserError(f"`workdir={path}` is a file: give a folder.") from None
        raise
    except OSError as error:
        raise UserError(f"`workdir={path}` cannot be made ({error.strerror}): give a writable folder.") from None
