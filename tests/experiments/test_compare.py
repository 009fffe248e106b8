"""Comparing runs, as a user does it: the table by hand, what names a group, and how each bad input ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import processes
from tests.report.pictures import size

CONFIG: dict[str, Any] = {
    "experiment": "lenet5",
    "dataset": "digits",
    "data_dir": None,
    "epochs": 2,
    "learning_rate": 0.1,
    "validation": 0,
    "patience": None,
    "keep": 2,
    "seed": 0,
    "model": {"name": "lenet5", "channels": 1},
    "data": {"train": {"shape": [1437, 32, 32, 1], "sha256": "abc"}},
    "environment": {"jax": "0.10.2"},
}


def write(folder: Path, losses: list[float], accuracies: list[float], **changes: Any) -> Path:
    """A run of an epoch per loss; the train loss of an epoch is half of the test loss."""
    records: list[dict[str, Any]] = []
    for epoch, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True), 1):
        records.append({"step": 10 * epoch - 5, "epoch": epoch, "train_loss": 9.0, "learning_rate": 0.1})
        scores = {"train_epoch_loss": loss / 2, "test_loss": loss, "test_accuracy": accuracy}
        records.append({"step": 10 * epoch, "epoch": epoch, **scores})
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def compare(out: Path, *folders: Path) -> tuple[list[str], dict[str, Any]]:
    """The lines that are printed, and compare.json."""
    done = processes.run("compare.py", *folders, f"--out={out}")
    assert done.returncode == 0, done.stderr
    size(out / "compare.png")
    return done.stdout.splitlines(), json.loads((out / "compare.json").read_text())


def test_the_table_of_two_groups_by_hand(tmp_path: Path) -> None:
    """Mean and deviation over the seeds: of 0.99, 0.98 they are 0.985 and 0.00707; of 0.1, 0.3, 0.2 and 0.1414."""
    write(tmp_path / "slow" / "seed0", [0.5, 0.1], [0.9, 0.99], data_dir="/a", environment={"jax": "0.10.0"}, keep=9)
    write(tmp_path / "slow" / "seed1", [0.2, 0.3], [0.9, 0.98], seed=1)
    fast = write(tmp_path / "fast", [0.5, 0.4], [0.5, 0.75], learning_rate=0.5)
    lines, summary = compare(tmp_path / "out", tmp_path / "slow", fast)
    cells = [line.split("  ") for line in lines[:3]]
    assert [[cell.strip() for cell in row if cell] for row in cells] == [
        ["runs", "last epoch", "best epoch", "test_loss", "test_accuracy", "train_epoch_loss", "settings"],
        ["2", "2", "1-2", "0.20 ± 0.14", "98.50 ± 0.71 %", "0.100 ± 0.071", "learning_rate=0.1"],
        ["1", "2", "2", "0.4", "75.00 %", "0.2", "learning_rate=0.5"],
    ]
    assert lines[3] == "best epoch: of the lowest test_loss; scores: at the end of each run"
    assert lines[4] == f"3 runs in 2 groups: {tmp_path}/out/compare.png and .json"
    first, second = summary["groups"]
    assert first["settings"] == {"learning_rate": 0.1} and first["label"] == "learning_rate=0.1"
    assert first["runs"] == [str(tmp_path / "slow" / f"seed{seed}") for seed in (0, 1)]
    assert first["last_epochs"] == [2, 2] and first["best_epochs"] == [2, 1]
    assert first["scores"]["test_accuracy"]["mean"] == pytest.approx(0.985)
    assert first["scores"]["test_accuracy"]["deviation"] == pytest.approx(0.0070711, rel=1e-4)
    assert first["scores"]["test_loss"]["values"] == [0.1, 0.3]
    assert second["scores"]["test_accuracy"] == {"mean": 0.75, "deviation": None, "values": [0.75]}


def test_what_names_a_group(tmp_path: Path) -> None:
    """Settings by their dotted names; one that others lack is absent; what follows from others is left out."""
    write(tmp_path / "a" / "seed2", [0.5], [0.9], epochs=1, data={"train": "one"})
    write(tmp_path / "b" / "seed10", [0.5], [0.9], epochs=1, data={"train": "two"}, seed=10,
          model={"name": "lenet5", "width": 2.0})  # fmt: skip
    write(tmp_path / "b" / "seed9", [0.5], [0.9], epochs=1, data={"train": "two"}, seed=9,
          model={"name": "lenet5", "width": 2.0})  # fmt: skip
    _, summary = compare(tmp_path / "out", tmp_path / "a", tmp_path / "b")
    assert [group["label"] for group in summary["groups"]] == [
        "model.channels=1, model.width=absent",
        "model.channels=absent, model.width=2",
    ]
    assert [Path(path).name for path in summary["groups"][1]["runs"]] == ["seed9", "seed10"]


def test_other_data_tell_groups_apart_unless_the_seed_draws_them(tmp_path: Path) -> None:
    for name, validation in (("same", 100), ("other", 0)):
        for seed in (0, 1):
            write(tmp_path / name / f"seed{seed}", [0.5], [0.9], epochs=1, seed=seed, validation=validation,
                  data={"train": {"crc32": seed}})  # fmt: skip
    lines, summary = compare(tmp_path / "a", tmp_path / "same")
    assert lines[1].endswith("  lenet5 on digits") and len(summary["groups"]) == 1
    _, summary = compare(tmp_path / "b", tmp_path / "other")
    assert [group["label"] for group in summary["groups"]] == [
        "data.train.crc32=0",
        "data.train.crc32=1",
    ]


def test_unfinished_and_repeated_runs_are_named(tmp_path: Path) -> None:
    done = write(tmp_path / "done", [0.5, 0.4], [0.9, 0.9])
    half = write(tmp_path / "half", [0.5], [0.9])
    stopped = write(tmp_path / "stopped", [0.5], [0.9], patience=3, seed=1)
    lines, _ = compare(tmp_path / "out", done, half, stopped)
    assert f"{half} is not at its end: epoch 1 of 2" in lines
    assert f"the same run by settings and seed: {done}, {half}" in lines
    assert not any("stopped is" in line for line in lines)


def test_a_diverged_run_has_null_in_the_json_file(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [0.5, float("nan")], [0.9, 0.1])
    lines, summary = compare(tmp_path / "out", run)
    assert "nan" in lines[1]
    (group,) = summary["groups"]
    assert group["scores"]["test_loss"] == {"mean": None, "deviation": None, "values": [None]}
    assert group["best_epochs"] == [1]


def test_bad_input_ends_with_a_sentence(tmp_path: Path) -> None:
    seeds = write(tmp_path / "run" / "seed0", [0.5], [0.9]).parent
    fresh = write(tmp_path / "fresh", [], [])
    other = write(tmp_path / "other", [0.5], [0.9])
    (other / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "test_psnr": 30.0}\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    out = f"--out={tmp_path / 'out'}"
    assert "nothing to compare: give the folders of runs" in processes.refusal("compare.py", out)
    for folders, message in (
        ([tmp_path / "missing"], f"{tmp_path}/missing is no folder: give the folder of a run"),
        ([tmp_path / "file"], f"{tmp_path}/file is no folder"),
        ([tmp_path / "empty"], f"{tmp_path}/empty holds no run: neither it nor a folder in it has a config.json"),
        ([fresh], f"{fresh} has no records yet: wait for the end of its first epoch"),
        ([seeds, seeds], f"{seeds}/seed0 is given twice (as {seeds}/seed0): leave one out"),
        ([seeds, seeds / "seed0"], f"{seeds}/seed0 is given twice (as {seeds}/seed0): leave one out"),
        ([seeds, other], f"no score in common, so there is nothing to compare ({seeds}/seed0: test_loss"),
    ):
        assert message in processes.refusal("compare.py", out, *folders)
    assert not (tmp_path / "out").exists()
    said = processes.good("compare.py", out, seeds, tmp_path / "empty")
    assert f"passed over, as they hold no run: {tmp_path}/empty" in said
