"""The scripts of AlexNet and VGG, which resize images and take crops of them, on the digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.app import augmentation
from tests import processes


@pytest.mark.thorough
def test_alexnet_trains_on_crops_and_classifies_images_of_any_size(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    flags = ["--dataset=digits", "--epochs=1", "--width=6", "--dense=8", "--image_size=63", "--batch_size=256"]
    done = processes.run("alexnet.py", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "conv2 (Conv)              7 x 7 x 16" in done.stdout and "test accuracy" in done.stdout
    assert (workdir / "kernels.png").exists()
    config = json.loads((workdir / "config.json").read_text())
    assert (config["input"]["size"], config["input"]["resize_to"]) == (63, 72)
    assert config["input"]["views"] == "ten_crop" and not config["input"]["mirror"], "digits are never mirrored"
    assert config["input"]["std"] == [1 / 255], "the paper's pixels are 0..255 less their mean"
    Image.fromarray(np.full((30, 50, 3), 90, np.uint8)).save(tmp_path / "photo.png")
    done = processes.run("predict.py", f"--workdir={workdir}", tmp_path / "photo.png", "--index=40")
    assert done.returncode == 0, done.stderr
    label = data.digits().test_labels[40]
    assert "photo.png: " in done.stdout and f"test 40 (true: {label})" in done.stdout


@pytest.mark.slow
def test_vgg_trains_on_whole_images(tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    flags = ["--dataset=digits", "--epochs=1", "--width=2", "--dense=8", "--noaugment", "--batch_size=512"]
    done = processes.run("vgg.py", *flags, f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "convs.7 (Conv)" in done.stdout and "test accuracy" in done.stdout
    config = json.loads((workdir / "config.json").read_text())
    assert config["input"]["size"] == config["input"]["resize_to"] == 32
    assert config["input"]["views"] == "whole"
    assert (workdir / "kernels.png").exists()


@pytest.mark.parametrize(
    ("script", "flag", "message"),
    [
        ("alexnet.py", "--image_size=62", "flag --image_size=62: 62 is not"),
        ("alexnet.py", "--width=9", "width must be a multiple of 6 where form is 'towers', was 9"),
        ("vgg.py", "--image_size=31", "flag --image_size=31: 31 is not"),
        ("vgg.py", "--depth=12", "<11|13|16|19>"),
    ],
)
def test_bad_flags(script: str, flag: str, message: str, tmp_path: Path) -> None:
    assert message in processes.refusal(script, flag, "--dataset=digits", f"--workdir={tmp_path / 'new'}")


def test_what_the_net_sees_of_an_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 1)).astype(np.uint8)
    spec = data.InputSpec(size=4, channels=1, resize_to=6)
    seen = spec.as_input(images)
    np.testing.assert_array_equal(seen, data.resize(images, 6)[:, 1:5, 1:5])
    plain, changing = (augmentation.distortion(spec, lambda: spec.on_host(images), augment=on) for on in (False, True))
    assert plain is not None and changing is not None
    pixels = data.resize(images, 6).astype(np.float32)
    np.testing.assert_array_equal(plain(None, pixels), seen)
    changed = np.asarray(changing(data.rng.key(0, data.rng.AUGMENT), pixels))
    assert changed.shape == (2, 4, 4, 1) and (changed != np.round(changed)).any(), "crops, their light changed"
