"""Augmentation against nested loops, and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import (
    augment,
    augment_for,
    centre_crop,
    channel_stats,
    colour_axes,
    random_crops,
    standardize,
    ten_crops,
)
from tests import processes

# Jitted as in training; op by op each would be compiled for itself, which takes seconds.
random_affine = jax.jit(augment.random_affine, static_argnames=("batch", "degrees", "scale", "shift"))
warp = jax.jit(augment.warp)
affine = jax.jit(augment.affine, static_argnames=("degrees", "scale", "shift"))
crop_flip = jax.jit(augment.crop_flip, static_argnames=("pad", "mode", "size", "flip"))
pca_jitter = jax.jit(augment.pca_jitter, static_argnames="deviation")


def images_of(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.float32)


def warp_by_loops(images, inverse, offset):
    """Bilinear sampling from the definition: every output pixel looks up its four neighbours; float64."""
    batch, height, width, _ = images.shape
    out = np.zeros(images.shape)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                di = i - (height - 1) / 2 - offset[b, 0] * height
                dj = j - (width - 1) / 2 - offset[b, 1] * width
                y = (height - 1) / 2 + inverse[b, 0, 0] * di + inverse[b, 0, 1] * dj
                x = (width - 1) / 2 + inverse[b, 1, 0] * di + inverse[b, 1, 1] * dj
                for r in (math.floor(y), math.floor(y) + 1):
                    for c in (math.floor(x), math.floor(x) + 1):
                        if 0 <= r < height and 0 <= c < width:
                            out[b, i, j] += images[b, r, c] * (1 - abs(y - r)) * (1 - abs(x - c))
    return out


@pytest.mark.parametrize("shape", [(3, 9, 12, 1), (2, 8, 8, 3)])
def test_warp_equals_nested_loops(shape):
    images = images_of(shape)
    inverse, offset = random_affine(jax.random.key(1), shape[0], degrees=180.0, scale=0.5, shift=0.3)
    expected = warp_by_loops(images, np.asarray(inverse, np.float64), np.asarray(offset, np.float64))
    np.testing.assert_allclose(warp(jnp.array(images), inverse, offset), expected, atol=2e-2)


def test_zero_strengths_change_nothing():
    images = images_of((4, 7, 10, 2))
    same = affine(jax.random.key(0), jnp.array(images), degrees=0.0, scale=0.0, shift=0.0)
    np.testing.assert_array_equal(same, images)


def test_a_quarter_turn_is_counter_clockwise():
    image = jnp.array([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
    quarter = jnp.array([[[0.0, 1.0], [-1.0, 0.0]]])  # the inverse of a turn by 90 degrees
    turned = warp(image, quarter, jnp.zeros((1, 2)))
    np.testing.assert_array_equal(turned[0, :, :, 0], [[2.0, 4.0], [1.0, 3.0]])


def test_the_drawn_rotation_has_the_documented_sense():
    inverse, _ = random_affine(jax.random.key(4), 200, degrees=30.0, scale=0.0, shift=0.0)
    angles = np.degrees(np.arctan2(inverse[:, 0, 1], inverse[:, 0, 0]))
    assert -30 <= angles.min() < -20 and 20 < angles.max() <= 30
    np.testing.assert_allclose(np.linalg.det(inverse), 1, rtol=1e-5)


def test_scale_and_shift_stay_in_their_ranges():
    inverse, offset = random_affine(jax.random.key(4), 500, degrees=0.0, scale=0.2, shift=0.1)
    sizes = 1 / np.asarray(inverse)[:, [0, 1], [0, 1]]
    assert 0.8 <= sizes.min() < 0.81 and 1.19 < sizes.max() <= 1.2001
    assert -0.1 <= offset.min() < -0.09 and 0.09 < offset.max() <= 0.1


def test_a_shift_moves_down_and_right_and_lets_in_zeros():
    image = jnp.arange(1.0, 17.0).reshape(1, 4, 4, 1)
    moved = warp(image, jnp.eye(2)[None], jnp.array([[0.25, 0.5]]))
    np.testing.assert_array_equal(moved[0, :, :, 0], [[0, 0, 0, 0], [0, 0, 1, 2], [0, 0, 5, 6], [0, 0, 9, 10]])


def test_affine_wants_floats_and_sensible_strengths():
    with pytest.raises(TypeError, match="uint8"):
        affine(jax.random.key(0), jnp.zeros((1, 4, 4, 1), jnp.uint8))
    with pytest.raises(ValueError, match="scale=1"):
        affine(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), scale=1.0)


def cropped_and_jittered(key, images):
    axes = np.full((images.shape[-1],) * 2, 30.0, np.float32)
    return pca_jitter(key, crop_flip(key, images, pad=0, size=6), axes)


@pytest.mark.parametrize("change", [affine, crop_flip, cropped_and_jittered])
def test_neighbours_do_not_matter(change):
    images = images_of((6, 8, 8, 1))
    other = images_of((6, 8, 8, 1), seed=1)
    other[2] = images[2]
    key = jax.random.key(5)
    np.testing.assert_array_equal(np.asarray(change(key, images))[2], np.asarray(change(key, other))[2])


@pytest.mark.parametrize("change", [affine, crop_flip, cropped_and_jittered])
def test_a_function_of_the_key_also_in_scan(change):
    images = images_of((3, 8, 8, 3))
    keys = jax.random.split(jax.random.key(6), 2)
    plain = [np.asarray(change(key, images)) for key in keys]
    assert (plain[0] != plain[1]).any()
    _, scanned = jax.jit(lambda: jax.lax.scan(lambda c, key: (c, change(key, images)), 0, keys))()
    np.testing.assert_allclose(scanned, np.stack(plain), atol=1e-2)


def crops_by_hand(image, pad, mode):
    """All 2 (2 pad + 1)^2 results that crop_flip may give."""
    height, width, _ = image.shape
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    crops = [padded[i : i + height, j : j + width] for i in range(2 * pad + 1) for j in range(2 * pad + 1)]
    return crops + [crop[:, ::-1] for crop in crops]


@pytest.mark.parametrize("mode", ["constant", "reflect"])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_crop_flip_gives_every_crop_and_nothing_else(mode, dtype):
    image = np.arange(1, 3 * 4 * 3 + 1).reshape(3, 4, 3).astype(dtype)
    allowed = {crop.tobytes() for crop in crops_by_hand(image, 1, mode)}
    assert len(allowed) == 18
    out = np.asarray(crop_flip(jax.random.key(2), jnp.array(np.stack([image] * 400)), pad=1, mode=mode))
    assert out.dtype == dtype
    assert {one.tobytes() for one in out} == allowed


def test_crop_flip_without_padding_only_flips():
    image = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1).repeat(200, 0)
    out = np.asarray(crop_flip(jax.random.key(3), jnp.array(image), pad=0))
    flipped = (out[:, 0, 0, 0] == 2).sum()
    assert 70 < flipped < 130
    np.testing.assert_array_equal(out[out[:, 0, 0, 0] == 0][0], image[0])
    np.testing.assert_array_equal(out[out[:, 0, 0, 0] == 2][0, :, :, 0], [[2, 1, 0], [5, 4, 3]])


def test_crops_of_larger_images_are_all_there_and_nothing_else():
    image = np.arange(5 * 5 * 2, dtype=np.uint8).reshape(5, 5, 2)
    windows = [image[i : i + 3, j : j + 3] for i in range(3) for j in range(3)]
    allowed = {one.tobytes() for window in windows for one in (window, window[:, ::-1])}
    assert len(allowed) == 18
    out = np.asarray(crop_flip(jax.random.key(2), jnp.array(np.stack([image] * 400)), pad=0, size=3))
    assert out.shape == (400, 3, 3, 2) and {one.tobytes() for one in out} == allowed
    for shape, size in (((1, 5, 5, 1), 6), ((1, 5, 6, 1), (5, 7)), ((1, 5, 5, 1), 0)):
        with pytest.raises(ValueError, match=r"size must be from 1 to the height and width of the images, 5 x . with"):
            crop_flip(jax.random.key(0), jnp.zeros(shape), pad=0, size=size)


def test_ten_crops_by_hand():
    rows = jnp.arange(12).reshape(1, 3, 4, 1)
    crops = np.asarray(ten_crops(rows, 2))[:, 0, :, :, 0].tolist()
    corners = [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[4, 5], [8, 9]], [[6, 7], [10, 11]], [[1, 2], [5, 6]]]
    assert crops == corners + [[row[::-1] for row in crop] for crop in corners]
    with pytest.raises(ValueError, match="size must be from 1 to the height and width of the images, 3 x 4, was 4"):
        ten_crops(rows, 4)


def test_centre_crop_by_hand():
    rows = np.arange(16).reshape(1, 4, 4, 1)
    assert centre_crop(rows, 2)[0, :, :, 0].tolist() == [[5, 6], [9, 10]]
    assert centre_crop(rows, 3)[0, :, :, 0].tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10]]


def test_colour_axes_are_numpys_principal_components():
    mix = np.array([[40, 10, 0], [30, -20, 5], [35, 5, -15]])
    pixels = 128 + np.random.default_rng(0).uniform(-1, 1, (2500, 2, 3, 3)) @ mix.T
    images = pixels.round().astype(np.uint8)
    axes = colour_axes(images)
    values, vectors = np.linalg.eigh(np.cov(images.reshape(-1, 3).T / 255, bias=True))
    for row, value, vector in zip(axes, values[::-1], vectors.T[::-1], strict=True):
        assert np.linalg.norm(row) == pytest.approx(255 * value, rel=1e-5)
        assert abs(row @ vector) == pytest.approx(255 * value, rel=1e-5)
        assert row[np.abs(row).argmax()] > 0
    assert axes.dtype == np.float32
    grey = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    assert colour_axes(grey) == pytest.approx(255 / 4)  # the variance of 0 and 1 is a quarter
    with pytest.raises(TypeError, match="float32"):
        colour_axes(np.zeros((1, 1, 1, 3), np.float32))


def test_pca_jitter_moves_all_pixels_of_an_image_alike_along_the_axes():
    axes = np.array([[60.0, 60, 0], [0, 0, 20], [1, -1, 0]], np.float32)
    images = images_of((400, 2, 3, 3))
    moved = np.asarray(pca_jitter(jax.random.key(1), jnp.array(images), axes)) - images
    assert np.abs(moved - moved[:, :1, :1]).max() < 1e-4
    draws = moved[:, 0, 0] @ np.linalg.inv(axes.astype(np.float64))
    np.testing.assert_allclose(draws.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(draws.std(0), 0.1, rtol=0.15)
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.2
    still = pca_jitter(jax.random.key(1), jnp.array(images), axes, deviation=0.0)
    np.testing.assert_array_equal(still, images)
    with pytest.raises(TypeError, match="uint8"):
        pca_jitter(jax.random.key(0), jnp.zeros((1, 2, 2, 3), jnp.uint8), axes)


def test_gray_images_are_turned_and_photos_mirrored():
    assert augment_for(1) is augment_for(1, mirror=False) is augment.affine
    assert augment_for(3) is augment.crop_flip


def test_characters_are_cropped_and_not_mirrored():
    image = np.arange(1, 3 * 4 * 3 + 1).reshape(3, 4, 3).astype(np.uint8)
    upright = {crop.tobytes() for crop in crops_by_hand(image, 1, "constant")[:9]}
    images = jnp.array(np.stack([image] * 400))
    out = np.asarray(augment_for(3, mirror=False)(jax.random.key(2), images, pad=1))
    assert {one.tobytes() for one in out} == upright
    both = np.asarray(crop_flip(jax.random.key(2), images, pad=1))
    same = (both == out).all((1, 2, 3))
    assert 150 < same.sum() < 250
    np.testing.assert_array_equal(crop_flip(jax.random.key(2), images, pad=1, flip=False), out)


def test_crops_of_a_height_and_a_width():
    image = np.arange(4 * 5, dtype=np.uint8).reshape(4, 5, 1)
    allowed = {image[i : i + 3, j : j + 2].tobytes() for i in range(2) for j in range(4)}
    out = np.asarray(crop_flip(jax.random.key(2), jnp.array([image] * 300), pad=0, size=(3, 2), flip=False))
    assert out.shape == (300, 3, 2, 1) and {one.tobytes() for one in out} == allowed


def test_random_crops_are_crops_whose_colours_are_jittered():
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 3)).astype(np.uint8)
    key = jax.random.key(9)
    crop_key, colour_key = jax.random.split(key)
    for mirror in (True, False):
        cropped = crop_flip(crop_key, jnp.array(images, jnp.float32), pad=0, size=4, flip=mirror)
        expected = pca_jitter(colour_key, cropped, colour_axes(images))
        got = jax.jit(random_crops(images, 4, mirror=mirror))(key, jnp.array(images, jnp.float32))
        np.testing.assert_allclose(got, expected, atol=1e-3)


def test_channel_stats_by_hand_and_by_numpy():
    assert channel_stats(np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)) == ((0.5,), (0.5,))
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 4, 3)).astype(np.uint8)
    mean, std = channel_stats(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_channel_stats_of_a_constant_channel_do_not_divide_by_zero():
    images = np.full((2, 2, 2, 1), 51, np.uint8)
    mean, std = channel_stats(images)
    assert (mean, std) == ((0.2,), (1.0,))
    np.testing.assert_allclose(standardize(jnp.array(images), mean, std), 0, atol=1e-7)


def test_channel_stats_wants_bytes():
    with pytest.raises(TypeError, match="float32"):
        channel_stats(np.zeros((1, 1, 1, 1), np.float32))
    with pytest.raises(ValueError, match="nothing to average"):
        channel_stats(np.zeros((0, 1, 1, 1), np.uint8))


def test_standardize_by_hand():
    images = jnp.array([[[[255, 0]]]], jnp.uint8)
    out = standardize(images, (0.5, 0.25), (0.5, 0.125))
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, [[[[1.0, -2.0]]]])
    with pytest.raises(ValueError, match="2 channels"):
        standardize(images, (0.5,), (0.5,))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from cnnjax.data import affine, crop_flip, pca_jitter
axes = np.full((3, 3), 30, np.float32)
images = np.random.default_rng(0).integers(0, 256, (8, 6, 6, 3)).astype(np.float32)
mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
apart = jax.device_put(images, NamedSharding(mesh, PartitionSpec("batch")))
for change in (affine, crop_flip, lambda key, x: pca_jitter(key, crop_flip(key, x, pad=0, size=4), axes)):
    alone, shared = (jax.jit(change)(jax.random.key(1), x) for x in (jnp.array(images), apart))
    assert len(shared.sharding.device_set) == 4, shared.sharding
    np.testing.assert_allclose(shared, alone, atol=1e-3)
"""


@pytest.mark.thorough
def test_the_number_of_devices_does_not_matter():
    processes.program(SHARDED, devices=4)


def test_flips_alternate_and_are_those_of_the_example() -> None:
    """A random half is mirrored in even epochs, the others in odd ones; an image is treated alike in any batch."""
    images = jnp.asarray(np.arange(400 * 6, dtype=np.float32).reshape(400, 2, 3, 1))
    numbers, key = jnp.arange(400, dtype=jnp.int32), jax.random.key(5)

    def flipped(epoch: int, chosen: np.ndarray, run_key: jax.Array = key) -> np.ndarray:
        found = augment.alternating_flip(images[chosen], augment.BatchInfo(numbers[chosen], jnp.int32(epoch), run_key))
        left = np.asarray(found)[:, 0, 0, 0] == np.asarray(images)[chosen, 0, 2, 0]
        expected = np.where(left[:, None, None, None], images[chosen][:, :, ::-1], images[chosen])
        np.testing.assert_array_equal(found, expected)
        return left

    everyone = np.arange(400)
    even = flipped(0, everyone)
    assert 160 < even.sum() < 240
    np.testing.assert_array_equal(flipped(1, everyone), ~even)
    np.testing.assert_array_equal(flipped(2, everyone), even)
    np.testing.assert_array_equal(flipped(0, everyone[[7, 3, 200]]), even[[7, 3, 200]])
    assert (flipped(0, everyone, jax.random.key(6)) != even).any()
