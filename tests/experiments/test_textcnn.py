"""The script of TextCNN on two small files of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnnjax.train import metrics
from tests import processes

pytestmark = pytest.mark.thorough

NET = ["--maps=4", "--epochs=2", "--batch_size=10"]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty bad and thirty good sentences of five words, told apart by one of them; and vectors for some words."""
    folder = tmp_path_factory.mktemp("reviews")
    draw = np.random.default_rng(0)
    for name, telling in (("neg", "bad"), ("pos", "good")):
        rows = [" ".join([*draw.choice(["a", "film", "it's", "plot"], 4), telling]) for _ in range(30)]
        (folder / f"rt-polarity.{name}").write_text("\n".join(rows) + "\n")
    (folder / "vectors.txt").write_text("good 1 0 0 1\nbad -1 0 0 1\nfilm 0 1 0 0\nelse 0 0 1 0\n")
    return folder


@pytest.fixture(scope="module")
def run(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One fold, its words with given vectors."""
    workdir = tmp_path_factory.mktemp("run")
    flags = ["--fold=3", "--seed=2", f"--embeddings={reviews / 'vectors.txt'}", "--form=multichannel", *NET]
    done = processes.run("textcnn.py", f"--data_dir={reviews}", f"--workdir={workdir}", *flags)
    assert done.returncode == 0, done.stderr
    assert "vectors of 4 numbers for 3 of 7 words" in done.stdout
    assert "textcnn on MR (49 train, 5 validation, 6 test)" in done.stdout and "vectors.1 (Embedding)" in done.stdout
    chosen = next(line for line in done.stdout.splitlines() if line.startswith("fold 3: "))
    records = [r for r in metrics.read(workdir / "fold3/metrics.jsonl") if "test_accuracy" in r]
    assert chosen.split()[2] in {f"{record['test_accuracy']:.2%}" for record in records}
    assert f"for the mean over the folds: --fold=all --workdir={workdir}" in done.stdout
    return workdir


def test_what_a_fold_leaves(run: Path) -> None:
    assert {path.name for path in (run / "fold3").iterdir()} == {".lock", "checkpoints", "config.json", "confusion.png",
                                                                 "curves.png", "events", "metrics.jsonl"}  # fmt: skip
    config = json.loads((run / "fold3/config.json").read_text())
    assert (config["fold"], config["validation"], config["max_norm"]) == (3, 5, 3.0)
    assert config["seed"] == 2, "which draws the weights, too"
    assert (config["model"]["form"], config["model"]["width"]) == ("multichannel", 4)


def test_other_vectors_are_refused(run: Path, reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "others.txt").write_text("good 1 0 0 2\n")
    flags = ["--fold=3", "--seed=2", f"--embeddings={tmp_path / 'others.txt'}", "--form=multichannel", *NET]
    error = processes.refusal("textcnn.py", f"--data_dir={reviews}", f"--workdir={run}", *flags)
    assert "embeddings_crc32: was " in error


def test_nets_of_sentences_are_not_looked_at(run: Path) -> None:
    error = processes.refusal("predict.py", f"--workdir={run / 'fold3'}", "x.png")
    assert "holds a run on MR: only nets of images can be looked at" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data_dir must be the folder of rt-polarity.neg and rt-polarity.pos: get https://www.cs.cornell.edu"),
        (["--form=static"], "--form=static needs the vectors of the words: give --embeddings=FILE"),
        (["--form=rand", "--embeddings=x"], "--embeddings has no use with --form=rand"),
        (["--embeddings=x", "--width=3"], "--width is that of the vectors of --embeddings"),
    ],
)
def test_bad_flags(flags: list[str], message: str, tmp_path: Path) -> None:
    assert message in processes.refusal("textcnn.py", *flags, f"--workdir={tmp_path / 'new'}")
    assert not (tmp_path / "new").exists()


def test_the_epoch_is_chosen_by_validation_and_the_mean_is_over_the_folds() -> None:
    """In a process of its own: two scripts define the same flags."""
    program = """
import textcnn
pairs = [(0.5, 0.9), (0.8, 0.6), (0.8, 0.7), (0.7, 0.95)]
records = [{"validation_accuracy": v, "test_accuracy": t} for v, t in pairs]
print(textcnn.chosen_accuracy([{"train_loss": 1.0}, *records]))
print(textcnn.chosen_accuracy([{"test_accuracy": 0.3}, {"test_accuracy": 0.2}]))
print(textcnn.summary("rand", [0.7] * 5 + [0.8] * 5))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=processes.ROOT / "experiments", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "0.7",
        "0.2",
        "CNN-rand, mean over 10 folds: 75.0 % ± 5.3 (Kim 2014: 76.1 %)",
    ]


@pytest.mark.slow
def test_all_folds_go_on_from_those_that_are_there(reviews: Path, tmp_path: Path) -> None:
    flags = [f"--data_dir={reviews}", f"--workdir={tmp_path}", "--width=4", *NET]
    assert processes.run("textcnn.py", *flags, "--fold=3").returncode == 0
    before = (tmp_path / "fold3/metrics.jsonl").read_text()
    done = processes.run("textcnn.py", *flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "fold3/metrics.jsonl").read_text() == before
    assert "CNN-rand, mean over 10 folds: " in done.stdout and done.stdout.count("chosen by validation") == 10
