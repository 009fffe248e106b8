"""Pictures of the inside of a net are drawn, of every shape and length; the marked classes are the right ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cnnjax import report
from cnnjax.report.feature_maps import mark_classes
from cnnjax.report.figures import new_figure
from tests.report.pictures import size


def test_maps_of_many_shapes(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    image = draw.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    shapes = [(32, 32, 6), (16, 20, 64), (3, 1, 1), (500,), (10,)]
    stacks = [(f"layer {number}", draw.normal(size=shape)) for number, shape in enumerate(shapes)]
    stacks.append(("nothing", np.zeros((4, 4, 9))))
    report.maps(stacks, tmp_path / "a.png", "of all kinds", image=image)
    names = [f"class {c}" for c in range(10)]
    report.maps(stacks[4:5], tmp_path / "b.png", "logits", names=names, predicted=3, true=4)
    report.maps(stacks[3:4], tmp_path / "c.png", "logits", names=[str(c) for c in range(500)], predicted=3)
    assert size(tmp_path / "a.png")[0] == size(tmp_path / "b.png")[0] == size(tmp_path / "c.png")[0] == 1300


@pytest.mark.thorough
def test_maps_of_many_layers_are_paged(tmp_path: Path) -> None:
    stacks = [(f"layer {number}", np.ones((8, 8, 4))) for number in range(25)]
    written = report.maps(stacks, tmp_path / "maps.png", "a deep net", image=np.zeros((8, 8, 1), np.uint8))
    assert [path.name for path in written] == ["maps.png", "maps-2.png", "maps-3.png"]
    assert all(size(path)[1] < 2600 for path in written)


@pytest.mark.parametrize(
    ("predicted", "true", "marks", "text"),
    [
        (9, 4, {9: "C1", 4: "C2"}, "   predicted 9 (orange)   true 4 (green)"),
        (4, 4, {4: "C2"}, "   predicted and true 4 (green)"),
        (9, None, {9: "C1"}, "   predicted 9 (orange)"),
        (None, 4, {4: "C2"}, "   true 4 (green)"),
        (None, None, {}, ""),
    ],
)
def test_predicted_and_true_class_are_marked(
    predicted: int | None, true: int | None, marks: dict[int, str], text: str
) -> None:
    from matplotlib.colors import to_rgba

    panel, logits = new_figure(4, 4).subplots(), np.arange(10.0) - 5
    assert mark_classes(panel, logits, [str(c) for c in range(10)], predicted, true) == text
    drawn = {round(bar.get_x() + 0.5): (bar.get_height(), bar.get_facecolor()) for bar in panel.patches}
    assert drawn == {label: (logits[label], to_rgba(colour)) for label, colour in marks.items()}


@pytest.mark.thorough
@pytest.mark.parametrize(("layers", "names"), [(6, ["a.png"]), (41, ["a.png", "a-2.png"])])
def test_receptive_fields(layers: int, names: list[str], tmp_path: Path) -> None:
    image = np.zeros((32, 24, 1), np.uint8)
    sizes = [1, 3, 8, 20, 50, 200, *range(layers)][:layers]
    fields = [(f"layer {n}", ((16 - n, 17 + n), (12 - n, 13 + n))) for n in sizes]
    written = report.receptive_fields(image, fields, tmp_path / "a.png", "rows of five")
    assert written == [tmp_path / name for name in names]
    for path in written:
        size(path)
    assert report.clip(3, 8, 32) == (3, 8)
    assert report.clip(-4, 40, 32) == (0, 32)
    assert report.clip(-4, -1, 32) == (0, 0)
