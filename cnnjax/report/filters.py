"""Pictures of kernels, as trained or learned back from their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.report.figures import new_figure, pages, save, show_signed

KERNELS_OF_A_PAGE = 256


def kernels(kernel: np.ndarray, path: Path, title: str = "kernels of the first layer") -> list[Path]:
    """Draws the kernels of a 2-D convolution, one small picture each, all on one scale.

    With three input channels a kernel is drawn in colours, zero in gray. Otherwise its mean over the channels is drawn,
    blue negative, red positive. A row has 8 kernels; 16 where there are more than 64, as in AlexNet's paper.

    Args:
      kernel: `(H, W, C, F)`.
      path: the PNG file; after 256 kernels another page begins, `STEM-2.png`, ...
      title: of the picture.

    Returns:
      The files written.
    """
    height, width, channels, count = kernel.shape
    columns = min(count, 8 if count <= 64 else 16)
    colour = channels == 3
    shown = kernel if colour else kernel.mean(2)
    bound = float(np.abs(shown).max()) or 1.0
    if colour:
        scale = f"red, green, blue from {-bound:.2g} to {bound:.2g}, one scale for all; gray is 0"
    else:
        scale = f"{f'mean over {channels} inputs, ' if channels > 1 else ''}one scale for all"
    tall = height / width + 0.22  # of a cell in widths of a kernel, its number included
    dealt = pages(range(count), KERNELS_OF_A_PAGE, path)
    for file, note, numbers in dealt:
        rows = -(-len(numbers) // columns)
        figure = new_figure(max(1.1 * columns + (0 if colour else 0.8), 4.8), rows * tall + 0.55)
        panel = figure.subplots()  # one for all: a panel for each kernel takes minutes to lay out
        for place, number in enumerate(numbers):
            left, top = 1.1 * (place % columns), -tall * (place // columns)
            one = 0.5 + 0.5 * shown[..., number] / bound if colour else shown[..., number]
            extent = (left, left + 1, top - height / width, top)
            drawn = panel.imshow(one, cmap="RdBu_r", vmin=-bound, vmax=bound, extent=extent, interpolation="nearest")
            panel.text(left + 0.5, top + 0.03, str(number), ha="center", va="bottom", fontsize=8)
        panel.set(xlim=(-0.05, 1.1 * columns - 0.05), ylim=(-tall * rows + 0.17, 0.22), aspect="equal")
        panel.axis("off")
        if not colour:
            figure.colorbar(drawn, ax=panel, fraction=0.03, pad=0.02)
        figure.suptitle(f"{title}{note}\n{scale}", fontsize=10)
        save(figure, file)
    return [file for file, _, _ in dealt]


def learned_kernel(
    image: np.ndarray, output: np.ndarray, entries: dict[str, np.ndarray], wanted: dict[str, float], path: Path
) -> None:
    """Draws a small image, the kernel's output, and the parameters learned back.

    The parameters are a line per run.

    Args:
      image: `(H, W)`.
      output: `(H', W')`.
      entries: each parameter over the steps, `(runs, steps + 1)`, by name.
      wanted: the true value of each parameter.
      path: the PNG file.
    """
    figure = new_figure(12, 3.3)
    left, middle, right = figure.subplots(1, 3, width_ratios=(image.shape[1], output.shape[1], 10))
    left.imshow(image, cmap="gray")
    show_signed(middle, output, float(np.abs(output).max()))
    for panel, values, title in ((left, image, "image"), (middle, output, "output")):
        for ticks, size in ((panel.set_yticks, values.shape[0]), (panel.set_xticks, values.shape[1])):
            ticks(range(size), [str(number + 1) for number in range(size)])
        panel.set(xlabel="column", ylabel="row", title=title)
    for number, (name, runs) in enumerate(entries.items()):
        lines = right.plot(runs.T, color=f"C{number}", linewidth=1, alpha=0.8)
        lines[0].set_label(name)
        right.axhline(wanted[name], color=f"C{number}", linestyle=":", linewidth=1)
    right.set(xlabel="step", title=f"learned back, {len(runs)} run{'s' if len(runs) > 1 else ''}")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.grid(alpha=0.3)
    right.legend(loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def learned_filter(
    images: dict[str, np.ndarray], kernels: dict[str, np.ndarray], errors: np.ndarray, path: Path
) -> None:
    """Draws a photograph, its outputs, the kernel as it is learned, and the errors.

    Args:
      images: `(H, W)` by title: the photograph, then outputs, all on the scale of the first output.
      kernels: `(K, K)` by title, all on the scale of the first.
      errors: `(runs, steps + 1)`.
      path: the PNG file.
    """
    photograph, *outputs = images.values()
    tall = 3.8 * photograph.shape[0] / photograph.shape[1]
    figure = new_figure(11.5, tall + 3.0)
    halves: Any = figure.subfigures(2, 1, height_ratios=(tall + 0.5, 2.5))
    upper, lower = halves
    panels = upper.subplots(1, len(images))
    panels[0].imshow(photograph, cmap="gray")
    bound = float(np.quantile(np.abs(outputs[0]), 0.99)) or 1.0
    for panel, output in zip(panels[1:], outputs, strict=True):
        show_signed(panel, output, bound)
    small = lower.subplots(1, len(kernels) + 1, width_ratios=[1] * len(kernels) + [1.9])
    bound = float(np.abs(next(iter(kernels.values()))).max())
    for panel, kernel in zip(small, kernels.values(), strict=False):
        show_signed(panel, kernel, bound)
        for (row, column), value in np.ndenumerate(kernel):
            colour = "w" if abs(value) > 0.6 * bound else "k"
            text = f"{round(float(value), 2) + 0.0:g}"
            panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    for panel, title in zip((*panels, *small), (*images, *kernels), strict=False):
        panel.axis("off")
        panel.set_title(title, fontsize=10)
    small[-1].plot(errors.T, color="C0", linewidth=1, alpha=0.8)
    small[-1].set(xlabel="step", yscale="log")
    small[-1].set_title("largest error of the kernel, by run", fontsize=10)
    small[-1].grid(alpha=0.3)
    save(figure, path)
