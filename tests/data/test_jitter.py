"""Brightness, contrast and saturation, against loops over pixels."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data


def pictures(count: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 255, (count, 4, 5, channels)).astype(np.float32)


def blend(image: np.ndarray, part: str, factor: float) -> np.ndarray:
    """One part of torchvision's ColorJitter, on an image in 0..255."""
    gray = image @ np.array([0.299, 0.587, 0.114])
    other = {"brightness": 0.0, "contrast": gray.mean(), "saturation": gray[..., None]}[part]
    return np.clip(factor * image + (1 - factor) * other, 0, 255)


@pytest.mark.parametrize("part", ["brightness", "contrast", "saturation"])
def test_one_part_alone(part: str) -> None:
    images = pictures(40)
    strengths = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, part: 0.5}
    jittered = np.asarray(data.colour_jitter(jax.random.key(0), jnp.asarray(images), **strengths))
    found = []
    for image, got in zip(images, jittered, strict=True):
        factors = np.linspace(0.5, 1.5, 1001)
        errors = [abs(blend(image, part, factor) - got).max() for factor in factors]
        assert min(errors) < 0.3
        found.append(factors[int(np.argmin(errors))])
    assert min(found) < 0.6 and max(found) > 1.4 and abs(np.mean(found) - 1) < 0.1


def test_all_three_in_each_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images, whose draws are told: each order once."""
    orders = list(itertools.permutations(range(3)))
    names = ["brightness", "contrast", "saturation"]
    shares = np.array([0.1, 0.8, 0.95], np.float32)
    draws = np.stack([np.stack([shares, np.argsort(order).astype(np.float32)]) for order in orders])
    monkeypatch.setattr(jax.random, "uniform", lambda *_: jnp.asarray(draws))
    images = pictures(6)
    strengths = {"brightness": 0.4, "contrast": 0.5, "saturation": 2.0}
    jittered = data.colour_jitter(jax.random.key(0), jnp.asarray(images), **strengths)
    factors = [0.6 + 0.1 * 0.8, 0.5 + 0.8 * 1.0, 0.0 + 0.95 * 3.0]
    for image, got, order in zip(images, np.asarray(jittered), orders, strict=True):
        for part in order:
            image = blend(image, names[part], factors[part])
        np.testing.assert_allclose(got, image, atol=2e-3)


def test_without_strength_nothing_changes_and_images_are_independent() -> None:
    images = jnp.asarray(pictures(4))
    key = jax.random.key(3)
    same = data.colour_jitter(key, images, brightness=0, contrast=0, saturation=0)
    np.testing.assert_allclose(same, images, atol=1e-4)
    changed = data.colour_jitter(key, images)
    other = data.colour_jitter(key, images.at[0].set(0.0))
    np.testing.assert_array_equal(changed[1:], other[1:])
    assert len({float(one.mean() / two.mean()) for one, two in zip(changed, images, strict=True)}) == 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_dtypes_and_gray_images(dtype: str, channels: int) -> None:
    images = jnp.asarray(pictures(3, channels)).astype(dtype)
    got = data.colour_jitter(jax.random.key(0), images)
    assert got.dtype == images.dtype and got.shape == images.shape
    assert float(got.min()) >= 0 and float(got.max()) <= 255


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="it must be floating point"):
        data.colour_jitter(jax.random.key(0), jnp.zeros((1, 2, 2, 3), jnp.uint8))
    with pytest.raises(ValueError, match=r"contrast=-1: none may be negative|contrast=-1, .*none may be negative"):
        data.colour_jitter(jax.random.key(0), jnp.zeros((1, 2, 2, 3)), contrast=-1)
