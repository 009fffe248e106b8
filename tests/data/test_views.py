"""Views for test-time augmentation, by hand and against nested loops."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import airbench_views, mirror_views, shift_views


def test_mirror_views_by_hand() -> None:
    x = jnp.arange(6).reshape(1, 2, 3, 1)
    assert np.asarray(mirror_views(x))[:, 0, :, :, 0].tolist() == [[[0, 1, 2], [3, 4, 5]], [[2, 1, 0], [5, 4, 3]]]


def test_shift_views_by_hand() -> None:
    x = jnp.arange(9).reshape(1, 3, 3, 1)
    views = np.asarray(shift_views(x))[:, 0, :, :, 0].tolist()
    assert views[0] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert views[1] == [[4, 5, 4], [7, 8, 7], [4, 5, 4]], "up and left: pixel 4 of the centre comes to the corner"
    assert views[2] == [[4, 3, 4], [1, 0, 1], [4, 3, 4]], "down and right: pixel 0 of the corner comes to the centre"
    assert views[3:] == [[row[::-1] for row in view] for view in views[:3]]


def reflected(position: int, length: int) -> int:
    position = abs(position)
    return position if position < length else 2 * (length - 1) - position


@pytest.mark.parametrize("pixels", [1, 3])
def test_shift_views_against_loops(pixels: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3)).astype(np.uint8)
    views = np.asarray(shift_views(jnp.array(x), pixels))
    assert views.shape == (6, 2, 4, 6, 3) and views.dtype == np.uint8
    for view, shift in enumerate((0, pixels, -pixels)):
        for b, i, j in np.ndindex(2, 4, 6):
            source = x[b, reflected(i + shift, 4), reflected(j + shift, 6)]
            np.testing.assert_array_equal(views[view, b, i, j], source)
            np.testing.assert_array_equal(views[view + 3, b, i, 5 - j], source)


def test_a_shift_out_of_range_is_refused() -> None:
    for pixels in (0, 4):
        with pytest.raises(ValueError, match=f"pixels must be from 1 to 3 for 4 x 6, was {pixels}"):
            shift_views(jnp.zeros((1, 4, 6, 1)), pixels)


def test_airbench_counts_what_is_not_shifted_twice() -> None:
    assert airbench_views.weights == (0.25, 0.125, 0.125, 0.25, 0.125, 0.125)
    x = jnp.arange(12.0).reshape(1, 3, 4, 1)
    np.testing.assert_array_equal(airbench_views(x), shift_views(x))
