"""The benchmark in miniature: it runs, refuses other numbers, and nothing here depends on a time."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnjax.errors import UserError
from tests import processes

pytestmark = pytest.mark.thorough


def bench_module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(processes.ROOT / "experiments" / "bench")
    return importlib.import_module(name)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    spin = "print(flush=True)\nwhile True: pass"
    started = [subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) for _ in range(count)]
    try:
        for one in started:
            assert one.stdout is not None and one.stdout.readline()
        yield
    finally:
        for one in started:
            one.kill()
            one.communicate()


@pytest.mark.parametrize(
    ("suite", "only", "peers"),
    [
        ("ops", "lenet5 1x14", "lax"),
        ("pool", "max 2/2 128x10", "lax"),
        pytest.param("step", "LeNet", "flax", marks=pytest.mark.slow),
    ],
)
def test_a_suite(tmp_path: Path, suite: str, only: str, peers: str) -> None:
    arguments = [
        f"--suite={suite}",
        f"--only={only}",
        f"--peers={peers}",
        "--rounds=2",
        "--busy=mark",
        f"--out={tmp_path}",
    ]
    done = processes.run("bench", *arguments)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / f"{suite}.json").read_text())
    assert (tmp_path / f"{suite}.png").stat().st_size > 1000
    measures = {"step": ["training step"]}.get(suite, ["forward", "forward+backward"])
    assert [case["measure"] for case in report["cases"]] == measures
    for case in report["cases"]:
        own, theirs = case["seconds"]["own"], case["seconds"][peers]
        assert len(own) == len(theirs) == 2 and min(own + theirs) > 0
        assert case["ratios"][peers] == pytest.approx(np.median([a / b for a, b in zip(own, theirs, strict=True)]))
        assert f"{peers} " in done.stdout and case["case"] in done.stdout
    assert report["machine"]["jax"] and report["machine"]["cores"]


def test_predictions(tmp_path: Path) -> None:
    flags = ["--suite=predict", "--only=LeNet-5, predict 1", "--peers=lax", "--busy=mark", "--rounds=1"]
    done = processes.run("bench", *flags, f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "predict.json").read_text())["cases"]
    assert case["case"] == "LeNet-5, predict 1" and list(case["ratios"]) == ["own again"]


@pytest.mark.parametrize("only", ["crops", "decode"])
def test_loaders(tmp_path: Path, only: str) -> None:
    arguments = ["--suite=data", "--rounds=1", "--images=64", "--peers=lax", "--busy=mark"]
    done = processes.run("bench", *arguments, f"--only={only}", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "data.json").read_text())["cases"]
    if only == "crops":
        assert "224 crops of 500x375 JPEGs of" in case["case"] and list(case["ratios"]) == ["own again"]
    assert only in case["case"] and 0 < case["seconds"]["own"][0] < 1 and "images/s: own " in done.stdout


def test_photographs_are_taken_where_a_folder_is_given(tmp_path: Path) -> None:
    done = processes.run("bench", "--suite=data", "--busy=mark", f"--photos={tmp_path}")
    assert done.returncode == 1 and f"--photos={tmp_path} holds no JPEG files." in done.stderr


def test_other_numbers_and_bad_flags_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = bench_module("timing", monkeypatch)
    timing.check_equal("x", (np.ones(3), np.ones(2)), (np.ones(3), np.ones(2)), 1e-6)
    with pytest.raises(UserError, match=r"lax at c: not our numbers .*error 1\.0e-01"):
        timing.check_equal("lax at c", np.full(3, 10.0), np.array([10, 10, 9.0]), 1e-6)
    with pytest.raises(UserError, match="not our numbers"):
        timing.check_equal("x", np.ones(3), np.full(3, np.nan), 1e-6)
    done = processes.run("bench", "--peers=keras")
    assert done.returncode == 1 and "'keras' must be one of torch, flax, lax" in done.stderr
    done = processes.run("bench", "--suite=step", "--dtypes=float16", "--busy=mark")
    assert done.returncode == 1 and "--dtypes=float16: 'float16' must be one of float32, bfloat16" in done.stderr
    done = processes.run("bench", "--only=nothing", "--busy=mark")
    assert done.returncode == 1 and "no case of the suite ops" in done.stderr


def test_a_busy_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = bench_module("busy", monkeypatch)
    measured: list[int] = []
    with busy_processes(busy.cores()):
        assert busy.undisturbed(lambda: "timing", refuse=False) == ("timing", True)
        done = processes.run("bench", "--only=lenet5")
        assert done.returncode == 1 and "one got" in done.stderr and "--busy=mark goes on" in done.stderr
        monkeypatch.setattr(busy, "ATTEMPTS", 1)
        with pytest.raises(UserError, match=r"got [1-8]?\d% of a core"):
            busy.undisturbed(lambda: measured.append(0), refuse=True)
    assert not measured


def test_what_was_disturbed_is_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = bench_module("busy", monkeypatch)
    monkeypatch.setattr(busy, "WAIT_SECONDS", 0)
    monkeypatch.setattr(busy, "PAUSE_SECONDS", 0)
    looked, free = [0.5] * busy.TESTS, [0.5, 1.0]  # one look with all cores free is enough
    shares = iter([*looked, *free, *looked, *free, *free])
    monkeypatch.setattr(busy, "core_share", lambda: next(shares))
    timings = iter(["disturbed", "alone"])
    assert busy.undisturbed(lambda: next(timings), refuse=True) == ("alone", False)
    assert not list(shares)


def test_spinning_threads_get_their_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs beside the tests, a thread gets some of a core, and none more than one."""
    assert 0 < bench_module("busy", monkeypatch).core_share() <= 1.01
