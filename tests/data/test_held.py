"""What training needs to know of images that are not in memory: means, deviations, and a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import held
from cnnjax.errors import UserError
from tests.data.picture_files import fill, save


@pytest.mark.parametrize("pixels", [None, "centred", (-0.1, 1.175)])
@pytest.mark.parametrize("spec", [{"size": 32}, {"size": 8, "channels": 3}, {"size": 12, "resize_to": 14}])
def test_a_small_set_has_the_very_numbers_of_one_in_memory(spec: dict, pixels) -> None:
    images = data.digits().train_images
    if "resize_to" in spec:
        images = data.resize(images, spec["resize_to"])
    in_memory = data.InputSpec.of(images, pixels=pixels, mirror=False, **spec)
    opened = data.spec_of_source(data.open_dataset("digits").train, pixels=pixels, mirror=False, **spec)
    assert (opened.mean, opened.std, opened.brightness) == (in_memory.mean, in_memory.std, in_memory.brightness)
    assert opened.stored_shape == (8, 8, 1) and opened.held_size == in_memory.held_size
    assert opened.views == in_memory.views and not opened.mirror


def test_of_a_large_set_a_sample_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    train = data.open_dataset("digits").train
    monkeypatch.setattr(held, "MOST_BYTES_LOOKED_AT", 1437 * 64)
    exact = data.spec_of_source(train, size=8)
    monkeypatch.setattr(held, "MOST_BYTES_LOOKED_AT", 1437 * 64 - 1)
    monkeypatch.setattr(held, "SAMPLE", 3)
    spec = data.spec_of_source(train, size=8)
    sample = data.digits().train_images[[0, 479, 958]]
    assert (spec.mean, spec.std) == data.channel_stats(sample) != (exact.mean, exact.std)


def test_a_sample_is_evenly_spaced_and_as_held() -> None:
    train = data.open_dataset("digits").train
    spec = data.InputSpec(size=32, channels=3)
    sample = data.sample_images(train, spec, 4)
    np.testing.assert_array_equal(sample, spec.on_host(data.digits().train_images[[0, 359, 718, 1077]]))
    assert len(data.sample_images(train, spec, 5000)) == 1437
    assert data.colour_axes(sample).shape == (3, 3)


def test_images_of_many_sizes_have_no_stored_shape(tmp_path: Path) -> None:
    for part in ("train", "test"):
        fill(tmp_path / "set" / part, {"cat": 2, "dog": 2})
    save(tmp_path / "set" / "train" / "cat" / "wide.png", (6, 9), 1)
    source = data.open_dataset(f"folder:{tmp_path / 'set'}").train
    assert data.spec_of_source(source, size=4, resize_to=4).stored_shape is None


def test_damaged_images_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    for part in ("train", "test"):
        fill(tmp_path / "set" / part, {"cat": 2, "dog": 2})
    (tmp_path / "set" / "train" / "cat" / "000.png").write_text("no image")
    source = data.open_dataset(f"folder:{tmp_path / 'set'}").train
    with pytest.raises(data.CorruptExample, match=r"000\.png is no image"):
        data.spec_of_source(source, size=(6, 5))
    spec = data.spec_of_source(source, size=(6, 5), skip_corrupt=True)
    assert spec.mean == pytest.approx([(1 + 100 + 101) / 3 / 255])
    assert data.sample_images(source, spec, skip_corrupt=True)[:, 0, 0, 0].tolist() == [1, 100, 101]
    for path in (tmp_path / "set" / "train").rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(UserError, match="None of the training images that were looked at can be read"):
        data.spec_of_source(source, size=(6, 5), skip_corrupt=True)


def test_images_that_are_too_large_for_the_net_are_refused() -> None:
    with pytest.raises(UserError, match="8 x 8 pixels; this network takes at most 6 x 6"):
        data.spec_of_source(data.open_dataset("digits").train, size=6)


def test_channel_sums_do_not_depend_on_how_images_are_parted() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 3), np.uint8)
    assert data.channel_stats(iter([images[:1], images[1:9], images[9:]])) == data.channel_stats(images)
    with pytest.raises(ValueError, match="nothing to average"):
        data.channel_stats(iter([]))
