"""The embedded digits, the canvas, and holding out."""

import subprocess
import sys

import numpy as np
import pytest

from cnnjax import data
from cnnjax.errors import UserError


def test_importing_data_is_light_and_changes_no_environment():
    program = (
        "import os, sys; import jax; given = dict(os.environ); import cnnjax.data; "
        "assert dict(os.environ) == given; "
        "print([m for m in ('tensorflow_datasets', 'PIL', 'matplotlib', 'tqdm') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_digits_counts_and_types():
    digits = data.load("digits")
    assert digits.name == "digits"
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
    assert np.bincount(digits.test_labels).tolist() == [36] * 10
    assert np.bincount(digits.train_labels).tolist() == [142, 146, 141, 147, 145, 146, 145, 143, 138, 144]
    assert digits.class_names == tuple("0123456789")


def test_digits_first_example_by_hand():
    """The first row of the original file, a zero: 0 0 5 13 9 1 0 0 / 0 0 13 15 10 15 5 0 / ..."""
    first = data.digits().test_images[0, :, :, 0]
    assert first[0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert first[1].tolist() == [0, 0, 207, 239, 159, 239, 80, 0]
    assert data.digits().test_labels[:10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_digits_are_those_of_scikit_learn():
    original = pytest.importorskip("sklearn.datasets").load_digits()
    digits = data.digits()
    test = np.zeros(1797, bool)
    seen = [0] * 10
    for row, label in enumerate(original.target):  # the split, from its definition
        test[row] = seen[label] < 36
        seen[label] += 1
    np.testing.assert_array_equal(digits.test_labels, original.target[test])
    np.testing.assert_array_equal(digits.train_labels, original.target[~test])
    for ours, theirs in [
        (digits.test_images, original.images[test]),
        (digits.train_images, original.images[~test]),
    ]:
        np.testing.assert_array_equal(ours[..., 0], np.floor(theirs * 255 / 16 + 0.5))


def test_canvas_of_mnist_size_gets_a_border_of_two():
    images = np.full((2, 28, 28, 1), 9, np.uint8)
    canvas = data.pad_to_square(images, 32)
    assert canvas.shape == (2, 32, 32, 1) and canvas.dtype == np.uint8
    np.testing.assert_array_equal(canvas[:, 2:30, 2:30], images)
    assert canvas.sum() == images.sum()


def test_canvas_leaves_images_of_its_size_alone():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(data.pad_to_square(images, 32), images)


def test_canvas_enlarges_digits_three_times():
    digit = np.full((1, 8, 8, 1), 100, np.uint8)
    canvas = data.pad_to_square(digit, 32)
    assert (canvas[0, 4:28, 4:28] == 100).all()
    assert canvas.sum() == 100 * 24 * 24


def test_canvas_enlarges_bilinearly_channel_by_channel():
    row = np.zeros((1, 1, 2, 3), np.uint8)
    row[0, 0, 1] = [240, 120, 0]
    canvas = data.pad_to_square(row, 4)  # twice: the samples lie at -1/4, 1/4, 3/4, 5/4
    np.testing.assert_array_equal(canvas[0, 1, :, 0], [0, 60, 180, 240])
    np.testing.assert_array_equal(canvas[0, 2, :, 1], [0, 30, 90, 120])
    assert canvas[..., 2].sum() == 0 and canvas[0, [0, 3]].sum() == 0


def test_an_odd_remainder_goes_to_the_bottom_and_right():
    canvas = data.pad_to_square(np.ones((1, 15, 20, 1), np.uint8), 20)
    assert canvas[0, :, 0, 0].tolist() == [0] * 2 + [1] * 15 + [0] * 3


def test_images_larger_than_the_canvas():
    with pytest.raises(UserError, match="64 x 48 pixels; this network takes at most 32 x 32"):
        data.pad_to_square(np.zeros((1, 64, 48, 3), np.uint8), 32)


def test_resize_brings_the_shorter_side_to_the_size_and_cuts_out_the_middle():
    image = np.zeros((1, 2, 4, 3), np.uint8)
    image[0, :, 1:3] = [200, 100, 50]
    np.testing.assert_array_equal(data.resize(image, 2), image[:, :, 1:3])  # the size it has: the middle of its width
    small = data.resize(np.repeat(np.repeat(image, 4, 1), 4, 2), 2)  # 8x16 to 2x4, of which the middle is one colour
    assert small.shape == (1, 2, 2, 3) and small.dtype == np.uint8
    np.testing.assert_array_equal(small[0, :, :, 0] // 100 * 100, 100)
    row = np.array([0, 240], np.uint8).reshape(1, 1, 2, 1).repeat(2, 1)
    assert data.resize(row, 4)[0, 0, :, 0].tolist() == [0, 60, 180, 240]
    tall = np.arange(6, dtype=np.uint8).reshape(1, 6, 1, 1)
    assert data.resize(tall, 1)[0, 0, 0, 0] == 2


def test_load_resizes():
    digits = data.load("digits", size=20)
    assert digits.train_images.shape == (1437, 20, 20, 1) and digits.test_images.shape == (360, 20, 20, 1)
    np.testing.assert_array_equal(digits.test_images[:9], data.resize(data.digits().test_images[:9], 20))


def test_hold_out_parts_the_training_examples():
    digits = data.digits()
    train_images, train_labels, images, labels = data.hold_out(digits, 300, seed=1)
    assert train_images.shape == (1137, 8, 8, 1) and images.shape == (300, 8, 8, 1)
    both = np.concatenate([train_images, images]).reshape(1437, -1)
    np.testing.assert_array_equal(
        np.sort(both.view("V64").ravel()), np.sort(digits.train_images.reshape(1437, -1).view("V64").ravel())
    )
    np.testing.assert_array_equal(np.bincount(train_labels) + np.bincount(labels), np.bincount(digits.train_labels))


def test_hold_out_is_a_function_of_the_seed():
    digits = data.digits()
    first, again, other = (data.hold_out(digits, 300, seed)[3] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_hold_out_nothing():
    digits = data.digits()
    train_images, train_labels, images, labels = data.hold_out(digits, 0, seed=1)
    np.testing.assert_array_equal(train_images, digits.train_images)
    np.testing.assert_array_equal(train_labels, digits.train_labels)
    assert images.shape == (0, 8, 8, 1) and labels.shape == (0,)


@pytest.mark.parametrize("validation", [-1, 1437, 5000])
def test_hold_out_too_much(validation):
    with pytest.raises(UserError, match=rf"{validation} examples .* digits has 1437 .* between 0 and 1436"):
        data.hold_out(data.digits(), validation, seed=0)
