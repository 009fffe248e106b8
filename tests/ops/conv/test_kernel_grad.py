"""The forms of the kernel's gradient, one by one, against a sum over taps in float64."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.conv import kernel_grad, onednn
from cnnjax.ops.conv.chunks import map_over_images, sum_over_images
from cnnjax.ops.geometry import slide

needs_onednn = pytest.mark.skipif(not onednn.is_available(), reason="this jaxlib has no oneDNN that was tested")


def check_kernel_gradient(form, images, sizes, kernel, channels, features, keywords) -> None:
    """A form of the kernel's gradient against a sum over taps in float64."""
    windows = slide(sizes, kernel, **keywords)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, *sizes, channels)).astype("float32")
    y = rng.normal(size=(images, *windows.output, features)).astype("float32")
    got = jax.jit(lambda x, y: form(x, y, windows))(x, y)
    (top, bottom), (left, right) = windows.padding
    padded = np.pad(x, [(0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0)]).astype(float)
    padded = padded[:, max(-top, 0) :, max(-left, 0) :]
    (height, width), (down, along), (far, wide) = windows.output, windows.stride, windows.dilation
    expected = np.zeros((*kernel, channels, features))
    for i, j in np.ndindex(*kernel):
        seen = padded[:, i * far : i * far + height * down : down, j * wide : j * wide + width * along : along]
        expected[i, j] = np.einsum("nhwc,nhwf->cf", seen[:, :height, :width], y)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("tile_bytes", [1, 9 * 20 * 7 * 4 * 3, 9 * 20 * 7 * 4 * 14])  # a row, three rows, two images
def test_patches(monkeypatch: pytest.MonkeyPatch, tile_bytes: int) -> None:
    monkeypatch.setattr(kernel_grad, "PATCHES_TILE_BYTES", tile_bytes)
    check_kernel_gradient(kernel_grad.patches, 4, (7, 7), (3, 3), 20, 18, {"padding": 1})


@needs_onednn
@pytest.mark.parametrize(
    ("size", "kernel", "keywords"),
    [
        pytest.param((8, 8), (3, 3), {"padding": 1}, id="one tile"),
        pytest.param((56, 8), (3, 3), {"padding": 1}, id="tiles of rows"),
        pytest.param((337, 2), (2, 3), {"padding": ((1, 0), (0, 2))}, id="tiles of a row, uneven padding"),
        pytest.param((33, 16), (5, 4), {"stride": (2, 3), "padding": 1}, id="strides that leave a rest"),
        pytest.param((20, 19), (3, 3), {"dilation": (2, 3), "stride": 2, "padding": 2}, id="dilated"),
        pytest.param((16, 9), (3, 3), {"padding": ((-1, 1), (2, -2))}, id="cropped"),
        pytest.param((1, 40), (1, 5), {"padding": ((0, 0), (2, 2))}, id="images of one row"),
    ],
)
def test_batch_as_channels(size, kernel, keywords) -> None:
    check_kernel_gradient(kernel_grad.batch_as_channels, 17, size, kernel, 19, 18, keywords)


@needs_onednn
@pytest.mark.parametrize("tile_bytes", [1, 10**9])  # a row of tiles at a time, all at once
@pytest.mark.parametrize(
    ("size", "kernel", "padding"),
    [
        pytest.param((8, 16), (3, 3), 1, id="whole tiles"),
        pytest.param((13, 6), (3, 3), ((0, 2), (1, 0)), id="tiles that go beyond"),
        pytest.param((12, 11), (5, 3), 2, id="two sizes"),
        pytest.param((9, 10), (5, 5), ((-1, 1), (2, -2)), id="cropped"),
    ],
)
def test_winograd(monkeypatch, tile_bytes, size, kernel, padding) -> None:
    monkeypatch.setattr(kernel_grad, "WINOGRAD_TILE_BYTES", tile_bytes)
    monkeypatch.setattr(kernel_grad, "MOST_WINOGRAD_WEIGHTS", 7 * 10 - 1)  # so the features come in halves
    check_kernel_gradient(kernel_grad.winograd, 3, size, kernel, 7, 10, {"padding": padding})


@needs_onednn
@pytest.mark.parametrize("size", [(23, 19), (26, 40)])
def test_winograd_of_phases(size) -> None:
    keywords = {"stride": (4, 2), "padding": ((1, 2), (0, 3))}
    check_kernel_gradient(kernel_grad.winograd_of_phases, 3, size, (11, 5), 3, 8, keywords)


@pytest.mark.parametrize("tile_bytes", [1, 10**9])  # an image at a time, all at once
@pytest.mark.parametrize(
    ("kernel", "features"),
    [
        pytest.param((3, 5), 6, id="blocks of four"),
        pytest.param((3, 5), 18, id="two stacks of taps"),
        pytest.param((6, 11), 18, id="many taps"),
    ],
)
def test_width_blocked_patches(monkeypatch, tile_bytes, kernel, features) -> None:
    monkeypatch.setattr(kernel_grad, "PATCHES_TILE_BYTES", tile_bytes)
    keywords = {"padding": ((1, 2), (2, 0)), "stride": (2, 1), "dilation": (2, 1)}
    form = partial(kernel_grad.width_blocked_patches, block=4 if features <= 16 else 1)
    check_kernel_gradient(form, 3, (13, 11), kernel, 2, features, keywords)


@pytest.mark.parametrize("tile_bytes", [7 * 20 * 3 * 4 * 5, 10**9])  # five of 38 columns at a time, all at once
def test_patches_of_a_long_sequence(monkeypatch: pytest.MonkeyPatch, tile_bytes: int) -> None:
    monkeypatch.setattr(kernel_grad, "PATCHES_TILE_BYTES", tile_bytes)
    check_kernel_gradient(kernel_grad.patches, 2, (1, 40), (1, 7), 20, 6, {"padding": ((0, 0), (3, 1))})


@pytest.mark.parametrize("multiplier", [1, 2])
def test_tap_by_tap(multiplier: int) -> None:
    x, dy = (
        np.random.default_rng(i).normal(size=(2, 9, 20, c)).astype("float32") for i, c in ((0, 3), (1, 3 * multiplier))
    )
    windows = slide((9, 20), (9, 9), padding=4)
    got = kernel_grad.tap_by_tap(jnp.asarray(x), jnp.asarray(dy), windows, 3, None)
    padded, expected = np.pad(x.astype(float), [(0, 0), (4, 4), (4, 4), (0, 0)]), np.zeros((9, 9, 1, 3 * multiplier))
    for i, j in np.ndindex(9, 9):
        shifted = np.repeat(padded[:, i : i + 9, j : j + 20], multiplier, axis=-1)
        expected[i, j, 0] = (shifted * dy).sum((0, 1, 2))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("most", [1, 3, 5, 17])
def test_chunks_of_images_add_up_and_keep_their_order(most: int, dtype: str) -> None:
    x = jnp.arange(17, dtype=dtype).reshape(17, 1)
    doubled = map_over_images(lambda x: 2 * x, x, most)
    assert doubled.dtype == dtype
    np.testing.assert_array_equal(doubled, 2 * x)
    summed = sum_over_images(lambda x, dy: (x * dy).astype("float32").sum(0), x, x + 1, most)
    np.testing.assert_array_equal(summed, [1632])
