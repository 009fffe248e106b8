"""Pictures of the inside of a net: feature maps and receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnjax.report.figures import new_figure, pages, plain, save, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRIPS_OF_A_PAGE = 12
FIELDS_OF_A_PAGE = 40
Strip = tuple[str, np.ndarray]


def maps(
    stacks: Sequence[Strip],
    path: Path,
    title: str,
    *,
    image: np.ndarray | None = None,
    names: Sequence[str] = (),
    predicted: int | None = None,
    true: int | None = None,
    most: int = 32,
) -> list[Path]:
    """Draws the maps of each layer, or its kernels, as a strip: blue negative, red positive.

    All maps of a strip have the same scale.

    Args:
      stacks: for each layer its name and its maps `(H, W, C)`, a sequence `(L, C)`, which is one map, or values `(C,)`,
        which are drawn as bars.
      path: the PNG file; after twelve strips another page begins, `STEM-2.png`, ...
      title: of the picture.
      image: uint8 `(H, W, channels)`, drawn on top.
      names: of the classes. If the last bars are as many, they are the classes' logits: the names are written under
        up to 20 of them, and the two classes below are marked.
      predicted: the predicted class, orange among the logits.
      true: the true class, green among the logits.
      most: largest number of maps drawn per layer, from the first.

    Returns:
      The files written.
    """
    names, title = [*map(plain, names)], plain(title)
    strips = [] if image is None else [("the image", image)]
    for name, stack in stacks:
        as_map = stack[..., None] if stack.ndim == 2 else stack
        strips.append((f"{name}   {' x '.join(map(str, stack.shape))}", as_map))
    last = strips[-1][1] if stacks else np.zeros(0)
    dealt = pages(list(enumerate(strips)), STRIPS_OF_A_PAGE, path)
    for file, note, rows in dealt:
        heights = [_height(stack, most, flat=number == 0 and image is not None) for number, (_, stack) in rows]
        figure = new_figure(10, sum(heights) + 0.42 * len(rows) + 0.5)
        panels = figure.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, (number, (name, stack)) in zip(panels, rows, strict=True):
            if image is not None and number == 0:
                show_image(panel, stack)
                panel.set_anchor("W")
                panel.axis("off")
            elif stack.ndim == 1:
                logits = stack is last and len(names) == len(stack)
                _draw_bars(panel, stack, names if logits and len(names) <= 20 else ())
                if logits:
                    name += mark_classes(panel, stack, names, predicted, true)
            else:
                shown = min(stack.shape[-1], most)
                _draw_strip(figure, panel, stack[..., :shown])
                name += f", the first {shown}" if shown < stack.shape[-1] else ""
            panel.set_title(name, fontsize=9, loc="left", pad=3)
        figure.suptitle(f"{title}{note}", fontsize=10)
        save(figure, file)
    return [file for file, _, _ in dealt]


def mark_classes(panel: Axes, logits: np.ndarray, names: Sequence[str], predicted: int | None, true: int | None) -> str:
    """Colours the bars of two classes over those of all; returns what to add to the title.

    A class that is both is green: the net is right.
    """
    marked = {}
    if predicted is not None:
        marked[predicted] = ("C1", f"predicted {names[predicted]} (orange)")
    if true is not None:
        both = f"predicted and true {names[true]} (green)"
        marked[true] = ("C2", both if predicted == true else f"true {names[true]} (green)")
    for label, (colour, _) in marked.items():
        panel.bar([label], [float(logits[label])], width=1.0, color=colour)
    return "".join(f"   {text}" for _, text in marked.values())


def receptive_fields(
    image: np.ndarray, fields: Sequence[tuple[str, tuple[tuple[int, int], ...]]], path: Path, title: str
) -> list[Path]:
    """Draws the image once per layer, with the receptive field of one unit.

    Args:
      image: uint8 `(H, W, channels)`.
      fields: for each layer its name and the pixels of the field, `(first, past the last)` per dimension; pixels of
        the padding, outside of the image, are cut off.
      path: the PNG file; after forty layers another page begins, `STEM-2.png`, ...
      title: of the picture.

    Returns:
      The files written.
    """
    from matplotlib.patches import Rectangle

    dealt = pages(fields, FIELDS_OF_A_PAGE, path)
    for file, note, some in dealt:
        columns = min(max(len(some), 1), 5)
        rows = max(1, -(-len(some) // columns))
        figure = new_figure(max(2 * columns, 4), 2.35 * rows + 0.25)
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel in panels.flat:
            panel.axis("off")
        for panel, (name, pixels) in zip(panels.flat, some, strict=False):
            show_image(panel, image)
            size = " x ".join(str(past - first) for first, past in pixels)
            inside = [clip(first, past, limit) for (first, past), limit in zip(pixels, image.shape, strict=False)]
            (top, bottom), (left, right) = inside
            corner, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
            panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="C1", linewidth=2.5, clip_on=False))
            cut = "" if tuple(inside) == tuple(pixels) else f", in the image {bottom - top} x {right - left}"
            panel.set_title(f"{name}\n{size}{cut}", fontsize=8)
        figure.suptitle(f"{title}{note}", fontsize=10)
        save(figure, file)
    return [file for file, _, _ in dealt]


def clip(first: int, past: int, size: int) -> tuple[int, int]:
    """Clips the pixels from `first` to before `past` to 0 to before `size`."""
    return min(max(first, 0), size), min(max(past, 0), size)


def _columns(count: int) -> int:
    """Returns the number of maps side by side; fewer than eight are drawn as small as eight."""
    return 8 if count <= 8 else 16


def _height(stack: np.ndarray, most: int, *, flat: bool) -> float:
    """Returns the height of a strip in inches; bars and, if `flat`, the image have one height."""
    if flat or stack.ndim == 1:
        return 1.2
    count = min(stack.shape[-1], most)
    columns = _columns(count)
    return 9 * -(-count // columns) / columns * stack.shape[0] / stack.shape[1]


def _draw_bars(panel: Axes, values: np.ndarray, names: Sequence[str]) -> None:
    """Draws values (C,) as bars, with names under them if there are any."""
    panel.stairs(values, np.arange(len(values) + 1) - 0.5, fill=True)
    panel.axhline(0, color="k", linewidth=0.5)
    panel.set_xlim(-0.5, len(values) - 0.5)
    panel.locator_params(axis="x", integer=True)
    if names:
        panel.set_xticks(range(len(names)), names)
    panel.tick_params(labelsize=7)


def _draw_strip(figure: Figure, panel: Axes, stack: np.ndarray) -> None:
    """Draws maps (H, W, C) side by side, in gray frames, with their scale."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    height, width, count = stack.shape
    columns = _columns(count)
    gap = max(1, round(width / 16))
    bound = float(np.abs(stack).max()) or 1.0
    scale = ScalarMappable(Normalize(-bound, bound), colormaps["RdBu_r"])
    zoom = -(-24 // width)  # a frame as thin beside a map of 3 pixels as beside one of 28
    high, wide = zoom * height + 2 * gap, zoom * width + 2 * gap
    canvas = np.ones((-(-count // columns) * high, columns * wide, 4))
    for number in range(count):
        top, left = number // columns * high, number % columns * wide
        one = np.kron(stack[..., number], np.ones((zoom, zoom)))
        canvas[top : top + high, left : left + wide] = (0.75, 0.75, 0.75, 1)
        canvas[top + gap : top + high - gap, left + gap : left + wide - gap] = scale.to_rgba(one)
    panel.imshow(canvas, interpolation="none")
    panel.set_anchor("W")
    panel.axis("off")
    bar = figure.colorbar(scale, ax=panel, fraction=0.02, pad=0.01, ticks=[-bound, 0, bound], format="%.2g")
    bar.ax.tick_params(labelsize=7)
