"""Figures without global state or window, their pages, and the ways in which an image is shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130
Item = TypeVar("Item")


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure to a PNG file."""
    figure.savefig(path, dpi=DOTS_PER_INCH)


def pages(items: Sequence[Item], most: int, path: Path) -> list[tuple[Path, str, Sequence[Item]]]:
    """Deals items out to pages of at most `most`.

    Args:
      items: what is drawn, in order; none of them still makes a page.
      most: largest number of items on a page.
      path: the file of the first page; the others are named `STEM-2.png`, `STEM-3.png`, ...

    Returns:
      For each page its file, what to add to its title (`", page 2 of 3"`, or nothing on an only page), and its items.
    """
    count = max(1, -(-len(items) // most))
    found = []
    for number in range(count):
        file = path if number == 0 else path.with_stem(f"{path.stem}-{number + 1}")
        note = f", page {number + 1} of {count}" if count > 1 else ""
        found.append((file, note, items[number * most : (number + 1) * most]))
    return found


def plain(text: str) -> str:
    """Returns a text from outside as matplotlib writes it letter by letter: dollars begin no mathematics."""
    return text.replace("$", r"\$").encode("utf-8", "replace").decode()


def percent(share: float, decimals: int = 0) -> str:
    """Writes a share in per cent: 0.7649 as `76 %`."""
    return f"{100 * share:.{decimals}f} %"


def show_image(panel: Axes, image: np.ndarray) -> None:
    """Shows uint8 pixels (H, W, C), C 1 or 3, on the fixed scale 0..255."""
    panel.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def show_signed(panel: Axes, values: np.ndarray, bound: float) -> None:
    """Shows values (H, W) from -bound, blue, to bound, red."""
    panel.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound)
