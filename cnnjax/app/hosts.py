"""A group of processes, on one machine or many: joins it, notices who is gone, and leaves it.

All of it is JAX's: `jax.distributed` makes the group, a coordination service runs in process 0, and heartbeats tell who
is alive. Where the group breaks, JAX ends the process by `abort()`, from a thread of C++ and after a page of its own
words; a handler of SIGABRT says it in a sentence, and leaves with exit code 1.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import jax
from absl import flags
from jax._src import distributed

from cnnjax.app import interruptions
from cnnjax.app.streams import Streams
from cnnjax.errors import UserError

FLAGS = flags.FLAGS
NAMES = ("coordinator_address", "num_processes", "process_id")
#: How long a process waits for process 0, and then for the others.
JOIN_SECONDS = 120
#: A process is gone after so long without a heartbeat.
HEARTBEAT_SECONDS = 30
#: How long a process that is done waits for the others; who dies meanwhile is noticed.
END_SECONDS = 24 * 3600
#: How long process 0 stays after an error: the others may have met the same one, and say it first.
GRACE_SECONDS = 1.0
AGAIN = "run the same command again on all of them to go on from the last checkpoint."
#: What a compiled call or a save says where another process is gone: Gloo (CPU), NCCL (GPU), the service, Orbax.
BROKEN = re.compile(
    r"\bGloo \w|\bNCCL|[Hh]eartbeat|coordination service|Barrier failed|\w barrier\b|UNAVAILABLE:|DEADLINE_EXCEEDED"
)


@dataclasses.dataclass
class Group:
    """Holds this process's place among the others.

    Attributes:
      index: of this process.
      count: number of processes.
      address: of process 0, HOST:PORT.
      joined: whether the others were met.
    """

    index: int | None = None
    count: int | None = None
    address: str | None = None
    joined: bool = False


_group: Group | None = None
_streams: Streams | None = None
_leaving = threading.RLock()  # kept by the thread that ends the process


def requested() -> Group | None:
    """Returns the group that the flags ask for; None for a process alone.

    Raises:
      UserError: they contradict each other, or are half given.
    """
    if "coordinator_address" not in FLAGS:
        return None
    given = [name for name in NAMES if FLAGS[name].value is not None]
    if FLAGS.distributed:
        if given:
            raise UserError(f"--distributed asks the cluster, --{given[0]} says it: give one of them.")
        group = Group()
    elif not given:
        return None
    elif missing := [name for name in NAMES if name not in given]:
        raise UserError(f"--{given[0]} needs --{' and --'.join(missing)} too: all three, or none for one process.")
    else:
        group = Group(FLAGS.process_id, FLAGS.num_processes, FLAGS.coordinator_address)
        _check(group)
        if group.count == 1:
            return None
    if FLAGS.workdir is None:
        raise UserError("several processes need --workdir, the same for all: a folder that all of them can reach.")
    return group


def _check(group: Group) -> None:
    assert group.index is not None and group.count is not None and group.address is not None
    host, _, port = group.address.rpartition(":")
    if not host.strip("[]") or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 2**16:
        raise UserError(
            f"--coordinator_address={group.address} must be HOST:PORT, the machine of process 0 and a free port on it, "
            "such as 10.0.0.1:1234."
        )
    if group.index >= group.count:
        raise UserError(
            f"--process_id={group.index} must be below --num_processes={group.count}: they are 0 to {group.count - 1}."
        )


def join() -> None:
    """Joins the group that the flags ask for; does nothing for a process alone.

    Returns when all processes are there. Call it before anything asks JAX for devices.

    Raises:
      UserError: the flags contradict each other, or the others cannot be reached.
    """
    global _group, _streams
    group = requested()
    if group is None:
        return
    _group, _streams = group, Streams()
    interruptions.before_the_end.append(_streams.drain)
    if group.index is not None:
        _streams.belong_to(group.index)
    ctypes.CDLL(None).signal(signal.SIGABRT, ctypes.cast(_on_abort, ctypes.c_void_p))
    if group.index is not None:
        _claim_port(group) if group.index == 0 else _reach(group)
    _in_thread(functools.partial(_initialize, group))
    if group.index is None:
        group = _group = told()
        _streams.belong_to(group.index or 0)
    group.joined = True
    _compare_counts(group)


def told() -> Group:
    """Returns the place that the cluster told JAX."""
    state = distributed.global_state
    return Group(state.process_id, state.num_processes, state.coordinator_address)


def _initialize(group: Group) -> None:
    try:
        jax.distributed.initialize(
            group.address, group.count, group.index, initialization_timeout=JOIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS, shutdown_timeout_seconds=END_SECONDS,
        )  # fmt: skip
    except ValueError as error:
        if group.address is None:
            raise UserError(
                f"--distributed: JAX finds no cluster here ({str(error).rstrip('.')}); "
                "give --coordinator_address, --num_processes and --process_id."
            ) from error
        raise


def _claim_port(group: Group) -> None:
    """Raises UserError where process 0 cannot listen; JAX's service would crash, or share the port."""
    assert group.address is not None
    port = int(group.address.rpartition(":")[2])
    try:
        if socket.has_dualstack_ipv6():
            socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True).close()
        else:
            socket.create_server(("", port)).close()
    except OSError as error:
        raise UserError(
            f"--coordinator_address={group.address}: process 0 cannot listen on this port ({error.strerror}); "
            "end the other run, or give all processes another port."
        ) from None


def _reach(group: Group) -> None:
    """Waits until process 0 listens."""
    assert group.address is not None
    host, _, port = group.address.rpartition(":")
    end = time.monotonic() + JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(1, end - time.monotonic())).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"process {group.index} waited {JOIN_SECONDS} s for process 0 at "
                    f"--coordinator_address={group.address} ({error.strerror or error}): "
                    "start process 0, or give the address of its machine."
                ) from None
        time.sleep(0.2)


def _compare_counts(group: Group) -> None:
    """Raises UserError where process 0 was told of another number of processes."""
    client = distributed.global_state.client
    assert client is not None
    if group.index == 0:
        client.key_value_set("cnnjax/num_processes", str(group.count))
    elif (told := client.blocking_key_value_get("cnnjax/num_processes", 1000 * JOIN_SECONDS)) != str(group.count):
        raise UserError(f"--num_processes={group.count}, but process 0 has --num_processes={told}: give all the same.")


def index() -> int:
    """Returns this process's index in its group; 0 for a process alone."""
    return (_group.index or 0) if _group else 0


def is_group() -> bool:
    """True between `join` and the end, where there are several processes."""
    return _group is not None


def part() -> None:
    """Waits until all processes are done, then takes the group apart; does nothing for a process alone."""
    global _group
    if _group is None:
        return
    sys.stdout.flush()
    _in_thread(jax.distributed.shutdown)
    _group = None
    if _streams is not None:
        _streams.give_back()


def hold_the_end() -> None:
    """Lets the first thread through that says why the process ends; the others wait here for the end."""
    while not _leaving.acquire(timeout=60):
        pass


def leave(code: int) -> int:
    """Ends the process at once where it is one of a group, so that the others notice; else returns the code."""
    if _group is None:
        return code
    hold_the_end()
    if _group.index == 0:
        time.sleep(GRACE_SECONDS)
    _exit(code)
    return code


def broken(error: Exception) -> str | None:
    """Returns a sentence where an error says that another process of the group is gone; else None."""
    text = str(error).strip()
    if _group is None or not _group.joined or not BROKEN.search(text):
        return None
    gone = named(text) or ([1 - index()] if _group.count == 2 else [])
    return f"{_gone(gone)} ({text.splitlines()[0][:200]}); see there why, and {AGAIN}"


def lost(group: Group, text: str) -> str:
    """Returns the sentence for what the coordination service said before it ended the process."""
    count = group.count or 1
    if "incarnation" in text:
        return (
            f"two processes of {group.address} have the same --process_id, or one was started again while the others "
            "ran: end all of them, and start each of them once."
        )
    if not group.joined:
        return (
            f"process {group.index} waited {JOIN_SECONDS} s at {group.address} for the other {count - 1} of {count} "
            "processes, and not all came: start all, with the same --coordinator_address and --num_processes."
        )
    return f"{_gone(named(text) or ([0] if group.index else []))}; see there why, and {AGAIN}"


def named(text: str) -> list[int]:
    """Returns the processes that the coordination service names as dead."""
    found = re.search(r"stopped sending heartbeats\):\n(\d+(?:\n\d+)*)", text) or re.search(r"Task (\d+) heart", text)
    return [int(one) for one in found[1].split()] if found else []


def _gone(indices: list[int]) -> str:
    if not indices:
        return "another process is gone"
    return f"process{'es' if indices[1:] else ''} {', '.join(map(str, indices))} {'are' if indices[1:] else 'is'} gone"


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(number: int) -> None:
    """Says why the group has ended the process; returns, and so lets the process abort, where it was not the group."""
    if _group is None or _streams is None:
        return
    hold_the_end()
    text = _streams.drain()
    if "distributed service detected fatal errors" not in text:
        _streams.say(text)
        return
    _streams.say(f"error: {lost(_group if _group.address else told(), text)}")
    os._exit(1)


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if _streams is not None:
        _streams.drain()
    os._exit(code)


def _in_thread(function: Callable[[], None]) -> None:
    """Runs C++ code that waits for long, so that Ctrl-C is heard meanwhile."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="group", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if errors:
        raise errors[0]
