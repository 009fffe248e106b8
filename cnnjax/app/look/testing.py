"""The test set as the page shows it: all of it, or evenly spaced examples where it does not fit in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cnnjax import data, report
from cnnjax.app.look.contents import Tested
from cnnjax.app.restored import TrainedNet, in_memory, predict
from cnnjax.train import metrics

#: Examples that are read where the test set does not fit in memory.
SAMPLED = 500


def test_set(net: TrainedNet, dataset: data.OpenDataset, data_dir: str | None) -> Tested:
    """Returns the test examples of a run, and what its net says."""
    total = len(dataset.test)
    if dataset.fits_in_memory(net.spec.resize_to):
        loaded = in_memory(net.config, data_dir)
        held, labels, numbers = net.spec.on_host(loaded.test_images), loaded.test_labels, np.arange(total)
    else:
        numbers = np.unique(np.linspace(0, total - 1, min(SAMPLED, total)).astype(int))
        read = [dataset.test[int(number)] for number in numbers]
        held = np.stack([net.spec.hold(image) for image, _ in read])
        labels = np.array([label for _, label in read])
    outputs = predict(net, held).astype(np.float32)
    return Tested(net.spec.as_input(held), np.asarray(labels, int), outputs, numbers, total)


def records(workdir: str) -> list[report.Record]:
    """Returns the records of a run."""
    return metrics.read(Path(workdir) / "metrics.jsonl")
