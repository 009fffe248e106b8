"""What the experiments share beside the training run itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.app import classify
from cnnjax.errors import UserError

CONFIG = {"dataset": "digits", "input": {"size": 32, "stored_shape": [8, 8, 1]}}


def test_an_image_file_as_the_net_wants_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colours.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    assert classify.read_image(str(tmp_path / "colours.png"), CONFIG).shape == (8, 8, 1)
    np.testing.assert_array_equal(classify.read_image(str(tmp_path / "gray.png"), CONFIG), pixels[..., :1])
    colours = {"dataset": "photos", "input": {"size": 32, "stored_shape": [8, 8, 3]}}
    np.testing.assert_array_equal(classify.read_image(str(tmp_path / "colours.png"), colours), pixels)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "wrong_size.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8)).astype(np.uint8)).save(tmp_path / "corrupt.png")
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "corrupt.png").read_bytes()[:90])
    (tmp_path / "text.png").write_text("a digit")
    for name, message in (
        ("wrong_size.png", "has 20x20 pixels .* resize it to 8x8"),
        ("corrupt.png", "corrupt.png cannot be read"),
        ("text.png", "is no image"),
        ("absent.png", "absent.png cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            classify.read_image(str(tmp_path / name), CONFIG)


def test_a_test_example_by_number() -> None:
    digits = data.digits()
    title, image = classify.test_example(digits, " 40")
    assert title == f"test 40 (true: {digits.test_labels[40]})"
    np.testing.assert_array_equal(image, digits.test_images[40])
    for index in ("360", "-1", "one", "1.5", ""):
        with pytest.raises(UserError, match=f"--index={index}: must be a number from 0 to 359"):
            classify.test_example(digits, index)
