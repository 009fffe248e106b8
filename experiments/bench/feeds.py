"""Feeds of a training step: read on the host beside kept on the device, and what follows: transfer and update."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from timing import Contenders, Result, Run, compare, in_turns

from cnnjax import data, models, train
from cnnjax.train import devices, feed, make_update, optimizers, state, step

FLAGS = flags.FLAGS
EXAMPLES = 8192
BATCH = 128
UPDATES = 8  # of a timing
PHOTO_SIDE, PHOTOS = 224, 32  # of a batch of photographs


def time_feeds(peers: list[str]) -> Iterator[Result]:
    """Times a CIFAR net's updates with both feeds, from arrays in memory; then the stages behind a loader."""
    name = f"CIFAR net, batch norm, batch {BATCH}, read on the host"
    if FLAGS.only in name:
        contenders: Contenders = {"own": updates("host"), "own again": updates("host"), "in memory": updates("device")}
        yield compare(name, f"{UPDATES} updates", contenders, tolerance=1e-5)
    for stage, make_run in (("transfer", transfer), (f"compute: a ResNet-18 update at {PHOTO_SIDE}", compute)):
        if FLAGS.only in stage:
            run = make_run()
            timed = in_turns({"own": run}, FLAGS.rounds)
            seconds = {"own": [one / PHOTOS for one in timed.seconds["own"]]}
            yield {"case": stage, "measure": f"batch of {PHOTOS}", "unit": ("us an image", 1e6), "seconds": seconds,
                   "ratios": {}, "spread": {}, "disturbed": timed.disturbed}  # fmt: skip


def updates(kind: str) -> Run:
    """Returns a run of updates on random crops of images; `kind` says where their examples are chosen."""
    images = np.random.default_rng(0).integers(0, 256, (EXAMPLES, 32, 32, 3), np.uint8)
    examples = train.Examples(images, np.arange(EXAMPLES, dtype=np.int32) % 10)
    spec = data.InputSpec.of(images, size=32)
    mesh = devices.data_mesh()
    make = step.make_batches(mesh, 0, spec.prepare, data.crop_flip)
    choose: Any = (
        feed.DeviceFeed(examples, mesh, make, 0, BATCH) if kind == "device" else
        feed.HostFeed(examples, mesh, make, 0, BATCH, next_call=lambda done: 1, total=10**6, workers=1, skipped=None)
    )  # fmt: skip
    update, current = training_step({"name": "cifar_cnn", "batch_norm": True, "channels": 3}, mesh)
    done = 0

    def run() -> np.ndarray:
        nonlocal current, done
        values: Any = {}
        for _ in range(UPDATES):
            current, values = update(current, *choose(done, 1))
            done += 1
        return np.asarray(values["loss"])

    return run


def transfer() -> Run:
    """Returns a run that sends a batch of photographs to the devices."""
    mesh, batch = devices.data_mesh(), photographs()
    return lambda: jax.block_until_ready(devices.share_out(mesh, batch, axis=1))


def compute() -> Run:
    """Returns a run of one update of a ResNet-18 on a batch of photographs that is on the devices."""
    mesh = devices.data_mesh()
    make = step.make_batches(mesh, 0, data.InputSpec(size=PHOTO_SIDE, channels=3).prepare, None)
    images, labels = devices.share_out(mesh, photographs(), axis=1)
    update, current = training_step({"name": "resnet18", "stem": "imagenet", "channels": 3}, mesh)

    def run() -> np.ndarray:
        nonlocal current
        x, y = make(images, labels, None, devices.replicate(mesh, np.int32(0)))
        current, values = update(current, x, y)
        return np.asarray(values["loss"])

    return run


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """Returns a call's images and labels, `(1, PHOTOS, ...)`."""
    images = np.random.default_rng(0).integers(0, 256, (1, PHOTOS, PHOTO_SIDE, PHOTO_SIDE, 3), np.uint8)
    return images, np.arange(PHOTOS, dtype=np.int32)[None] % 10


def training_step(model: dict[str, Any], mesh: jax.sharding.Mesh) -> tuple[train.Update, train.TrainState]:
    """Returns the jitted update of a net, and its first state."""
    optimizer = optimizers.optimizer("momentum", 0.001)
    net, first = state.initial(models.build({"model": model}), optimizer)
    shardings = devices.state_shardings(mesh, first, shard=False)
    return step.make_train_step(make_update(net, optimizer), shardings=shardings), devices.place(first, shardings)
