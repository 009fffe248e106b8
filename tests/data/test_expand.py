"""Expanded training sets: distortions by hand and by their formula, and which variant comes when."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import rng

STRENGTHS = {"scale": 0.0, "squeeze": 0.0, "shear": 0.0, "shift": 0.0}
squeeze_and_shear = jax.jit(data.squeeze_and_shear, static_argnames=tuple(STRENGTHS))


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(7), count)


def spots(*places: tuple[int, int]) -> jax.Array:
    """Images of 41x41, black but for a cross of four pixels' arms, whose ink has its centre at a place."""
    images = np.zeros((len(places), 41, 41, 1), np.float32)
    for image, (row, column) in zip(images, places, strict=True):
        image[row - 2 : row + 3, column - 2 : column + 3] = 1
    return jnp.asarray(images)


def centres(images: jax.Array) -> np.ndarray:
    """The centre of the ink of each image, seen from the image's centre."""
    ink = np.asarray(images, np.float64)[..., 0]
    at = np.arange(41) - 20
    return np.stack([(ink.sum(2) * at).sum(1), (ink.sum(1) * at).sum(1)], axis=-1) / ink.sum((1, 2))[:, None]


def test_without_strength_images_stay_as_they_are() -> None:
    images = spots((10, 12), (20, 30))
    np.testing.assert_array_equal(squeeze_and_shear(keys(2), images, **STRENGTHS), images)


@pytest.mark.parametrize("name", STRENGTHS)
def test_each_kind_moves_a_spot_as_its_formula_says(name: str) -> None:
    """A spot 10 rows below the centre and 8 columns right of it; its centre of ink, to a tenth of a pixel."""
    count, strength = 200, {"scale": 0.3, "squeeze": 0.3, "shear": 0.4, "shift": 0.1}[name]
    images = jnp.tile(spots((30, 28)), (count, 1, 1, 1))
    moved = centres(squeeze_and_shear(keys(count), images, **STRENGTHS | {name: strength}))
    rows, columns = moved.T
    if name == "scale":
        np.testing.assert_allclose(rows / 10, columns / 8, atol=0.02)
        assert 0.7 < (rows / 10).min() < 0.73 and 1.27 < (rows / 10).max() < 1.3
    if name == "squeeze":
        np.testing.assert_allclose(rows / 10 * columns / 8, 1, atol=0.03)
        assert 0.7 < (rows / 10).min() < 0.73 and 1.27 < (rows / 10).max() < 1.3
    if name == "shear":
        np.testing.assert_allclose(rows, 10, atol=0.01)
        shift = columns - 8
        assert -4 < shift.min() < -3.8 and 3.8 < shift.max() < 4, "10 rows from the centre, times 0.4"
    if name == "shift":
        away = moved - [10, 8]
        assert -4.1 < away.min() < -3.9 and 3.9 < away.max() < 4.1 and abs(np.corrcoef(away.T)[0, 1]) < 0.2


def test_an_image_is_distorted_by_its_own_key() -> None:
    images = spots((15, 15), (20, 25), (28, 12))
    all_three, own = keys(3), squeeze_and_shear(keys(3), images)
    for n in range(3):
        np.testing.assert_array_equal(squeeze_and_shear(all_three[n : n + 1], images[n : n + 1])[0], own[n])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"scale": 1.0}, "scale must be at least 0 and below 1, was 1.0"),
        ({"squeeze": -0.1}, "squeeze must be at least 0 and below 1, was -0.1"),
        ({"shear": -1.0}, "shear must be at least 0, was -1.0"),
        ({"shift": -1.0}, "shift must be at least 0, was -1.0"),
    ],
)
def test_strengths_out_of_range(given: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        data.squeeze_and_shear(keys(1), spots((20, 20)), **given)


def test_twenty_epochs_show_every_variant_twice() -> None:
    """Of each image: itself and nine others, in an order of its own, whatever else is in the batch."""
    images = spots((15, 15), (20, 25), (28, 12), (20, 20))

    @jax.jit
    def shown(numbers: jax.Array, epoch: jax.Array) -> jax.Array:
        info = data.BatchInfo(numbers, epoch, rng.key(5, rng.FLIP))
        return data.expand(images[numbers], info, data.squeeze_and_shear)

    epochs = np.stack([shown(jnp.arange(4), jnp.int32(epoch)) for epoch in range(20)])
    originals = []
    for number in range(4):
        found, counts = np.unique(epochs[:, number].reshape(20, -1), axis=0, return_counts=True)
        assert len(found) == 10 and set(counts) == {2}
        plain = [epoch for epoch in range(20) if np.array_equal(epochs[epoch, number], images[number])]
        assert len(plain) == 2 and plain[1] == plain[0] + 10
        originals.append(plain[0])
    assert len(set(originals)) > 1
    mixed = shown(jnp.array([2, 0, 2, 1]), jnp.int32(3))
    np.testing.assert_array_equal(mixed, epochs[3][[2, 0, 2, 1]])


def test_which_variant_comes_says_nothing_of_how_it_is_drawn() -> None:
    """In each epoch the means of the strengths that are shown are those of uniform ones, 0."""
    numbers = jnp.arange(20_000)

    def draws(own: jax.Array, images: jax.Array) -> jax.Array:
        return jax.vmap(lambda key: jax.random.uniform(key, (5,), minval=-1.0))(own)[:, :, None, None]

    for epoch in (0, 9):
        info = data.BatchInfo(numbers, jnp.int32(epoch), rng.key(5, rng.FLIP))
        shown = np.asarray(data.expand(jnp.zeros((len(numbers), 5, 1, 1)), info, draws))[..., 0, 0]
        distorted = shown[shown.any(1)]  # variant 0 is the image itself
        assert 17_500 < len(distorted) < 18_500 and np.abs(distorted.mean(0)).max() < 0.02
