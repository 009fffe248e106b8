"""The images by which a trained net is shown, and where they are found."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cnnjax import data
from cnnjax.app import experiment, restored
from cnnjax.errors import UserError


def test_a_test_example_by_number() -> None:
    digits, opened, spec = data.digits(), data.open_dataset("digits"), data.InputSpec(size=32, channels=1)
    title, image, true = restored.test_example(opened, spec, " 40")
    assert title == f"test 40 (true: {digits.test_labels[40]})" and true == digits.test_labels[40]
    np.testing.assert_array_equal(image, digits.test_images[40])
    _, larger, _ = restored.test_example(opened, data.InputSpec(size=14, channels=1, resize_to=16), "40")
    np.testing.assert_array_equal(larger, data.load_dataset("digits", size=16).test_images[40])
    for index in ("360", "-1", "one", "1.5", ""):
        with pytest.raises(UserError, match=f"--index={index}: must be a number from 0 to 359"):
            restored.test_example(opened, spec, index)


def test_data_are_looked_for_where_training_found_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training looked into $TFDS_DATA_DIR; predict.py is started without it."""
    monkeypatch.setattr(experiment, "FLAGS", SimpleNamespace(data_dir=None))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    found = experiment.data_dir()
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert found == os.path.abspath(tmp_path) and experiment.data_dir() is None
    config = {"dataset": "mnist", "data_dir": found, "test_share": None,
              "input": data.InputSpec(size=32, channels=1).to_json()}  # fmt: skip
    with pytest.raises(UserError, match=f"{tmp_path}/mnist"):
        restored.dataset_of(config, None)


def test_data_are_found_where_training_found_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, with MNIST itself."""
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not Path(folder, "mnist").is_dir():
        pytest.skip("TFDS_DATA_DIR holds no mnist")
    monkeypatch.setattr(experiment, "FLAGS", SimpleNamespace(data_dir=None))
    found = experiment.data_dir()
    assert found == os.path.abspath(folder)
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert experiment.data_dir() is None
    config = {"dataset": "mnist", "data_dir": found, "test_share": None,
              "input": data.InputSpec(size=32, channels=1).to_json()}  # fmt: skip
    assert len(restored.dataset_of(config, None).test) == 10_000


def test_a_folder_of_ones_own_goes_before_that_of_training(tmp_path: Path) -> None:
    spec = data.InputSpec(size=32, channels=1).to_json()
    config = {"dataset": "mnist", "data_dir": "/nowhere", "test_share": None, "input": spec}
    with pytest.raises(UserError, match=f"{tmp_path}/mnist"):
        restored.dataset_of(config, str(tmp_path))
