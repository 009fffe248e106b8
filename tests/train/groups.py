"""Programs that run in several processes at once, which find each other by `jax.distributed`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import processes

#: Put before each program: it joins the group, if there is one. `sys.argv[1:]` are then its arguments.
JOIN = """
import sys
import jax
index, count, port = (int(sys.argv.pop(1)) for _ in range(3))
if count > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index, heartbeat_timeout_seconds=20)
"""
LIMIT = 120


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run(text: str, *arguments: object, count: int, devices: int = 1) -> list[str]:
    """Runs a program in `count` processes with `devices` CPU devices; returns what each printed; fails if one does."""
    port = free_port()
    flags = os.environ.get("XLA_FLAGS", "")  # those of tests/conftest.py
    environment = {**os.environ, **processes.ENVIRONMENT, **processes.LIKE_THE_TESTS, "PYTHONPATH": str(processes.ROOT),
                   "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}"}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "program.py")
        path.write_text(JOIN + text)
        group = [
            subprocess.Popen(
                [sys.executable, str(path), str(index), str(count), str(port), *map(str, arguments)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
            )
            for index in range(count)
        ]  # fmt: skip
        try:
            ended = [one.communicate(timeout=LIMIT) for one in group]
        finally:
            for one in group:
                one.kill()
    for one, (output, errors) in zip(group, ended, strict=True):
        assert one.returncode == 0, output + errors
    return [output for output, _ in ended]
