"""What an experiment on images makes of its description: pixels, crops and views."""

from __future__ import annotations

import numpy as np
import pytest

from cnnjax import data, train
from cnnjax.app import classify

OPTIONS = train.Options(epochs=1, batch_size=8, learning_rate=0.1)


def experiment(**changes: object) -> classify.Experiment:
    return classify.Experiment(name="x", model={"name": "lenet5"}, recipe={}, size=224, **changes)  # type: ignore[arg-type]


def test_images_are_resized_to_eight_sevenths_for_random_crops_only() -> None:
    augmented = train.Options(epochs=1, batch_size=8, learning_rate=0.1, augment=True)
    assert experiment(crops=True).resize_to(augmented) == 256
    assert experiment(crops=True).resize_to(OPTIONS) == 224
    assert experiment().resize_to(augmented) is None


@pytest.mark.parametrize(
    ("pixels", "black", "white"),
    [((-0.1, 1.175), -0.1, 1.175), ((0, 1), 0.0, 1.0), ("centred", -85.0, 170.0)],
)
def test_black_and_white_become_the_pixels_asked_for(pixels: tuple[float, float] | str, black: float, white: float):
    images = np.array([0, 0, 255], np.uint8).reshape(3, 1, 1, 1)  # the mean is 85
    mean, std = classify.mean_and_std(pixels, images)
    got = data.standardize(np.array([[0.0], [255.0]], np.float32), mean, std)
    np.testing.assert_allclose(got[:, 0], [black, white], rtol=1e-5, atol=1e-5)


def test_evaluation_sees_the_whole_image_its_centre_or_ten_crops() -> None:
    images = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
    assert classify.evaluation_views({"input": {"size": 6}}) is None
    centre = classify.evaluation_views({"input": {"size": 2, "frame": 6, "ten_crop": False}})
    assert centre is not None and centre(images)[..., 0].tolist() == [[[[14, 15], [20, 21]]]]
    ten = classify.evaluation_views({"input": {"size": 2, "frame": 6, "ten_crop": True}})
    assert ten is not None and ten(images).shape == (10, 1, 2, 2, 1)


def test_the_old_name_of_the_loader_still_works() -> None:
    assert data.load is data.load_dataset
