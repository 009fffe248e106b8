"""What a run prints at its start and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax import report, train


def print_header(folder: Path, config: Mapping[str, Any], splits: Mapping[str, train.Examples]) -> None:
    """Prints which experiment runs on which data and devices, and its folder."""
    device = config["environment"]["device"]
    counts = ", ".join(f"{len(split.labels):,} {name}" for name, split in splits.items())
    print(f"{config['experiment']} on {config['dataset']} ({counts}), {jax.local_device_count()} x {device}: {folder}")


def print_scores(result: train.Result) -> None:
    """Prints the scores of a finished run, and the time that it took."""
    tested = [record for record in result.records if "test_accuracy" in record]
    last = tested[-1]
    print(f"\ntest accuracy {last['test_accuracy']:.2%}, loss {last['test_loss']:.4f}", end="")
    print(f" after {last['epoch']} epochs ({int(result.state.step):,} updates)")
    if "validation_loss" in last:
        best = min(tested, key=lambda record: record["validation_loss"])
        print(
            f"best by validation: epoch {best['epoch']}, validation accuracy {best['validation_accuracy']:.2%}", end=""
        )
        print(f", test accuracy {best['test_accuracy']:.2%}")
    if sentence := overfitting(result.records):
        print(sentence)
    if result.updates:
        print(f"{result.updates:,} updates in {result.seconds:.1f} s, evaluations and compiling included")


def overfitting(records: Sequence[report.Record]) -> str | None:
    """Returns a sentence if the net overfitted, else None.

    That is if the test loss rose by over 5 % from its minimum while the train loss fell.
    """
    epochs, tested = report.by_epoch(records, "test_loss")
    trained = dict(zip(*report.by_epoch(records, "train_loss"), strict=True))
    lowest = int(np.argmin(tested))
    turn, last = epochs[lowest], epochs[-1]
    if not {turn, last} <= trained.keys() or tested[-1] <= 1.05 * tested[lowest] or trained[last] >= trained[turn]:
        return None
    return (
        f"the test loss turned after epoch {turn} ({tested[lowest]:.4f}, at the end {tested[-1]:.4f}) "
        f"while the train loss fell from {trained[turn]:.4f} to {trained[last]:.4f}: the net overfits"
    )


def print_files(folder: Path) -> None:
    """Prints where the files of a finished run on images are, and what to do with them."""
    print(
        f"everything is in {folder}: config.json, metrics.jsonl, checkpoints/, events/ (tensorboard --logdir={folder}),"
    )
    print("  curves.png, kernels.png, confusion.png, mistakes.png")
    print(f"classify an image with: python experiments/predict.py --workdir={folder} IMAGE")
    print(f"look inside with: python experiments/visualize.py --workdir={folder}")
