"""The output of one process of a group: process 0 alone prints, and the errors say whose they are."""

from __future__ import annotations

import contextlib
import io
import os
import re
import select
import sys
import threading
import time
from typing import TextIO

#: Ends the thread; no line of text has zeros in it.
END = b"\0end"
#: How long lines of JAX's coordination service are held, in case it ends the process after them.
HELD_SECONDS = 1.0
#: The first line of a message of the coordination service; its next lines have no such head.
COORDINATION = re.compile(rb"[IWEF]\d{4} [\d:.]+ +\d+ (coordination_service|preemption_|client\.h)")
FATAL = re.compile(rb"F\d{4} [\d:.]+ +\d+ client\.h")
#: Said at SIGTERM, for which `Console` has words.
NOTICE = re.compile(rb"W\d{4} [\d:.]+ +\d+ preemption_notifier\.cc:\d+\] SIGTERM caught")


class Streams:
    """Takes file descriptor 2 over, which C++ code writes to as well: its lines pass through a thread.

    The thread holds back what the coordination service says as it ends the process, stack included.
    """

    def __init__(self) -> None:
        sys.stderr.flush()
        self._prefix = b""
        self._errors = os.dup(2)
        self._source, self._sink = os.pipe()
        os.dup2(self._sink, 2)
        self._held: list[bytes] = []
        self._thread = threading.Thread(target=self._pass_on, name="errors", daemon=True)
        self._thread.start()

    def belong_to(self, index: int) -> None:
        """Leaves standard output to process 0, without the lines of C++, and puts `process N: ` before others' errors.

        What Python writes goes by no thread: a progress bar needs its terminal.
        """
        sys.stdout.flush()
        if index:
            self._prefix = f"process {index}: ".encode()
            sys.stderr = PrefixedStream(self._errors, self._prefix.decode())
        else:
            sys.stdout, sys.stderr = _copy(sys.stdout, 1), _copy(sys.stderr, self._errors)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)

    def drain(self) -> str:
        """Waits until the lines so far are written, and returns those that are held back; drops later ones."""
        with contextlib.suppress(OSError):
            os.write(self._sink, END + b"\n")
        self._thread.join(2)
        return b"\n".join(self._held).decode(errors="replace")

    def give_back(self) -> None:
        """Gives file descriptor 2 back."""
        self.drain()
        os.dup2(self._errors, 2)

    def say(self, text: str) -> None:
        """Writes lines on the true standard error; does nothing where nobody reads it."""
        self._write(text.encode().split(b"\n"))

    def _pass_on(self) -> None:
        begun, since, fatal = b"", 0.0, False
        while True:
            ready = select.select([self._source], [], [], HELD_SECONDS)[0]
            if self._held and not fatal and time.monotonic() - since > HELD_SECONDS:
                self._write(self._held)
                self._held = []
            if not ready:
                continue
            *lines, begun = (begun + os.read(self._source, 2**16)).split(b"\n")
            for line in lines:
                if END in line:
                    self._write([line.removesuffix(END)] if line != END else [])
                    return
                if self._held or (COORDINATION.match(line) and not NOTICE.match(line)):
                    since = since if self._held else time.monotonic()
                    fatal = fatal or bool(FATAL.match(line))
                    self._held.append(line)
                elif not NOTICE.match(line):
                    self._write([line])

    def _write(self, lines: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            os.write(self._errors, b"".join(self._prefix + line + b"\n" for line in lines))


class PrefixedStream(io.TextIOWrapper):
    """Writes text with a prefix before each line."""

    def __init__(self, descriptor: int, prefix: str):
        super().__init__(os.fdopen(os.dup(descriptor), "wb"), errors="backslashreplace", line_buffering=True)
        self._prefix, self._at_start = prefix, True

    def write(self, text: str) -> int:
        """Writes text, which may be parts of lines."""
        for line in text.splitlines(keepends=True):
            super().write(self._prefix + line if self._at_start else line)
            self._at_start = line.endswith("\n")
        return len(text)

    def isatty(self) -> bool:
        """Returns False: no bars among the lines of several processes."""
        return False


def _copy(stream: TextIO, descriptor: int) -> TextIO:
    """Returns a stream like this one, to where a file descriptor leads now."""
    by_lines = getattr(stream, "line_buffering", True) or getattr(stream, "write_through", False)
    return open(
        os.dup(descriptor), "w", buffering=1 if by_lines else -1, encoding=stream.encoding, errors=stream.errors
    )
