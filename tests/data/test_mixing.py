"""Cutout, mixup and cutmix against nested loops over what was drawn, and what is drawn against its distribution."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import cutmix, cutout, mixing, mixup
from tests import processes
from tests.cases import array

KEY = jax.random.key(3)
CLASSES = 5


def batch(size: int = 6, height: int = 7, width: int = 9, channels: int = 2) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (size, height, width, channels)).astype(np.float32)
    return x, draw.integers(0, CLASSES, size).astype(np.int32)


def one_hot(labels: np.ndarray) -> np.ndarray:
    return np.array([[float(label == c) for c in range(CLASSES)] for label in labels])


def covered(pixel: tuple[int, int], centre: np.ndarray, sides: tuple[int, int]) -> bool:
    return all(c - side // 2 <= p < c - side // 2 + side for p, c, side in zip(pixel, centre, sides, strict=True))


@pytest.mark.parametrize("size", [1, 4, 5, 30])
def test_cutout_against_loops(size: int) -> None:
    x, _ = batch()
    expected = x.copy()
    centres = np.asarray(mixing.random_pixels(KEY, 6, 7, 9))
    for b, i, j in np.ndindex(6, 7, 9):
        if covered((i, j), centres[b], (size, size)):
            expected[b, i, j] = [10, 20]
    cut = functools.partial(cutout, size=size)
    np.testing.assert_array_equal(jax.jit(functools.partial(cut, fill=(10, 20)))(KEY, x), expected)
    assert (np.asarray(jax.jit(cut)(KEY, x))[expected != x] == 0).all(), "without a fill it is black"


def test_cutout_inside_covers_whole_squares_at_every_place_alike() -> None:
    x = np.full((2000, 5, 6, 1), 9, np.uint8)
    cut = np.asarray(jax.jit(functools.partial(cutout, size=4, inside=True))(KEY, x))[..., 0] == 0
    assert (cut.sum((1, 2)) == 16).all()
    corners, counts = np.unique([np.argwhere(one)[0] for one in cut], axis=0, return_counts=True)
    assert corners.tolist() == [[row, column] for row in range(2) for column in range(3)]
    assert counts.min() > 260, "a sixth of 2,000 is 333, with a deviation of 17"
    with pytest.raises(ValueError, match="size must be at most 5 to lie inside 5 x 6, was 6"):
        cutout(KEY, jnp.asarray(x), size=6, inside=True)


def test_cutout_keeps_bytes_and_leaves_the_rest() -> None:
    x = np.full((50, 8, 8, 3), 255, np.uint8)
    cut = np.asarray(jax.jit(functools.partial(cutout, size=3))(KEY, x))
    assert cut.dtype == np.uint8
    black = (cut == 0).all(-1).sum((1, 2))
    assert set(black.tolist()) == {4, 6, 9}, "whole squares, and what the border leaves of them"
    assert set(np.unique(cut).tolist()) == {0, 255}


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_against_loops(alpha: float) -> None:
    x, y = batch()
    share_key, partner_key = jax.random.split(KEY)
    share = np.asarray(mixing.random_shares(share_key, 6, alpha))
    partner = np.asarray(jax.random.permutation(partner_key, 6))
    assert sorted(partner.tolist()) == list(range(6))
    mix = jax.jit(functools.partial(mixup, alpha=alpha, num_classes=CLASSES))
    got_x, got_y = map(np.asarray, mix(KEY, x, y))
    assert got_x.dtype == got_y.dtype == "float32"
    labels = one_hot(y)
    for b in range(6):
        expected = share[b] * x[b] + (1 - share[b]) * x[partner[b]]
        np.testing.assert_allclose(got_x[b], expected, rtol=1e-5)
        np.testing.assert_allclose(got_y[b], share[b] * labels[b] + (1 - share[b]) * labels[partner[b]], atol=1e-6)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_cutmix_against_loops(alpha: float) -> None:
    x, y = batch()
    share_key, partner_key, centre_key = jax.random.split(KEY, 3)
    side = np.sqrt(1 - np.asarray(mixing.random_shares(share_key, 6, alpha)))
    partner = np.asarray(jax.random.permutation(partner_key, 6))
    centres = np.asarray(mixing.random_pixels(centre_key, 6, 7, 9))
    mix = jax.jit(functools.partial(cutmix, alpha=alpha, num_classes=CLASSES))
    got_x, got_y = map(np.asarray, mix(KEY, x, y))
    labels = one_hot(y)
    for b in range(6):
        expected, stay = x[b].copy(), 63
        for i, j in np.ndindex(7, 9):
            if covered((i, j), centres[b], (int(side[b] * np.float32(7)), int(side[b] * np.float32(9)))):
                expected[i, j] = x[partner[b], i, j]
                stay -= 1
        np.testing.assert_array_equal(got_x[b], expected)
        mixed = stay / 63 * labels[b] + (1 - stay / 63) * labels[partner[b]]
        np.testing.assert_allclose(got_y[b], mixed, atol=1e-6)


@pytest.mark.parametrize("mix", [mixup, cutmix])
def test_soft_labels_go_in_too(mix) -> None:
    x, y = batch()
    labels = array(one_hot(y), "bfloat16")
    by_class, soft = (mix(KEY, array(x), one, alpha=1.0, num_classes=CLASSES) for one in (jnp.array(y), labels))
    for one, other in zip(by_class, soft, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(np.asarray(soft[1]).sum(1), 1, rtol=1e-6)


def test_shares_are_beta() -> None:
    for alpha in (0.2, 1.0, 4.0):
        share = np.asarray(mixing.random_shares(KEY, 4000, alpha))
        assert share.mean() == pytest.approx(0.5, abs=0.03)
        assert share.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_pixels_are_uniform() -> None:
    pixels = np.asarray(mixing.random_pixels(KEY, 4000, 3, 5))
    counts = np.bincount(pixels[:, 0] * 5 + pixels[:, 1], minlength=15)
    assert counts.sum() == 4000 and counts.min() > 200 and counts.max() < 340


def test_what_is_drawn_for_an_image_does_not_depend_on_the_others() -> None:
    x, _ = batch()
    other = np.where(np.arange(6)[:, None, None, None] == 2, x, 0)
    cut = jax.jit(functools.partial(cutout, size=4))
    np.testing.assert_array_equal(*(np.asarray(cut(KEY, images))[2] for images in (x, other)))


X, Y = jnp.zeros((2, 4, 4, 3)), jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: cutout(KEY, X, size=0), ValueError, "size must be at least 1, was 0"),
        (lambda: cutout(KEY, X, size=1, fill=(1, 2)), ValueError, "fill must be one number or one for each of 3"),
        (lambda: mixup(KEY, X.astype("uint8"), Y, alpha=1.0, num_classes=5), TypeError, "x has dtype uint8"),
        (lambda: mixup(KEY, X, Y, alpha=0.0, num_classes=5), ValueError, "alpha must be above 0, was 0.0"),
        (lambda: cutmix(KEY, X, Y, alpha=-1.0, num_classes=5), ValueError, "alpha must be above 0, was -1.0"),
        (
            lambda: cutmix(KEY, X, jnp.zeros((2, 4)), alpha=1.0, num_classes=5),
            ValueError,
            r"y must be classes \(2,\), int, or probabilities \(2, 5\), was float32 \(2, 4\)",
        ),
        (lambda: mixup(KEY, X, jnp.zeros(2), alpha=1.0, num_classes=5), ValueError, r"was float32 \(2,\)"),
    ],
)
def test_errors(call, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


SHARDED = """
import functools
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from cnnjax.data import cutmix, cutout, mixup
draw = np.random.default_rng(0)
x, y = draw.integers(0, 256, (8, 6, 6, 3)).astype(np.float32), draw.integers(0, 5, 8).astype(np.int32)
mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
over = NamedSharding(mesh, PartitionSpec("batch"))
mixes = [functools.partial(cutmix, alpha=1.0, num_classes=5), functools.partial(mixup, alpha=0.5, num_classes=5)]
for change in (*mixes, lambda key, x, y: (cutout(key, x, size=3), y)):
    apart = jax.jit(change, out_shardings=over)(jax.random.key(1), *jax.device_put((x, y), over))
    alone = jax.jit(change)(jax.random.key(1), jnp.array(x), jnp.array(y))
    for one, other in zip(apart, alone, strict=True):
        assert len(one.sharding.device_set) == 4, one.sharding
        np.testing.assert_allclose(one, other, atol=1e-4)
"""


@pytest.mark.thorough
def test_the_number_of_devices_does_not_matter() -> None:
    processes.program(SHARDED, devices=4)
