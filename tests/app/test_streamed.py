"""Runs whose images are read when they are needed: the same examples, numbers and pictures as with all in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import processes
from tests.train import tiny

SMALL = ("--epochs=1", "--batch_size=256", "--checkpoint_every=1000")


def both(script: str, tmp_path: Path, *flags: str) -> tuple[Path, Path]:
    """The same run with the images in memory and read one by one."""
    folders = tmp_path / "never", tmp_path / "always"
    for folder in folders:
        processes.good(script, *SMALL, *flags, f"--stream={folder.name}", f"--workdir={folder}")
    return folders


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("cifar10.py", ("--dataset=digits", "--blocks=1", "--width=2", "--augment")),
        ("alexnet.py", ("--dataset=digits", "--width=6", "--dense=8", "--image_size=63")),
    ],
)
def test_a_streamed_run_has_the_bits_of_one_in_memory(script: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    never, always = both(script, tmp_path, *flags)
    assert tiny.same_bits(never, always)
    configs = [json.loads((folder / "config.json").read_text()) for folder in (never, always)]
    assert configs[0]["input"] == configs[1]["input"] and configs[0]["functions"] == configs[1]["functions"]
    assert (always / "confusion.png").exists() and (always / "mistakes.png").exists()
