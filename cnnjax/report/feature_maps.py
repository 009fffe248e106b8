"""Pictures of the inside of a net: feature maps and receptive fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cnnjax.report.figures import new_figure, save, show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def maps(
    stacks: Sequence[tuple[str, np.ndarray]],
    path: Path,
    title: str,
    *,
    image: np.ndarray | None = None,
    names: Sequence[str] = (),
    most: int = 32,
) -> None:
    """Draws the maps of each layer, or its kernels, as a strip: blue negative, red positive.

    All maps of a strip have the same scale.

    Args:
      stacks: for each layer its name and its maps `(H, W, C)`, or its values `(C,)`, which are drawn as bars.
      path: the PNG file.
      title: of the picture.
      image: uint8 `(H, W, channels)`, drawn on top.
      names: of the classes, written under the last bars if there are as many.
      most: largest number of maps drawn per layer, from the first.
    """
    strips: list[tuple[str, np.ndarray]] = [] if image is None else [("the image", image)]
    strips += [(f"{name}   {' x '.join(map(str, stack.shape))}", stack) for name, stack in stacks]
    heights = []
    for number, (_, stack) in enumerate(strips):
        is_image, count = image is not None and number == 0, min(stack.shape[-1], most)
        columns = _columns(count)
        rows = -(-count // columns)
        flat = stack.ndim == 1 or is_image
        heights.append(1.2 if flat else 9 * rows / columns * stack.shape[0] / stack.shape[1])
    figure = new_figure(10, sum(heights) + 0.42 * len(strips) + 0.5)
    panels = figure.subplots(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0]
    for number, (panel, (name, stack)) in enumerate(zip(panels, strips, strict=True)):
        shown = min(stack.shape[-1], most)
        if image is not None and number == 0:
            show_image(panel, stack)
            panel.set_anchor("W")
            panel.axis("off")
        elif stack.ndim == 1:
            panel.stairs(stack, np.arange(len(stack) + 1) - 0.5, fill=True)
            panel.axhline(0, color="k", linewidth=0.5)
            panel.set_xlim(-0.5, len(stack) - 0.5)
            panel.xaxis.get_major_locator().set_params(integer=True)
            if number == len(strips) - 1 and len(names) == len(stack) <= 20:
                panel.set_xticks(range(len(names)), names)
            panel.tick_params(labelsize=7)
        else:
            _draw_strip(figure, panel, stack[..., :shown])
            name += f", the first {shown}" if shown < stack.shape[-1] else ""
        panel.set_title(name, fontsize=9, loc="left", pad=3)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def receptive_fields(
    image: np.ndarray, fields: Sequence[tuple[str, tuple[tuple[int, int], ...]]], path: Path, title: str
) -> None:
    """Draws the image once per layer, with the receptive field of one unit.

    Args:
      image: uint8 `(H, W, channels)`.
      fields: for each layer its name and the pixels of the field, `(first, past the last)` per dimension; pixels of
        the padding, outside of the image, are cut off.
      path: the PNG file.
      title: of the picture.
    """
    from matplotlib.patches import Rectangle

    columns = min(len(fields), 5)
    rows = -(-len(fields) // columns)
    figure = new_figure(max(2 * columns, 4), 2.35 * rows + 0.25)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, (name, pixels) in zip(panels.flat, fields, strict=False):
        show_image(panel, image)
        size = " x ".join(str(past - first) for first, past in pixels)
        inside = [clip(first, past, limit) for (first, past), limit in zip(pixels, image.shape, strict=False)]
        (top, bottom), (left, right) = inside
        corner, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
        panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="C1", linewidth=2.5, clip_on=False))
        cut = "" if tuple(inside) == tuple(pixels) else f", in the image {bottom - top} x {right - left}"
        panel.set_title(f"{name}\n{size}{cut}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def clip(first: int, past: int, size: int) -> tuple[int, int]:
    """Clips the pixels from `first` to before `past` to 0 to before `size`."""
    return min(max(first, 0), size), min(max(past, 0), size)


def _columns(count: int) -> int:
    """Returns the number of maps side by side; fewer than eight are drawn as small as eight."""
    return 8 if count <= 8 else 16


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
