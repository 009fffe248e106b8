"""The script for photographs, on a few that are drawn here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import processes

pytestmark = pytest.mark.thorough

FLAGS = ("--image_size=32", "--batch_size=8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEG files of several sizes, red and blue."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 3)):
        for label, colour in enumerate(("red", "blue")):
            (folder / part / colour).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 100, (40 + 5 * number, 60, 3)).astype(np.uint8)
                pixels[..., 2 * label] += 120
                Image.fromarray(pixels).save(folder / part / colour / f"{number}.jpg")
    return folder


def test_it_trains_on_random_crops_by_the_published_recipe(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = (f"--dataset=folder:{photos}", "--model=resnet18", *FLAGS, "--epochs=2", f"--workdir={run}")
    printed = processes.good("imagenet.py", *flags)
    assert "resnet18 on folder:" in printed and "stem_pool (MaxPool)" in printed and "test accuracy" in printed
    config = json.loads((run / "config.json").read_text())
    assert config["model"] == {
        "name": "resnet18", "stem": "imagenet", "zero_init_residual": True, "size": 32, "num_classes": 2, "channels": 3,
    }  # fmt: skip
    assert config["learning_rate"] == pytest.approx(0.1 * 8 / 256), "in proportion to the batch"
    assert config["warmup"] == 3, "five epochs, but no more than half of the run's six updates"
    assert (config["nesterov"], config["decay"], config["weight_decay"]) == (True, "kernels", 1e-4)
    assert (config["input"]["size"], config["input"]["resize_to"], config["input"]["views"]) == (32, 37, "centre")
    assert config["input"]["mean"] == [0.485, 0.456, 0.406] and config["input"]["stored_shape"] == [37, 37, 3]
    assert config["random_resized_crops"] and (run / "mistakes.png").exists() and (run / "kernels.png").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stream=never"], "--stream=never: random crops of photographs are taken as these are read"),
        (["--stream=never", "--noaugment", "--skip_corrupt"], "--skip_corrupt is for images that are read when"),
        (["--channels=1"], "--channels=1: this net takes 3; leave it out."),
        (["--model=vgg11", "--image_size=31"], "size must be at least 32, was 31"),
        (["--model=resnet20"], "<resnet18|resnet34|resnet50|resnet101|vgg11|vgg13|vgg16|vgg19|vgg11_bn|"),
    ],
)
def test_bad_flags(flags: list[str], message: str, photos: Path, tmp_path: Path) -> None:
    given = (f"--dataset=folder:{photos}", *FLAGS, *flags, f"--workdir={tmp_path / 'new'}")
    assert message in processes.refusal("imagenet.py", *given)
