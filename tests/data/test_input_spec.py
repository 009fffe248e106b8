"""What is done to pixels on the way in, as one value: sizes, channels, scale and views."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnnjax import data
from cnnjax.data import InputSpec, input_spec
from cnnjax.errors import UserError


def images_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def test_a_size_is_a_side_or_a_pair() -> None:
    assert InputSpec(size=32, channels=1) == InputSpec(size=(32, 32), channels=1)
    spec = InputSpec(size=(20, 30), channels=3)
    assert spec.size == spec.held_size == (20, 30) and spec.shape == (20, 30, 3)
    assert spec.mean == (0, 0, 0) and spec.std == (1, 1, 1) and spec.views == "whole"
    assert InputSpec(size=28, channels=1, resize_to=32).views == "centre"
    assert InputSpec(size=28, channels=1, resize_to=(32, 40)).held_size == (32, 40)


def test_it_is_a_frozen_value() -> None:
    spec = InputSpec(size=32, channels=1)
    assert len({spec, InputSpec(size=32, channels=1), InputSpec(size=31, channels=1)}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.channels = 3  # type: ignore[misc]
    assert dataclasses.replace(spec, channels=1, resize_to=40, views=None).views == "centre"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size must be at least 1"),
        ({"channels": 2}, "channels must be 1 or 3, was 2"),
        ({"resize_to": (40, 31)}, r"resize_to must be at least size, \(32, 32\), was \(40, 31\)"),
        ({"mean": (0.5, 0.5)}, "mean and std must have 1 entries"),
        ({"views": "sides"}, "views must be one of whole, centre, ten_crop, mirror, shift, airbench, was 'sides'"),
        ({"views": "whole", "resize_to": 40}, "views must be another than 'whole'"),
        ({"views": "mirror", "mirror": False}, "views must be another than 'mirror' for characters"),
    ],
)
def test_contradictions_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        InputSpec(**{"size": 32, "channels": 1, **fields})


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(size=32, channels=1),
        InputSpec(size=(20, 30), channels=3, resize_to=(24, 33), views="ten_crop", mirror=False),
        InputSpec.of(images_of(5, 8, 9, 3), size=12, pixels="centred"),
    ],
)
def test_json_keeps_everything(spec: InputSpec) -> None:
    text = json.dumps(spec.to_json())
    assert InputSpec.from_json(json.loads(text)) == spec


def test_json_is_readable_and_that_of_another_version_refused() -> None:
    fields = InputSpec(size=32, channels=1, resize_to=(40, 50), stored_shape=(8, 8, 1)).to_json()
    assert fields["size"] == 32 and fields["resize_to"] == [40, 50] and fields["stored_shape"] == [8, 8, 1]
    del fields["resize_to"]
    with pytest.raises(UserError, match="Another version of cnnjax wrote it"):
        InputSpec.from_json({**fields, "frame": 40})


@pytest.mark.parametrize(
    ("pixels", "black", "white"),
    [(None, -1 / np.sqrt(2), np.sqrt(2)), ((-0.1, 1.175), -0.1, 1.175), ((0, 1), 0, 1), ("centred", -85, 170)],
)
def test_black_and_white_become_the_pixels_asked_for(pixels: input_spec.Pixels, black: float, white: float) -> None:
    images = np.array([0, 0, 255], np.uint8).reshape(3, 1, 1, 1)  # the mean is 85
    spec = InputSpec.of(images, size=1, pixels=pixels)
    got = jax.jit(spec.prepare)(jnp.array([[0.0], [255.0]]))
    assert got.dtype == jnp.float32 and spec.brightness == pytest.approx(1 / 3)
    np.testing.assert_allclose(got[:, 0], [black, white], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="pixels must be None, 'centred' or a pair"):
        InputSpec.of(images, size=1, pixels="white")


def test_statistics_are_those_of_the_images_as_training_holds_them() -> None:
    white = np.full((2, 28, 28, 1), 255, np.uint8)
    assert InputSpec.of(white, size=28).mean == (1.0,)
    assert InputSpec.of(white, size=32).mean == pytest.approx((28**2 / 32**2,))
    assert InputSpec.of(white, size=32, resize_to=36).mean == (1.0,)
    assert InputSpec.of(white, size=28, channels=3).mean == (1.0, 1.0, 1.0)
    assert InputSpec.of(white, size=28).stored_shape == (28, 28, 1)


def test_training_holds_padded_or_resized_images() -> None:
    images = images_of(2, 8, 8, 1)
    padded = InputSpec(size=32, channels=1)
    np.testing.assert_array_equal(padded.on_host(images), data.pad_to_square(images, 32))
    np.testing.assert_array_equal(padded.as_input(images), data.pad_to_square(images, 32))
    cropped = InputSpec(size=4, channels=1, resize_to=6)
    held = cropped.on_host(images)
    np.testing.assert_array_equal(held, data.resize(images, 6))
    np.testing.assert_array_equal(cropped.as_input(images), data.resize(images, 6)[:, 1:5, 1:5])
    assert cropped.on_host(held) is held, "without a copy where nothing is to be done"


def test_images_of_any_size_go_where_a_height_and_a_width_are_wanted() -> None:
    images = images_of(2, 50, 40, 3)
    spec = InputSpec(size=(20, 30), channels=3, resize_to=(24, 36))
    assert spec.on_host(images).shape == (2, 24, 36, 3) and spec.as_input(images).shape == (2, 20, 30, 3)
    assert InputSpec(size=(60, 45), channels=3).on_host(images).shape == (2, 60, 45, 3)
    with pytest.raises(UserError, match=r"50 x 40 pixels; this network takes at most 32 x 48\. Give an image size"):
        InputSpec(size=(32, 48), channels=3).on_host(images)
    with pytest.raises(TypeError, match="float64"):
        spec.on_host(images / 255)


def test_gray_and_colour_as_the_net_asks() -> None:
    colour, gray = images_of(2, 9, 9, 3), images_of(2, 9, 9, 1)
    as_gray = InputSpec(size=9, channels=1).on_host(colour)
    np.testing.assert_array_equal(as_gray[0, ..., 0], np.asarray(Image.fromarray(colour[0]).convert("L")))
    np.testing.assert_array_equal(InputSpec(size=9, channels=3).on_host(gray), np.repeat(gray, 3, axis=-1))
    smaller = InputSpec(size=5, channels=1, resize_to=5).on_host(colour)
    np.testing.assert_array_equal(smaller, data.resize(data.to_channels(colour, 1), 5))


def views_by(views: str, mirror: bool = True, resize_to: int | None = None) -> np.ndarray:
    spec = InputSpec(size=2 if resize_to else 6, channels=1, resize_to=resize_to, views=views, mirror=mirror)
    see = spec.evaluation_views()
    assert see is not None
    return np.asarray(jax.jit(see)(jnp.arange(36, dtype=jnp.float32).reshape(1, 6, 6, 1)))[..., 0]


def test_evaluation_sees_the_whole_image_its_centre_or_crops() -> None:
    assert InputSpec(size=6, channels=1).evaluation_views() is None
    assert views_by("centre", resize_to=6).tolist() == [[[[14, 15], [20, 21]]]]
    ten = views_by("ten_crop", resize_to=6)
    assert ten.shape == (10, 1, 2, 2) and ten[0, 0].tolist() == [[0, 1], [6, 7]]
    np.testing.assert_array_equal(views_by("ten_crop", mirror=False, resize_to=6), ten[:5])


def test_evaluation_sees_mirrored_and_shifted_images() -> None:
    image = np.arange(36).reshape(1, 1, 6, 6)
    np.testing.assert_array_equal(views_by("mirror"), np.concatenate([image, image[..., ::-1]]))
    assert views_by("mirror", resize_to=6).tolist() == [[[[14, 15], [20, 21]]], [[[15, 14], [21, 20]]]]
    shifted, upright = views_by("shift"), views_by("shift", mirror=False)
    assert shifted.shape == (6, 1, 6, 6) and upright.shape == (3, 1, 6, 6)
    np.testing.assert_array_equal(upright, shifted[:3])
    assert (upright[:, 0, 2, 2] < upright[:, 0, 2, 3]).all(), "none of them is mirrored"


def test_evaluation_weighs_views_as_airbench_does() -> None:
    spec = InputSpec(size=6, channels=1, views="airbench")
    see = spec.evaluation_views()
    assert isinstance(see, data.WeightedViews) and sum(see.weights) == 1
    np.testing.assert_array_equal(views_by("airbench"), views_by("shift"))
    with pytest.raises(UserError, match="views must be another than 'airbench' for characters"):
        InputSpec(size=6, channels=1, views="airbench", mirror=False)
