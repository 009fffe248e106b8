"""The test set as the page shows it: all of it, or evenly spaced examples where it cannot be held in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cnnjax import data, report
from cnnjax.app.look.contents import Tested
from cnnjax.app.pictures import is_readable
from cnnjax.app.restored import TrainedNet, in_memory, predict
from cnnjax.train import metrics

#: Examples that are read where the test set is not loaded: it does not fit in memory, or some cannot be read.
SAMPLED = 500


def test_set(net: TrainedNet, dataset: data.OpenDataset, data_dir: str | None) -> Tested:
    """Returns the test examples of a run, and what its net says."""
    total, skips = len(dataset.test), net.config.get("skip_corrupt", False)
    if dataset.fits_in_memory(net.spec.resize_to) and not skips:
        loaded = in_memory(net.config, data_dir)
        held, labels, numbers = net.spec.on_host(loaded.test_images), loaded.test_labels, np.arange(total)
    else:
        numbers = np.unique(np.linspace(0, total - 1, min(SAMPLED, total)).astype(int))
        if skips:
            numbers = np.array([number for number in numbers if is_readable(dataset.test, int(number))], int)
        read = [dataset.test[int(number)] for number in numbers]
        held = np.stack([net.spec.hold(image) for image, _ in read])
        labels = np.array([label for _, label in read])
    outputs = predict(net, held).astype(np.float32)
    return Tested(net.spec.as_input(held), np.asarray(labels, int), outputs, numbers, total)


def records(workdir: str) -> list[report.Record]:
    """Returns the records of a run."""
    return metrics.read(Path(workdir) / "metrics.jsonl")
