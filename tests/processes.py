"""Launching the experiment scripts as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Compiled code is kept for the next process: the bits are the same, the start is twice as quick.
CACHE = tempfile.TemporaryDirectory(prefix="cnnjax-tests-")
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": CACHE.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def start(script: str, *arguments: object, file_limit: int | None = None) -> subprocess.Popen[str]:
    """Start ``experiments/SCRIPT ARGUMENTS`` with the tests' own interpreter, its output in pipes.

    With `file_limit` no file that it writes can grow beyond so many bytes.
    """

    command = [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)]
    if file_limit is not None:  # set by a process between, as JAX warns where its own process forks
        command = [sys.executable, "-c", LIMITED, str(file_limit), *command]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT}
    )


def run(script: str, *arguments: object, file_limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script to its end; its exit code, standard output and standard error."""
    process = start(script, *arguments, file_limit=file_limit)
    output, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
