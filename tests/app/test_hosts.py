"""Several processes: they meet, each notices when another is gone, and all end with a sentence, never in a hang."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnjax.app import hosts
from tests import processes
from tests.train.groups import free_port

pytestmark = pytest.mark.thorough

#: A program in a few words: what each process does, one after the other, after it has met the others.
PROGRAM = """
import os, sys, time
from cnnjax.app import interruptions
interruptions.install()
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from cnnjax.app import flags, hosts, process
from cnnjax.errors import UserError

flags.define_run_flags()
hosts.JOIN_SECONDS, hosts.HEARTBEAT_SECONDS = int(os.environ["JOIN"]), 10

def add(count=2):
    sharding = NamedSharding(jax.make_mesh((jax.device_count(),), ("all",)), PartitionSpec("all"))
    x = jax.make_array_from_process_local_data(sharding, np.arange(jax.local_device_count(), dtype=np.float32))
    total = jax.jit(jnp.sum)
    for call in range(count):
        value = float(total(x))
        if multihost_utils.reached_preemption_sync_point(call):
            print("stopped")
            return
        time.sleep(0.01 * (count > 2))
    print(value)

def main(words):
    print("met", file=sys.stderr)
    for word in words:
        match word.split("="):
            case "add", : add()
            case "loop", : add(100_000)
            case "sleep", seconds: time.sleep(float(seconds))
            case "fail", index: hosts.index() == int(index) and fail()

def fail():
    raise UserError("`seed=3` is wrong.")

process.run(main)
"""


class Group:
    """Processes that run PROGRAM, with their output in files."""

    def __init__(
        self, folder: Path, *words: str, count: int = 2, ids: tuple[int, ...] | None = None, join: int = 60,
        port: int | None = None, devices: int = 1,
    ):  # fmt: skip
        program, port = folder / "program.py", port or free_port()
        program.write_text(PROGRAM)
        self.folder = folder
        environment = {**os.environ, **processes.ENVIRONMENT, "PYTHONPATH": str(processes.ROOT), "JOIN": str(join),
                       "JAX_NUM_CPU_DEVICES": str(devices)}  # fmt: skip
        environment.pop("XLA_FLAGS", None)
        self.members = []
        for number, index in enumerate(range(count) if ids is None else ids):
            flags = [f"--coordinator_address=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={index}"]
            with open(folder / f"out{number}", "w") as output, open(folder / f"err{number}", "w") as errors:
                self.members.append(
                    subprocess.Popen(
                        [sys.executable, str(program), *words, *flags, f"--workdir={folder}"],
                        stdout=output, stderr=errors, env=environment,
                    )
                )  # fmt: skip

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *args: object) -> None:
        for member in self.members:
            member.kill()
            member.wait()

    def output(self, number: int) -> str:
        return (self.folder / f"out{number}").read_text()

    def errors(self, number: int) -> str:
        return (self.folder / f"err{number}").read_text()

    def meet(self) -> None:
        """Waits until all are past the start."""
        for number, member in enumerate(self.members):
            until = time.monotonic() + 120
            while "met\n" not in self.errors(number):
                assert member.poll() is None and time.monotonic() < until, self.errors(number)
                time.sleep(0.02)

    def codes(self, seconds: float = 60) -> list[int]:
        """The exit codes, which must be there within a minute."""
        return [member.wait(seconds) for member in self.members]


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.endswith("met")]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Lets the processes be interrupted, where this one, in the background of a shell, is not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


REFUSALS = [
    ("--distributed --process_id=1", "--distributed asks the cluster, --process_id says it: give one of them."),
    ("--num_processes=2", "--num_processes needs --coordinator_address and --process_id too: all three, or none"),
    ("--coordinator_address=a:1 --process_id=0", "--coordinator_address needs --num_processes too: all three, or none"),
    ("--coordinator_address=a:1 --num_processes=2 --process_id=2", "--process_id=2 must be below --num_processes=2"),
    ("--coordinator_address=a --num_processes=2 --process_id=0", "--coordinator_address=a must be HOST:PORT"),
    ("--coordinator_address=a:70000 --num_processes=2 --process_id=0", "--coordinator_address=a:70000 must be HOST:PO"),
    ("--coordinator_address=a:1 --num_processes=2 --process_id=0", "several processes need --workdir, the same for al"),
    ("--distributed", "several processes need --workdir"),
    ("", "None"),
    ("--coordinator_address=a:1 --num_processes=1 --process_id=0", "None"),
    (
        "--coordinator_address=[::1]:1 --num_processes=2 --process_id=1 --workdir=w",
        "Group(index=1, count=2, address='[::1]:1', joined=False)",
    ),
]
SAY_REFUSALS = """
import json, sys
from absl import flags
from cnnjax.app import flags as shared, hosts
from cnnjax.errors import UserError
shared.define_run_flags()
for given in json.loads(sys.argv[1]):
    flags.FLAGS.unparse_flags()
    for name in (*hosts.NAMES, "distributed", "workdir"):
        flags.FLAGS[name].unparse()
    flags.FLAGS(["x", *given.split()])
    try:
        print(hosts.requested())
    except UserError as error:
        print(error)
"""


def test_flags_that_contradict_each_other_are_refused() -> None:
    said = processes.program(SAY_REFUSALS, json.dumps([flags for flags, _ in REFUSALS])).splitlines()
    assert len(said) == len(REFUSALS)
    for (_, beginning), sentence in zip(REFUSALS, said, strict=True):
        assert sentence.startswith(beginning)


UNHEALTHY = "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n{}\nThe tasks have crashed."


@pytest.mark.parametrize(
    ("index", "text", "beginning"),
    [
        (0, UNHEALTHY.format("1"), "process 1 is gone; see there why, and run the same command again on all of them"),
        (0, UNHEALTHY.format("1\n12"), "processes 1, 12 are gone; see there why"),
        (2, "because: task is set to ERROR: UNAVAILABLE: Task 1 heartbeat timeout.", "process 1 is gone;"),
        (2, "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task", "process 0 is gone;"),
        (0, "INTERNAL: something else", "another process is gone;"),
        (1, "ABORTED: 1 unexpectedly tried to connect with a different incarnation.", "two processes of h:1 have the"),
    ],
)
def test_what_the_coordination_service_says_becomes_a_sentence(index: int, text: str, beginning: str) -> None:
    assert hosts.lost(hosts.Group(index, 13, "h:1", joined=True), text).startswith(beginning)


def test_only_what_a_broken_group_says_is_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    gloo = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer")
    assert hosts.broken(gloo) is None  # in a process alone
    monkeypatch.setattr(hosts, "_group", hosts.Group(0, 2, "h:1", joined=True))
    said = hosts.broken(gloo)
    assert said is not None and said.startswith("process 1 is gone (UNKNOWN: Gloo all-reduce failed: Connection reset")
    said = hosts.broken(TimeoutError("Timed out while waiting for async_write_complete barrier."))
    assert said is not None and said.startswith("process 1 is gone (Timed out while waiting for async_write_complete b")
    assert hosts.broken(ValueError("INVALID_ARGUMENT: shapes (2,) and (3,)")) is None
    monkeypatch.setattr(hosts, "_group", hosts.Group(0, 3, "h:1", joined=True))
    said = hosts.broken(ValueError("Barrier failed because: Task 2 heartbeat timeout"))
    assert said is not None and said.startswith("process 2 is gone (Barrier failed")


def test_two_processes_end_well(tmp_path: Path) -> None:
    """Without a line of C++; process 0 alone prints, and the others' errors begin with their names."""
    with Group(tmp_path, "add") as group:
        assert group.codes() == [0, 0], group.errors(0) + group.errors(1)
    assert (group.output(0), group.output(1)) == ("0.0\n", "")
    assert (group.errors(0), group.errors(1)) == ("met\n", "process 1: met\n")


def test_process_0_is_killed(tmp_path: Path) -> None:
    """It has the coordination service: JAX would abort the others."""
    with Group(tmp_path, "sleep=60") as group:
        group.meet()
        group.members[0].kill()
        assert group.codes() == [-9, 1]
    (line,) = lines(group.errors(1))
    assert line.startswith("process 1: error: process 0 is gone; see there why, and run the same command again")


def test_an_error_of_one_ends_the_others(tmp_path: Path) -> None:
    with Group(tmp_path, "add", "fail=1", "loop") as group:
        assert group.codes() == [1, 1]
    assert lines(group.errors(1)) == ["process 1: error: --seed=3 is wrong."]
    (line,) = lines(group.errors(0))
    assert line.startswith("error: process 1 is gone")


def test_process_0_does_not_come(tmp_path: Path) -> None:
    with Group(tmp_path, ids=(1,), join=1) as group:
        assert group.codes() == [1]
    (line,) = lines(group.errors(0))
    assert line.startswith("process 1: error: process 1 waited 1 s for process 0 at --coordinator_address=127.0.0.1:")


def test_a_port_that_is_in_use(tmp_path: Path) -> None:
    """JAX's service would crash there, or share the port with another run's."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with Group(tmp_path, ids=(0,), port=port) as group:
            assert group.codes() == [1]
    (line,) = lines(group.errors(0))
    assert line.startswith(f"error: --coordinator_address=127.0.0.1:{port}: process 0 cannot listen on this port (")


@pytest.mark.slow
def test_a_process_never_comes(tmp_path: Path) -> None:
    port = free_port()
    with Group(tmp_path, count=3, ids=(0, 2), join=5, port=port) as group:
        assert group.codes() == [1, 1]
    for number, index in enumerate((0, 2)):
        (line,) = lines(group.errors(number))
        assert f"error: process {index} waited 5 s at 127.0.0.1:{port} for the other 2 of 3 processes, and not" in line


@pytest.mark.slow
def test_a_process_that_comes_twice(tmp_path: Path) -> None:
    with Group(tmp_path, "sleep=60", ids=(0, 1, 1), join=5) as group:
        assert group.codes() == [1, 1, 1]
    texts = [*map(group.errors, range(3))]
    assert sum("two processes of 127.0.0.1" in text for text in texts) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("killed", [0, 1, 2])
@pytest.mark.parametrize("words", [["loop"], ["sleep=60"], ["add", "sleep=60"]])
def test_any_process_is_killed_at_any_moment(words: list[str], killed: int, seconds: float, tmp_path: Path) -> None:
    with Group(tmp_path, *words, count=3, devices=2) as group:
        group.meet()
        time.sleep(seconds)
        group.members[killed].kill()
        codes = group.codes()
    assert codes == [-9 if index == killed else 1 for index in range(3)]
    for index in {0, 1, 2} - {killed}:
        (line,) = lines(group.errors(index))
        assert "error: " in line and " gone" in line and line.endswith(hosts.AGAIN)


@pytest.mark.slow
def test_a_process_that_stands_still_is_gone(tmp_path: Path) -> None:
    with Group(tmp_path, "loop") as group:
        group.meet()
        group.members[1].send_signal(signal.SIGSTOP)
        assert group.members[0].wait(60) == 1
    (line,) = lines(group.errors(0))
    assert line.startswith("error: process 1 is gone;")


@pytest.mark.slow
@pytest.mark.parametrize("told", [0, 1])
def test_a_signal_to_one_reaches_all(told: int, tmp_path: Path) -> None:
    with Group(tmp_path, "loop") as group:
        group.meet()
        time.sleep(1)
        group.members[told].send_signal(signal.SIGTERM)
        assert group.codes() == [0, 0]
    assert group.output(0) == "stopped\n" and not lines(group.errors(0)) and not lines(group.errors(1))


@pytest.mark.slow
@pytest.mark.parametrize("word", ["sleep=60", "loop"])
def test_ctrl_c_ends_one_at_once(word: str, tmp_path: Path) -> None:
    with Group(tmp_path, word) as group:
        group.meet()
        group.members[1].send_signal(signal.SIGINT)
        assert group.codes() == [1, 130]
    assert "process 1: interrupted: what was saved before is kept." in group.errors(1).replace(
        "\nint", "\nprocess 1: int"
    )
