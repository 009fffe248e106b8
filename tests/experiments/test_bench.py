"""The benchmark in miniature: it runs, refuses other numbers, and nothing here depends on a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests import processes


@pytest.mark.parametrize(
    ("suite", "only", "peers"),
    [
        ("ops", "lenet5 1x14", "lax"),
        ("pool", "max 2/2 128x10", "lax"),
        pytest.param("step", "LeNet", "flax", marks=pytest.mark.slow),
    ],
)
def test_a_suite(tmp_path: Path, suite: str, only: str, peers: str) -> None:
    arguments = [f"--suite={suite}", f"--only={only}", f"--peers={peers}", "--rounds=2", f"--out={tmp_path}"]
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


@pytest.mark.parametrize("only", ["crops", "decode"])
def test_loaders(tmp_path: Path, only: str) -> None:
    arguments = ["--suite=data", "--rounds=1", "--images=64", "--peers=lax", f"--only={only}", f"--out={tmp_path}"]
    done = processes.run("bench", *arguments)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "data.json").read_text())["cases"]
    if only == "crops":
        assert "224 crops of 500x375 JPEGs of" in case["case"] and list(case["ratios"]) == ["own again"]
    assert only in case["case"] and 0 < case["seconds"]["own"][0] < 1 and "images/s: own " in done.stdout


def test_photographs_are_taken_where_a_folder_is_given(tmp_path: Path) -> None:
    done = processes.run("bench", "--suite=data", f"--photos={tmp_path}")
    assert done.returncode == 1 and f"--photos={tmp_path} holds no JPEG files." in done.stderr


def test_other_numbers_and_bad_flags_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from cnnjax.errors import UserError

    monkeypatch.syspath_prepend(processes.ROOT / "experiments" / "bench")
    timing = importlib.import_module("timing")
    timing.check_equal("x", (np.ones(3), np.ones(2)), (np.ones(3), np.ones(2)), 1e-6)
    with pytest.raises(UserError, match=r"lax at c: not our numbers .*error 1\.0e-01"):
        timing.check_equal("lax at c", np.full(3, 10.0), np.array([10, 10, 9.0]), 1e-6)
    with pytest.raises(UserError, match="not our numbers"):
        timing.check_equal("x", np.ones(3), np.full(3, np.nan), 1e-6)
    done = processes.run("bench", "--peers=keras")
    assert done.returncode == 1 and "'keras' must be one of torch, flax, lax" in done.stderr
    done = processes.run("bench", "--only=nothing")
    assert done.returncode == 1 and "no case of the suite ops" in done.stderr
