"""The scripts as a user starts them: what they leave, and how each bad input ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from cnnjax import data
from cnnjax.train import checkpoint, metrics
from tests import processes
from tests.experiments import events


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on the digits, with a validation set."""
    workdir = tmp_path_factory.mktemp("run")
    done = processes.run("lenet5.py", "--epochs=8", "--validation=137", "--noaugment", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout and "best by validation" in done.stdout and str(workdir) in done.stdout
    assert done.stdout.count("validation accuracy") == 8 + 1, "a line for each evaluation, one in the summary"
    assert "examples/s" in done.stderr and "step/s" in done.stderr
    return workdir


def test_what_a_run_leaves(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {".lock", "checkpoints", "config.json", "confusion.png", "curves.png", "events", "kernels.png",
                     "metrics.jsonl", "mistakes.png"}  # fmt: skip
    config = json.loads((run / "config.json").read_text())
    assert (config["epochs"], config["validation"], config["schedule"]) == (8, 137, "onecycle")
    records = metrics.read(run / "metrics.jsonl")
    per_epoch = (1437 - 137) // 64
    assert [r["step"] for r in records if "train_loss" in r] == list(range(10, 8 * per_epoch + 1, 10))
    assert [r["step"] for r in records if "test_loss" in r] == [per_epoch * e for e in range(1, 9)]
    assert records[-1]["test_accuracy"] > 0.8


def test_tensorboard_holds_scalars_and_pictures(run: Path) -> None:
    tags = events.tags(run)
    assert {"train/loss", "train/accuracy", "test/loss", "test/accuracy", "validation/loss", "learning_rate"} <= tags
    assert {"curves", "kernels", "confusion", "mistakes"} <= tags
    shown = events.hyperparameters(run)
    assert (shown["epochs"], shown["optimizer"], shown["learning_rate"]) == (8, "adamw", pytest.approx(4e-3))


def test_predict_files_and_test_examples(run: Path, tmp_path: Path) -> None:
    digits = data.digits()
    Image.fromarray(digits.test_images[40, ..., 0]).save(tmp_path / "small.png")
    canvas = data.pad_to_square(digits.test_images[40:41], 32)[0, ..., 0]
    Image.fromarray(canvas).convert("RGB").save(tmp_path / "large.png")
    done = processes.run("predict.py", f"--workdir={run}", tmp_path / "small.png", tmp_path / "large.png", "--index=40",
                         f"--output={tmp_path / 'figure.png'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    tables = [
        part.split("\n", 1)[1]
        for part in done.stdout.split("checkpoint ")[0]
        .replace("small.png: ", "\0")
        .replace("large.png: ", "\0")
        .replace("test 40 (", "\0")
        .split("\0")[1:]
    ]
    assert len(tables) == 3 and len(set(tables)) == 1, "the same image, three ways, has the same probabilities"
    assert sum(float(line.split()[1]) for line in tables[0].splitlines()) == pytest.approx(1, abs=1e-3)
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.size[0] > 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs=0"], "flag --epochs=0"),
        (["--variant=lenet6"], "<modern|classic|1998>"),
        (["--j=1"], "--j is for --variant=1998; leave it out with --variant=modern"),
        (["--variant=1998", "--augment", "--cutout=4"], "--cutout: --augment has distortions of its own with this net"),
        (["--optimizer=sdlm"], "--optimizer=sdlm needs the curvature that lenet5.py --variant=1998 computes"),
        (["--learning_rate=inf"], "must be a finite number, above 0"),
        (["--learnig_rate=1"], "Did you mean: learning_rate"),
        (["--dataset=mnits"], "There is no data set 'mnits'"),
        (["--batch_size=1438"], "The batch size is 1438, more than the 1437 training examples"),
        (["--validation=1437"], "--validation=1437 must leave something of the 1437 training examples"),
        (["--patience=2"], "--patience needs --validation"),
        (["mnist"], "unexpected argument 'mnist'"),
    ],
)
def test_bad_flags(arguments: list[str], message: str, tmp_path: Path) -> None:
    assert message in processes.refusal("lenet5.py", *arguments, f"--workdir={tmp_path / 'new'}")
    assert not (tmp_path / "new").exists(), "nothing may be left behind"


def test_a_missing_data_set_says_what_was_looked_for_within_seconds(tmp_path: Path) -> None:
    before = time.monotonic()
    error = processes.refusal("lenet5.py", "--dataset=mnist", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'new'}")
    assert f"{tmp_path}/mnist" in error
    assert time.monotonic() - before < 30


def test_unwritable_workdirs() -> None:
    assert "--workdir=/proc/nothing" in processes.refusal("lenet5.py", "--workdir=/proc/nothing")


def test_other_flags_in_the_same_workdir(run: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    message = processes.refusal("lenet5.py", "--epochs=9", "--validation=137", "--seed=1", f"--workdir={run}")
    for difference in ("epochs: was 8, is now 9", "augment: was False, is now True", "seed: was 0, is now 1"):
        assert difference in message
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before


def test_predict_refuses_bad_flags(run: Path, tmp_path: Path) -> None:
    assert "--index=360: must be" in processes.refusal("predict.py", f"--workdir={run}", "--index=3,360")
    assert "nothing to classify" in processes.refusal("predict.py", f"--workdir={run}")
    assert "holds no checkpoint" in processes.refusal("predict.py", f"--workdir={tmp_path}", "x.png")


def test_a_signal_says_how_to_go_on(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    often = ("--noaugment", "--checkpoint_every=22")  # records are written with a checkpoint
    process = processes.start("lenet5.py", *often, f"--workdir={workdir}")
    while process.running() and "test_loss" not in _text(workdir / "metrics.jsonl"):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    done = process.end()
    assert done.returncode == 0 and "Traceback" not in done.stderr
    step = checkpoint.steps(workdir)[-1]
    assert f"stopped after update {step}, saved. Go on with: python" in done.stdout.replace(
        os.path.basename(sys.executable), "python"
    )
    assert f"--workdir={workdir}" in done.stdout.split("Go on with: ")[1]


@pytest.mark.thorough
def test_a_full_disk_ends_in_one_sentence(tmp_path: Path) -> None:
    """A limit of 100 kB on any file stands for the full disk; the checkpoint of LeNet-5 and its Adam takes 740 kB."""
    message = processes.refusal("lenet5.py", "--epochs=1", "--noaugment", f"--workdir={tmp_path / 'run'}",
                                file_limit=100_000)  # fmt: skip
    assert "checkpoint 22" in message and "no checkpoint was saved before" in message


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
