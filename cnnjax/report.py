"""The pictures of a run, as PNG files. Drawn on matplotlib figures of their own: no global state, no window."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Record = dict[str, Any]
DOTS_PER_INCH = 130


def curves(records: Sequence[Record], path: Path) -> None:
    """Loss (log scale) and error rate over the epochs: the mean of each epoch's training records, and each evaluation.

    records: what metrics.jsonl holds.
    """
    figure = _figure(10, 4)
    panels = figure.subplots(1, 2)
    for split, style in (("train", "C0-"), ("validation", "C2.-"), ("test", "C1.-")):
        for panel, what in zip(panels, ("loss", "accuracy"), strict=True):
            epochs, values = by_epoch(records, f"{split}_{what}")
            if epochs:
                label = "train (batches as augmented)" if split == "train" else split
                panel.plot(epochs, values, style, label=label, markersize=4, linewidth=1.2)
    panels[0].set(xlabel="epoch", ylabel="loss", yscale="log", title="loss")
    panels[1].set(xlabel="epoch", ylabel="accuracy", title="accuracy")
    panels[1].yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    for panel in panels:
        panel.grid(alpha=0.3, which="both")
        panel.legend()
        panel.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def by_epoch(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    """The epochs that have records of a name, and the mean of each epoch's values."""
    values: dict[int, list[float]] = {}
    for record in records:
        if name in record:
            values.setdefault(record["epoch"], []).append(record[name])
    return list(values), [float(np.mean(v)) for v in values.values()]


def kernels(kernel: np.ndarray, path: Path, title: str = "kernels of the first layer") -> None:
    """The kernels (H, W, C, F) of a 2-D convolution, one small picture each.

    One or other than three input channels: mean over the channels, blue negative, red positive, the same scale for all.
    Three: as colours, each kernel scaled to its own range. Eight a row; of more than 64 sixteen, as AlexNet's paper has
    its 96.
    """
    count = kernel.shape[-1]
    columns = min(count, 8 if count <= 64 else 16)
    rows = -(-count // columns)
    colour = kernel.shape[2] == 3
    figure = _figure(1.2 * columns + (0 if colour else 0.8), 1.25 * rows + 0.5)
    panels = figure.subplots(rows, columns, squeeze=False)
    shown = kernel if colour else kernel.mean(2)
    bound = float(np.abs(shown).max()) or 1.0
    for number, panel in enumerate(panels.flat):
        panel.axis("off")
        if number >= count:
            continue
        one = shown[..., number]
        if colour:
            low, high = float(one.min()), float(one.max())
            panel.imshow((one - low) / ((high - low) or 1.0))
        else:
            drawn = panel.imshow(one, cmap="RdBu_r", vmin=-bound, vmax=bound)
        panel.set_title(str(number), fontsize=8, pad=2)
    if not colour:
        figure.colorbar(drawn, ax=panels, fraction=0.05)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes): row the true class, column the predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], path: Path) -> None:
    """The confusion matrix; each row coloured by its shares, the numbers written in up to 20 classes."""
    counts = confusion_matrix(labels, predicted, len(names))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(3 + 0.4 * len(names), 16)
    figure = _figure(side * 1.2, side)
    panel = figure.subplots()
    # errors are rare: the square root makes one of a hundred visible
    drawn = panel.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(drawn, ax=panel, fraction=0.046, pad=0.03, ticks=np.sqrt([0, 0.01, 0.1, 0.5, 1]))
    bar.ax.set_yticklabels(["0", "1 %", "10 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    if len(names) <= 20:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = shares[row, column] > 0.4
                panel.text(column, row, str(count), ha="center", va="center", fontsize=8, color="w" if dark else "k")
        long = max(map(len, names)) > 3
        panel.set_xticks(range(len(names)), names, rotation=45 if long else 0, ha="right" if long else "center")
        panel.set_yticks(range(len(names)), names)
    right = int(np.trace(counts))
    panel.set(xlabel="predicted", ylabel="true", title=f"test: {right} of {counts.sum()} right")
    _save(figure, path)


def mistakes(
    images: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, names: Sequence[str], path: Path, most: int = 24
) -> None:
    """The errors that the net was surest of, surest first, with the predicted and the true class.

    images uint8 (N, H, W, C), labels (N,), probabilities (N, classes).
    """
    predicted = probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:most]
    columns = min(max(len(wrong), 1), 8)
    rows = max(1, -(-len(wrong) // columns))
    figure = _figure(max(1.45 * columns, 4), 1.75 * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, index in zip(panels.flat, wrong, strict=False):
        _show(panel, images[index])
        guess = predicted[index]
        panel.set_title(
            f"{names[guess]} {probabilities[index, guess]:.0%}\ntrue {names[labels[index]]}  (#{index})", fontsize=7
        )
    total = int((predicted != labels).sum())
    figure.suptitle(
        f"the {len(wrong)} surest of {total} mistakes among {len(labels)}: predicted, true, index", fontsize=9
    )
    _save(figure, path)


def predictions(
    images: Sequence[np.ndarray], titles: Sequence[str], probabilities: np.ndarray, names: Sequence[str], path: Path
) -> None:
    """Each image beside a bar for each of its ten most probable classes."""
    figure = _figure(6.5, 2.6 * len(images))
    panels = figure.subplots(len(images), 2, squeeze=False, width_ratios=(1, 1.6))
    for (left, right), image, title, row in zip(panels, images, titles, probabilities, strict=True):
        _show(left, image)
        left.set_title(title, fontsize=9)
        left.axis("off")
        top = np.sort(np.argsort(-row, kind="stable")[:10])
        right.barh(range(len(top)), row[top], color=["C1" if c == row.argmax() else "C0" for c in top])
        right.set_yticks(range(len(top)), [names[c] for c in top], fontsize=8)
        right.invert_yaxis()
        right.set(xlim=(0, 1), xlabel="probability")
        right.grid(alpha=0.3, axis="x")
    _save(figure, path)


def learned_kernel(
    image: np.ndarray, output: np.ndarray, entries: dict[str, np.ndarray], wanted: dict[str, float], path: Path
) -> None:
    """A small image, what the kernel makes of it, and the parameters as they are learned back: one line per run.

    image (H, W), output (H', W'), entries (runs, steps + 1) by name, and the value that each is to come to.
    """
    figure = _figure(12, 3.3)
    left, middle, right = figure.subplots(1, 3, width_ratios=(image.shape[1], output.shape[1], 10))
    left.imshow(image, cmap="gray")
    _signed(middle, output, float(np.abs(output).max()))
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
    _save(figure, path)


def learned_filter(
    images: dict[str, np.ndarray], kernels: dict[str, np.ndarray], errors: np.ndarray, path: Path
) -> None:
    """A photograph and its outputs, the kernel and what was learned of it step by step, and the error of every run.

    images (H, W) by title: the photograph, then outputs on the scale of the first. kernels (K, K) by title, on the
    scale of the first. errors (runs, steps + 1).
    """
    photograph, *outputs = images.values()
    tall = 3.8 * photograph.shape[0] / photograph.shape[1]
    figure = _figure(11.5, tall + 3.0)
    halves: Any = figure.subfigures(2, 1, height_ratios=(tall + 0.5, 2.5))
    above, below = halves
    panels = above.subplots(1, len(images))
    panels[0].imshow(photograph, cmap="gray")
    bound = float(np.quantile(np.abs(outputs[0]), 0.99)) or 1.0
    for panel, output in zip(panels[1:], outputs, strict=True):
        _signed(panel, output, bound)
    small = below.subplots(1, len(kernels) + 1, width_ratios=[1] * len(kernels) + [1.9])
    bound = float(np.abs(next(iter(kernels.values()))).max())
    for panel, kernel in zip(small, kernels.values(), strict=False):
        _signed(panel, kernel, bound)
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
    _save(figure, path)


def _signed(panel: Any, values: np.ndarray, bound: float) -> None:
    panel.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound)


def maps(
    stacks: Sequence[tuple[str, np.ndarray]],
    path: Path,
    title: str,
    *,
    image: np.ndarray | None = None,
    names: Sequence[str] = (),
    most: int = 32,
) -> None:
    """What each layer of a net gives, or its kernels: a strip per layer, blue negative, red positive.

    Each strip has a scale of its own, the same for all its maps.

    Args:
      stacks: of each layer its name and its maps (H, W, C), or its values (C,), which are drawn as bars.
      title: over all of it.
      image: uint8 (H, W, channels), drawn on top.
      names: of the classes, written below the last bars if there are as many.
      most: how many maps of a layer are drawn, from the first.
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
    figure = _figure(10, sum(heights) + 0.42 * len(strips) + 0.5)
    panels = figure.subplots(len(strips), 1, squeeze=False, height_ratios=heights)[:, 0]
    for number, (panel, (name, stack)) in enumerate(zip(panels, strips, strict=True)):
        shown = min(stack.shape[-1], most)
        if image is not None and number == 0:
            _show(panel, stack)
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
            _strip(figure, panel, stack[..., :shown])
            name += f", the first {shown}" if shown < stack.shape[-1] else ""
        panel.set_title(name, fontsize=9, loc="left", pad=3)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def receptive_fields(
    image: np.ndarray, fields: Sequence[tuple[str, tuple[tuple[int, int], ...]]], path: Path, title: str
) -> None:
    """The image once per layer, with a frame around the pixels that one unit of the layer sees.

    Args:
      image: uint8 (H, W, channels).
      fields: of each layer its name and the pixels, (first, past the last) per dimension; what lies in the padding,
        outside of the image, is cut off.
      title: over all of it.
    """
    from matplotlib.patches import Rectangle

    columns = min(len(fields), 5)
    rows = -(-len(fields) // columns)
    figure = _figure(max(2 * columns, 4), 2.35 * rows + 0.25)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.axis("off")
    for panel, (name, pixels) in zip(panels.flat, fields, strict=False):
        _show(panel, image)
        size = " x ".join(str(past - first) for first, past in pixels)
        seen = [clip(first, past, limit) for (first, past), limit in zip(pixels, image.shape, strict=False)]
        (top, bottom), (left, right) = seen
        corner, width, height = (left - 0.5, top - 0.5), right - left, bottom - top
        panel.add_patch(Rectangle(corner, width, height, fill=False, edgecolor="C1", linewidth=2.5, clip_on=False))
        cut = "" if tuple(seen) == tuple(pixels) else f", in the image {bottom - top} x {right - left}"
        panel.set_title(f"{name}\n{size}{cut}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def clip(first: int, past: int, size: int) -> tuple[int, int]:
    """The part of the pixels from `first` to before `past` that lies in 0 to before `size`."""
    return min(max(first, 0), size), min(max(past, 0), size)


def learning_rates(losses: Mapping[float, np.ndarray], path: Path, title: str, *, classes: int | None = None) -> None:
    """The loss over the updates under several learning rates, on a log scale.

    Pale the loss of each update, up to 1,000 of them, bold its mean over the last twentieth of the updates. What is
    more than ten times the first loss is cut off, in the mean too. A curve ends before its first loss that is not
    finite, with a cross, and the legend says so.

    Args:
      losses: of each learning rate the loss before each update, (updates,), perhaps ending in NaN or infinity.
      title: of the picture.
      classes: how many there are; the loss of guessing, ln(classes), is drawn as well.
    """
    figure = _figure(8, 4.5)
    panel = figure.subplots()
    span = max(map(len, losses.values()))
    starts = [float(values[0]) for values in losses.values() if finite_length(values)]
    top = 10 * max([*starts, math.log(classes or 10)])
    lowest = top
    for number, (rate, values) in enumerate(losses.items()):
        kept = np.minimum(values[: finite_length(values)], top)
        means, updates = running_mean(kept, max(1, span // 20)), np.arange(1, len(kept) + 1)
        label, colour = f"{rate:g}", f"C{number}"
        if len(kept) < len(values):
            label += f": {'NaN' if np.isnan(values[len(kept)]) else 'infinite'} at update {len(kept) + 1}"
            panel.plot(updates[-1:], kept[-1:], "x", color=colour, markersize=9, markeredgewidth=2, clip_on=False)
        if span <= 1000:  # more of them would hide each other
            panel.plot(updates, kept, color=colour, alpha=0.3, linewidth=0.8)
        panel.plot(updates, means, color=colour, linewidth=1.8, label=label)
        lowest = min([lowest, *means])
    if classes:
        panel.axhline(math.log(classes), color="0.5", linestyle=":", label=f"guessing: ln {classes}")
    panel.set(xlabel="update", ylabel="cross-entropy of the batch", yscale="log", title=title)
    panel.set(xlim=(0, span + 1), ylim=(max(lowest / 3, 1e-6), top))
    panel.grid(alpha=0.3, which="both")
    panel.legend(title="learning rate", fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    _save(figure, path)


def finite_length(values: np.ndarray) -> int:
    """How many values stand before the first that is NaN or infinite."""
    wrong = np.flatnonzero(~np.isfinite(values))
    return int(wrong[0]) if len(wrong) else len(values)


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """The mean of each value and of up to ``width - 1`` before it: (N,) -> (N,)."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    past = np.arange(1, len(values) + 1)
    first = np.maximum(past - width, 0)
    return (sums[past] - sums[first]) / (past - first)


def _columns(count: int) -> int:
    """How many of so many maps stand side by side; a few are not drawn larger than eight would be."""
    return 8 if count <= 8 else 16


def _strip(figure: Figure, panel: Any, stack: np.ndarray) -> None:
    """The maps (H, W, C) side by side, in gray frames, with their scale."""
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


def _by_epoch(records: Sequence[Record], name: str) -> tuple[list[int], list[float]]:
    values: dict[int, list[float]] = {}
    for record in records:
        if name in record:
            values.setdefault(record["epoch"], []).append(record[name])
    return list(values), [float(np.mean(v)) for v in values.values()]


def _show(panel: Any, image: np.ndarray) -> None:
    panel.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DOTS_PER_INCH)
