"""The README's example of a net of one's own runs as it stands, but for the number of epochs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def example(name: str) -> str:
    found = re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def test_a_net_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    program = example("own net")
    assert "epochs=20" in program
    exec(program.replace("epochs=20", "epochs=2"), {})
    assert re.fullmatch(r"\d+\.\d% of 360\n", capsys.readouterr().out)
    assert {"config.json", "metrics.jsonl", "checkpoints", "events"} <= {
        path.name for path in tmp_path.glob("runs/own/*")
    }
