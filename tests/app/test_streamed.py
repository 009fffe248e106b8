"""Runs whose images are read when they are needed: the same examples, numbers and pictures as with all in memory."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cnnjax import data
from cnnjax.app import augmentation, examples
from cnnjax.data import memory
from cnnjax.errors import UserError
from tests import processes
from tests.data import picture_files
from tests.experiments import tiny_sets
from tests.train import tiny

pytestmark = pytest.mark.thorough

SMALL = ("--batch_size=256", "--checkpoint_every=1000")


def run(script: str, folder: Path, *flags: str) -> dict[str, Any]:
    """Runs a script, and returns its config.json."""
    processes.good(script, *SMALL, *flags, f"--workdir={folder}")
    return json.loads((folder / "config.json").read_text())


def test_a_run_goes_on_streamed_or_not_to_the_same_bits(tmp_path: Path) -> None:
    held, mixed = tmp_path / "held", tmp_path / "mixed"
    flags = ("--dataset=digits", "--blocks=1", "--width=2", "--augment")
    expected = run("cifar10.py", held, *flags, "--stream=never", "--epochs=2")
    run("cifar10.py", mixed, *flags, "--stream=always", "--epochs=1")
    assert (mixed / "confusion.png").exists() and (mixed / "mistakes.png").exists()
    found = run("cifar10.py", mixed, *flags, "--stream=never", "--epochs=2", "--workers=3")
    assert tiny.same_bits(held, mixed)
    assert found["input"] == expected["input"] and found["functions"] == expected["functions"]


@pytest.mark.slow
def test_crops_of_streamed_images_have_the_bits_of_those_in_memory(tmp_path: Path) -> None:
    flags = ("--dataset=digits", "--width=6", "--dense=8", "--image_size=63", "--epochs=1")
    for stream in ("never", "always"):
        run("alexnet.py", tmp_path / stream, *flags, f"--stream={stream}")
    assert tiny.same_bits(tmp_path / "never", tmp_path / "always")


def prepared(monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], **changes: Any) -> examples.Prepared:
    given = {"dataset": "digits", "data_dir": None, "test_share": None, "channels": None, "stream": "auto",
             "skip_corrupt": False, "augment": True}  # fmt: skip
    monkeypatch.setattr(examples, "FLAGS", SimpleNamespace(**given | flags))
    wanted = {"size": 32, "resize_to": None, "channels": None, "pixels": None, "standard": None, "views": None,
              "random_resized": False}  # fmt: skip
    return examples.prepare(examples.Input(**wanted | changes))


def test_by_default_what_fits_in_memory_is_held_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not prepared(monkeypatch, {}).is_streamed
    assert prepared(monkeypatch, {"stream": "always"}).is_streamed
    assert prepared(monkeypatch, {"skip_corrupt": True}).is_streamed
    assert prepared(monkeypatch, {}, random_resized=True, resize_to=37).is_streamed
    monkeypatch.setattr(memory, "available", lambda: 2 * 1797 * 32 * 32)
    assert not prepared(monkeypatch, {}).is_streamed
    monkeypatch.setattr(memory, "available", lambda: 2 * 1797 * 32 * 32 - 1)
    assert prepared(monkeypatch, {}).is_streamed
    with pytest.raises(UserError, match="stream"):
        prepared(monkeypatch, {"stream": "never"}, resize_to=64)


def test_what_cannot_be_read_by_rows_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 2
    np.savez_compressed(tmp_path / "small.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    given = {"dataset": f"npz:{tmp_path / 'small.npz'}"}
    assert not prepared(monkeypatch, given).is_streamed
    with pytest.raises(UserError, match="is compressed, so its rows cannot be read one by one"):
        prepared(monkeypatch, {**given, "stream": "always"})


@pytest.mark.parametrize(
    "changes",
    [{}, {"channels": 3}, {"resize_to": 37, "views": "ten_crop"}, {"size": None}, {"pixels": "centred"},
     {"channels": 3, "standard": ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))}],
)  # fmt: skip
def test_the_input_and_the_examples_are_those_in_memory(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, streamed = (prepared(monkeypatch, {"stream": given}, **changes) for given in ("never", "always"))
    assert streamed.spec == held.spec and streamed.class_names == held.class_names
    for name, split in streamed.splits(seed=0).items():
        arrays = held.splits(seed=0)[name]
        assert len(split) == len(arrays)
        for index in (0, 1, len(arrays) - 1):
            x, y = split[index]
            np.testing.assert_array_equal(x, arrays.x[index])
            assert y == arrays.y[index] and y.dtype == arrays.y.dtype
    np.testing.assert_array_equal(streamed.sample(), held.training.x)


def test_a_folder_of_photographs_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("train", "test"):
        for number, shape in enumerate([(40, 60, 3), (50, 30, 3)]):
            for label in ("a", "b"):
                picture_files.save(tmp_path / part / label / f"{number}.png", shape, 90)
    flags = {"dataset": f"folder:{tmp_path}"}
    found = prepared(monkeypatch, flags, random_resized=True, resize_to=37)
    splits = found.splits(seed=3)
    assert splits["train"][5][0].shape == (32, 32, 3) and splits["test"][1][0].shape == (37, 37, 3)
    assert found.spec.stored_shape == (37, 37, 3) and found.spec.views == "centre"
    parts = found.splits(seed=3, validation=1)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [3, 1, 4]
    assert parts["validation"][0][0].shape == (37, 37, 3), "as the test images are, not cropped at random"
    held = data.held_out(4, 1, 3).argmax()
    assert parts["validation"][0][1] == data.held_images(found.training, found.spec)[int(held)][1]
    given = SimpleNamespace(augment=True, flip="random", jitter=None, cutout=None, mixup=None, cutmix=None)
    monkeypatch.setattr(augmentation, "FLAGS", given)
    assert augmentation.augmentation(found) is None, "the crops are made as the images are read"
    given.jitter = 0.4
    changing = augmentation.augmentation(found)
    assert changing is not None
    x = np.full((2, 32, 32, 3), 90, np.float32)
    changed = np.asarray(changing(data.rng.key(0, data.rng.AUGMENT), x))
    assert len(np.unique(changed)) == 2 and 0.6 * 90 <= changed.min() < changed.max() <= 1.4 * 90, "one light an image"
    with pytest.raises(UserError, match=r"the images have 1 channels; this net takes 3: give --channels=3"):
        prepared(monkeypatch, {}, standard=((0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    with pytest.raises(UserError, match="differ in size"):
        prepared(monkeypatch, flags, size=None)


def test_corrupt_images_end_the_run_or_are_skipped(tmp_path: Path) -> None:
    tiny_sets.write_net(tmp_path)
    for part, count in (("train", 12), ("test", 4)):
        picture_files.fill(tmp_path / "photos" / part, {"a": count, "b": count}, shape=(9, 8, 3))
    for damaged in ("train/a/003.png", "test/a/001.png"):
        (tmp_path / "photos" / damaged).write_bytes(b"\x89PNG and no more")
    flags = ("--model=my_nets.py:Small", f"--dataset=folder:{tmp_path / 'photos'}", "--image_size=8", "--epochs=1",
             "--batch_size=8", "--stream=always", f"--workdir={tmp_path / 'run'}")  # fmt: skip
    said = processes.refusal("train.py", *flags, folder=tmp_path)
    assert "003.png is no image that Pillow can read" in said
    done = processes.run("train.py", *flags, "--skip_corrupt", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "001.png is no image" in done.stderr + done.stdout and "test accuracy" in done.stdout
    assert (tmp_path / "run" / "mistakes.png").exists()
    shown = processes.run("predict.py", f"--workdir={tmp_path / 'run'}", "--index=1", folder=tmp_path)
    assert shown.returncode == 1 and "001.png is no image that Pillow can read" in shown.stderr
