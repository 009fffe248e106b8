"""Figures without global state or window, and the ways in which an image is shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS_PER_INCH = 130


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of a size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Writes a figure to a PNG file."""
    figure.savefig(path, dpi=DOTS_PER_INCH)


def show_image(panel: Axes, image: np.ndarray) -> None:
    """Shows uint8 pixels (H, W, C), C 1 or 3, on the fixed scale 0..255."""
    panel.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def show_signed(panel: Axes, values: np.ndarray, bound: float) -> None:
    """Shows values (H, W) from -bound, blue, to bound, red."""
    panel.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound)
