"""Pictures of kernels are drawn, of every shape; their scale and their pages are right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnjax import report
from tests.report.pictures import size


@pytest.mark.parametrize("shape", [(5, 5, 1, 6), (3, 3, 3, 32), (3, 3, 16, 1)])
def test_kernels(shape: tuple[int, ...], tmp_path: Path) -> None:
    assert report.kernels(np.random.default_rng(0).normal(size=shape), tmp_path / "a.png") == [tmp_path / "a.png"]
    size(tmp_path / "a.png")


def test_the_96_kernels_of_alexnet_are_six_rows_of_sixteen(tmp_path: Path) -> None:
    report.kernels(np.random.default_rng(0).normal(size=(11, 11, 3, 96)), tmp_path / "a.png")
    width, height = size(tmp_path / "a.png")
    assert 2 < width / height < 2.7


@pytest.mark.thorough
def test_257_kernels_are_two_pages(tmp_path: Path) -> None:
    written = report.kernels(np.random.default_rng(0).normal(size=(3, 3, 1, 257)), tmp_path / "a.png")
    assert written == [tmp_path / "a.png", tmp_path / "a-2.png"]
    assert size(written[0])[1] > 8 * size(written[1])[1]


def test_kernels_of_colours_are_on_one_scale(tmp_path: Path) -> None:
    """One at the bound is pure red, one at half of it half as far from gray, and zero is gray."""
    kernel = np.zeros((1, 1, 3, 3))
    kernel[0, 0, :, 0] = [2.0, -2.0, -2.0]
    kernel[0, 0, :, 1] = [1.0, -1.0, -1.0]
    report.kernels(kernel, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        found = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert {(255, 0, 0), (191, 63, 63), (127, 127, 127)} <= found


@pytest.mark.parametrize(("shape", "runs"), [((6, 8), 1), ((90, 200), 30)])
def test_learned_kernel_and_filter(shape: tuple[int, int], runs: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    image, output, small = draw.normal(size=shape), draw.normal(size=shape), draw.normal(size=(6, 8))
    entries = {name: draw.normal(size=(runs, 21)) for name in ("k1", "k2")}
    report.learned_kernel(small, small[:, 1:], entries, {"k1": 1.0, "k2": -1.0}, tmp_path / "a.png")
    size(tmp_path / "a.png")
    kernels = {name: draw.normal(size=(3, 3)) for name in ("wanted", "step 0", "step 20")}
    errors = draw.random((runs, 21))
    report.learned_filter({"photograph": image, "a": output, "b": output}, kernels, errors, tmp_path / "b.png")
    size(tmp_path / "b.png")
