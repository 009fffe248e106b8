"""The edge detector as a user starts it: the output by hand, the shrinkage, the photograph, and each bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import processes

pytestmark = pytest.mark.thorough

X = np.array([[1, 1, 0, 0, 0, 0, 1, 1]] * 6)


def rows(text: str, start: str) -> list[list[float]]:
    """The numbers of the lines that begin with `start`, without it and the word after it."""
    return [[float(word) for word in line.split()[2:]] for line in text.splitlines() if line.startswith(f"  {start} ")]


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The published settings on the 6x8 image, and 400 steps on matplotlib's photograph, each from four kernels."""
    folder = tmp_path_factory.mktemp("edges") / "new" / "folder"
    done = processes.run("edge_detection.py", "--seeds=4", "--photo_steps=400", f"--output={folder}")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout, folder


def test_the_output_column_by_column(edges: tuple[str, Path]) -> None:
    lines = edges[0].splitlines()[1:8]
    assert [line.split() for line in lines] == [
        [str(number), *[value] * 6] for number, value in enumerate(["0", "1", "0", "0", "0", "-1", "0"], start=1)
    ]


def test_the_antisymmetric_error_shrinks_to_0_0776(edges: tuple[str, Path]) -> None:
    places = np.stack([X[:, :-1].ravel(), X[:, 1:].ravel(), np.ones(42)])
    a = places @ places.T
    np.testing.assert_array_equal(a, [[18, 12, 18], [12, 18, 18], [18, 18, 42]])
    np.testing.assert_array_equal(a @ [1, -1, 0], [6, -6, 0])
    np.testing.assert_allclose((1 - 2 * 0.01 * 6) ** 20, 0.0776, atol=5e-5)

    learned = rows(edges[0].split("sobel_x on")[0], "seed")
    assert len(learned) == 4
    for *_, first, last, ratio in learned:
        assert ratio == pytest.approx(0.0776, abs=1e-4)
        assert last == pytest.approx(0.0776 * first, abs=1e-4)
    assert len({first for *_, first, _, _ in learned}) == 4, "four starts"


def test_the_kernel_comes_as_near_as_the_tutorials(edges: tuple[str, Path]) -> None:
    """It ends where the shrinkage says, but for what is left of the symmetric error: 0.0124 of its slower part."""
    assert "tutorial    1.0110  -1.0125   0.0008" in edges[0]
    for k1, k2, bias, first, last, _ in rows(edges[0].split("sobel_x on")[0], "seed"):
        assert (k1 - k2) / 2 == pytest.approx(1 + last, abs=1e-4)
        assert abs(last) < 0.1 * abs(first)
        assert (k1, k2, bias) == pytest.approx((1, -1, 0), abs=0.2)
        assert abs(k1 + k2) < 0.05 and abs(bias) < 0.05


def test_figures(edges: tuple[str, Path]) -> None:
    assert {path.name for path in edges[1].iterdir()} == {"edges.png", "sobel_x.png"}
    for path in edges[1].iterdir():
        with Image.open(path) as figure:
            assert min(figure.size) > 300


def test_a_kernel_is_learned_back_on_the_photograph(edges: tuple[str, Path]) -> None:
    learned = rows(edges[0].split("sobel_x on grace_hopper.jpg (256x218), learned back, steps=400")[1], "seed")
    assert len(learned) == 4
    for error, bias, loss, below in learned:
        assert error < 0.01 and bias < 1e-4 and loss < 1e-6 and 100 < below < 400


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--image=absent.png", "error: --image=absent.png cannot be read (No such file or directory)."),
        ("--learning_rate=-1", "flag --learning_rate=-1.0: must be a finite number, above 0"),
        ("--kernel=sobel", "flag --kernel=sobel: value should be one of <sobel_x|"),
    ],
)
def test_bad_input(argument: str, message: str, tmp_path: Path) -> None:
    assert message in processes.refusal("edge_detection.py", argument, f"--output={tmp_path / 'new'}")
    assert not (tmp_path / "new").exists(), "nothing may be left behind"


def test_a_rate_too_large_is_named_and_an_image_of_ones_own_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    done = processes.run("edge_detection.py", "--photo_learning_rate=9", f"--image={tmp_path / 'noise.png'}",
                         "--seeds=1", f"--output={tmp_path}")  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == ("error: gradient descent runs away: give a smaller --photo_learning_rate or --momentum.\n")
