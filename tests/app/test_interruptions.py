"""Ctrl-C in the first seconds: the process ends at once, whatever it imports, loads or compiles."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnjax.app import interruptions
from tests import processes

HAS_MAPS = Path("/proc/self/maps").exists()
EVERYDAY = [("_multiarray_umath", 0.0), ("libjax_common", 0.0), ("libjax_common", 0.7), ("libjax_common", 2.0)]
MORE = [("libjax_common", 0.1 * tenths) for tenths in range(1, 40)]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Lets the processes that a test starts be interrupted, where this one, in the background of a shell, is not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def loads(process: subprocess.Popen[str], library: str) -> bool:
    """Whether a process has begun to import a library."""
    try:
        return library in Path(f"/proc/{process.pid}/maps").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not HAS_MAPS, reason="no /proc: what a process imports cannot be seen")
@pytest.mark.parametrize(
    ("library", "seconds"), [*EVERYDAY, *(pytest.param(*moment, marks=pytest.mark.slow) for moment in MORE)]
)
def test_at_any_moment(library: str, seconds: float, tmp_path: Path) -> None:
    """So long after it began to import a library, a script ends at once; or it saves, if it was training."""
    process = processes.start_afresh("lenet5.py", "--epochs=50", f"--workdir={tmp_path / 'run'}")
    while process.poll() is None and not loads(process, library):
        time.sleep(0.002)
    time.sleep(seconds)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    if process.returncode == 0:
        assert "saved. Go on with: " in output and "SIGINT: saving, then leaving" in errors
    else:
        assert process.returncode == 130, errors
        assert interruptions.SENTENCE in errors and time.monotonic() - sent < 5


def test_a_print_that_is_interrupted_does_no_harm() -> None:
    """The handlers write past Python's buffers, which refuse a print in the middle of a print."""
    program = """
import os, signal, sys
from cnnjax.app import interruptions
interruptions.install()
class Interrupted:
    def __str__(self):
        os.kill(os.getpid(), signal.SIGINT)
        return ""
print("before")
print(Interrupted(), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "before\n", f"\n{interruptions.SENTENCE}\n")


def test_every_script_is_guarded_before_its_imports() -> None:
    for path in (processes.ROOT / "experiments").glob("*.py"):
        first = path.read_text().split("\nimport ")[0].split("\nfrom absl")[0].split("\nfrom flax")[0]
        assert "interruptions.install()" in first, f"{path.name} can lose a Ctrl-C while it imports"
