"""Keeps decoded arrays in one file, which is verified when it is read."""

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_DIGEST = "sha256"


def directory() -> Path:
    """Returns `$XDG_CACHE_HOME/cnnjax`, or `~/.cache/cnnjax`; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "cnnjax"


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of the arrays' names, dtypes, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(array.data.cast("B") if array.size else b"")
    return sha.hexdigest()


def read(path: Path) -> dict[str, np.ndarray] | None:
    """Reads the arrays that `write` stored in `path`; None where there is no such file.

    A file that is truncated, or changed in any bit of its content, gives None and a warning.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if str(arrays.pop(_DIGEST)) == digest(arrays):
            return arrays
        problem = "its content does not match its SHA-256"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # whatever a damaged zip file may cause, down to MemoryError
        problem = f"{type(error).__name__}: {error}"
    warnings.warn(f"The cache file {path} cannot be used ({problem}); decoding again.", stacklevel=2)
    return None


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Stores the arrays in `path`, atomically.

    A reader sees the old file or the whole new one.

    Two processes may write the same file at once; the last one wins. Where the file cannot be written (no
    permission, disk full) there is a warning and no file: a cache is never worth a failed run.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            # mypy takes the arrays for savez's own keyword, allow_pickle.
            np.savez(file, **{_DIGEST: np.array(digest(arrays))}, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        warnings.warn(f"Cannot write the cache file {path} ({error}); going on without it.", stacklevel=2)
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # already in its place, or the disk is gone
                os.unlink(temporary)
