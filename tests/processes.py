"""Experiment scripts and small programs in processes of their own.

To import JAX, flax and the rest takes seconds of each start.  Most tests care about what a script does, not about its
imports: one process, which has imported everything and touched no device, forks itself for each of them.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Seconds after which a script that hangs is ended.
LIMIT = 240
#: Compiled code is kept for the next process: the bits are the same, the start is twice as quick.
CACHE = tempfile.TemporaryDirectory(prefix="cnnjax-tests-")
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": CACHE.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}

#: What tests/conftest.py says of the tests' own process, for the forked ones; those started afresh are as users' are.
LIKE_THE_TESTS = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1"),
    "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",
}

#: Reads requests, one a line; forks, and says the child's process id, then its exit code.  The child goes on below the
#: loop and ends as any program does, but that it is not taken apart, module by module, which would take longer than
#: many scripts: the exit function that was registered first runs last.
SERVER = """
import atexit, gc, json, os, resource, runpy, signal, sys

status = None

def leave():
    if status is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

atexit.register(leave)
import absl.app, flax.nnx, jax, matplotlib.figure, optax, orbax.checkpoint, PIL.Image, tensorboardX
from cnnjax import data, inspect, layers, models, ops, report, train

gc.freeze()
while line := sys.stdin.readline():
    child = os.fork()
    if not child:
        break
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
request = json.loads(line)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
for number, name in enumerate(("output", "errors"), 1):
    os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), number)
signal.alarm(request["limit"])
if request["file_limit"] is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
os.environ.update(request["environment"])
os.chdir(request["folder"])
sys.argv = request["argv"]
sys.path[0] = os.path.dirname(sys.argv[0])
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
    status = 0
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else int(end.code is not None)
    raise
except Exception:
    status = 1
    raise
"""


class Forked:
    """A script or program that runs in a fork of the server, one at a time."""

    def __init__(self, path: Path, arguments: tuple[object, ...], file_limit: int | None = None, devices: int = 1,
                 folder: Path | None = None):  # fmt: skip
        self.argv = [str(path), *map(str, arguments)]
        self.server = _server()
        self.folder = tempfile.TemporaryDirectory(prefix="cnnjax-tests-")
        self.files = {name: str(Path(self.folder.name, name)) for name in ("output", "errors")}
        flags = os.environ.get("XLA_FLAGS", "")  # those of tests/conftest.py
        environment = {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}
        request = {"argv": self.argv, "environment": environment, "file_limit": file_limit, "limit": LIMIT,
                   "folder": str(folder or Path.cwd())}  # fmt: skip
        assert self.server.stdin is not None and self.server.stdout is not None
        self.server.stdin.write(json.dumps(request | self.files).encode() + b"\n")
        self.pid = int(self.server.stdout.readline())

    def running(self) -> bool:
        return not select.select([self.server.stdout], [], [], 0)[0]

    def end(self) -> subprocess.CompletedProcess[str]:
        """Waits for the end; the exit code, standard output and standard error."""
        assert self.server.stdout is not None
        code = int(self.server.stdout.readline())
        texts = [Path(file).read_text() for file in self.files.values()]
        self.folder.cleanup()
        return subprocess.CompletedProcess(self.argv, code, *texts)


def start(script: str, *arguments: object, file_limit: int | None = None, folder: Path | None = None) -> Forked:
    """Starts `experiments/SCRIPT ARGUMENTS` in a folder; with `file_limit` no file can grow beyond so many bytes."""
    return Forked(ROOT / "experiments" / script, arguments, file_limit, folder=folder)


def start_afresh(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts `experiments/SCRIPT ARGUMENTS` as a user does, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **ENVIRONMENT},
    )  # fmt: skip


def run(
    script: str, *arguments: object, file_limit: int | None = None, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a script to its end; its exit code, standard output and standard error."""
    return start(script, *arguments, file_limit=file_limit, folder=folder).end()


def good(script: str, *arguments: object, folder: Path | None = None) -> str:
    """What a script that must end well prints."""
    done = run(script, *arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def program(text: str, *arguments: object, devices: int = 1) -> str:
    """Runs a program with so many CPU devices and returns what it printed; fails if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(text)
        done = Forked(path, arguments, devices=devices).end()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def module(name: str, *arguments: object, devices: int) -> str:
    """Runs `python -m NAME ARGUMENTS` with so many CPU devices and returns what it printed; fails if it fails."""
    return program(f"import runpy; runpy.run_module({name!r}, run_name='__main__', alter_sys=True)", *arguments,
                   devices=devices)  # fmt: skip


def refusal(script: str, *arguments: object, file_limit: int | None = None, folder: Path | None = None) -> str:
    """The error of a script that must fail well: exit code 1, one message, no traceback."""
    done = run(script, *arguments, file_limit=file_limit, folder=folder)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "Traceback" not in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith(("error: ", "FATAL"))]
    assert len(lines) == 1, done.stderr
    return done.stderr


@functools.cache
def _server() -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **ENVIRONMENT, **LIKE_THE_TESTS, "PYTHONPATH": path}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    atexit.register(server.communicate)  # closes its input, at which it ends
    return server
