"""What a run prints at its start and at its end."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from cnnjax import train
from cnnjax.app.overfitting import overfitting


def print_header(folder: Path, config: Mapping[str, Any], counts: Mapping[str, int], options: train.Options) -> None:
    """Prints which experiment runs on which data and devices, and its folder."""
    shown = {"train": counts["train"] - options.validation, "validation": options.validation, "test": counts["test"]}
    text = ", ".join(f"{count:,} {name}" for name, count in shown.items() if count)
    devices = f"{jax.device_count()} x {jax.local_devices()[0].device_kind}"
    if jax.process_count() > 1:
        devices += f" in {jax.process_count()} processes"
    print(f"{config['experiment']} on {config['dataset']} ({text}), {devices}: {folder}")


def print_scores(result: train.Result, test_examples: int) -> None:
    """Prints the scores of a finished run, and the time that it took."""
    tested = [record for record in result.records if "test_loss" in record]
    last = tested[-1]
    length = f"{counted(last['epoch'], 'epoch')} ({counted(int(result.state.step), 'update')})"
    print(f"\n{scores('test', last)} after {length}")
    if "validation_loss" in last:
        best = min(tested, key=lambda record: record["validation_loss"])
        print(f"best by validation: epoch {best['epoch']}, {scores('validation', best)}, {scores('test', best)}")
    if sentence := overfitting(result.records, test_examples):
        print(sentence)
    if result.updates:
        updates = f"{counted(result.updates, 'update')} in {result.seconds:.1f} s, evaluations included"
        print(f"{updates}; {result.compile_seconds:.1f} s of that compiling")


def counted(number: int, what: str) -> str:
    """Returns a number of things in words: `1 epoch`, `2 epochs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def scores(split: str, record: Mapping[str, float]) -> str:
    """Returns a split's scores of a record as text: `test accuracy 99.10 %, loss 0.0312`."""
    found = {name.removeprefix(f"{split}_"): value for name, value in record.items() if name.startswith(f"{split}_")}
    loss = found.pop("loss")
    return f"{split} " + ", ".join([*(f"{name} {value:.2%}" for name, value in found.items()), f"loss {loss:.4f}"])


def print_files(folder: Path, drawn: Sequence[str]) -> None:
    """Prints where the files of a finished run on images are, and what to do with them."""
    events = f" (tensorboard --logdir={folder})" if importlib.util.find_spec("tensorboard") else ""
    print(f"everything is in {folder}: config.json, metrics.jsonl, checkpoints/, events/{events},")
    print(f"  {', '.join(f'{name}.png' for name in drawn)}")
    print(f"classify an image with: python experiments/predict.py --workdir={folder} IMAGE")
    print(f"look inside with: python experiments/visualize.py --workdir={folder}")
