"""Several seeds: their table, and the command to go on with them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cnnjax.app import seeds, settings


def test_the_table_by_hand() -> None:
    """Of 0.98, 0.99 and 1.0 the mean is 0.99 and the deviation, with n - 1, 0.01; of 1, 2 and 3 they are 2 and 1."""
    scores = [
        {"step": 22, "epoch": 1, "test_accuracy": accuracy, "test_loss": loss}
        for accuracy, loss in ((0.98, 1.0), (0.99, 2.0), (1.0, 3.0))
    ]
    head, accuracy, loss = seeds.table(scores).strip().splitlines()
    assert head.split() == ["3", "seeds", "mean", "sd", "each"]
    assert accuracy.split() == ["test_accuracy", "0.9900", "0.0100", "0.9800", "0.9900", "1.0000"]
    assert loss.split() == ["test_loss", "2.0000", "1.0000", "1.0000", "2.0000", "3.0000"]
    columns = [head.index("mean") + len("mean"), head.index("sd") + len("sd")]
    assert all(line[end - 1].isdigit() and line[end] == " " for line in (accuracy, loss) for end in columns)


def test_one_seed_has_no_deviation() -> None:
    *_, loss = seeds.table([{"step": 22, "epoch": 1, "test_loss": 0.5}]).splitlines()
    assert loss.split() == ["test_loss", "0.5000", "-", "0.5000"]


def test_a_stopped_run_is_gone_on_with_by_the_folder_of_all_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "FLAGS", SimpleNamespace(workdir=None))
    monkeypatch.setattr(sys, "argv", ["experiments/lenet5.py", "--seeds=3"])
    assert settings.command_to_go_on(Path("runs/x")).endswith(" experiments/lenet5.py --seeds=3 --workdir=runs/x")
    monkeypatch.setattr(settings, "FLAGS", SimpleNamespace(workdir="runs/x"))
    monkeypatch.setattr(sys, "argv", ["experiments/lenet5.py", "--workdir=runs/x"])
    assert settings.command_to_go_on(Path("runs/x")).endswith(" experiments/lenet5.py --workdir=runs/x")
