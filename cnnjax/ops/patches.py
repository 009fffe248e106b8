"""Arrays cut up and put together over their spatial dimensions."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.geometry import Pads, Sizes, Windows

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def pad_spatial(
    x: jax.Array, padding: Pads, *, mode: str = "zeros", value: float = 0, holes: Sizes | None = None
) -> jax.Array:
    """x (N, *S, C) with its spatial dimensions padded, and cropped where the padding is negative.

    ``holes`` sets the elements of x that far apart (1: side by side) before padding, in mode "zeros" only.
    """
    if mode == "zeros":
        gaps = (0,) * len(padding) if holes is None else tuple(hole - 1 for hole in holes)
        if not any(gaps) and not any(low or high for low, high in padding):
            return x
        config = [(low, high, gap) for (low, high), gap in zip(padding, gaps, strict=True)]
        return lax.pad(x, jnp.asarray(value, x.dtype), [(0, 0, 0), *config, (0, 0, 0)])
    for axis, (low, high) in enumerate(padding):
        size = x.shape[1 + axis]
        most = {"reflect": size - 1, "circular": size - max(-low, 0) - max(-high, 0)}.get(mode)
        if most is not None and max(low, high) > most:
            raise ValueError(
                f"padding must be at most {most} for padding_mode={mode!r} in spatial dimension {axis} "
                f"of size {size}, got {(low, high)}"
            )
    grow = [(0, 0), *((max(low, 0), max(high, 0)) for low, high in padding), (0, 0)]
    crop = tuple((min(low, 0), min(high, 0)) for low, high in padding)
    # PyTorch's order: a circle closes over what the crop leaves, a mirror stands at the edge of the whole
    if mode == "circular":
        return jnp.pad(pad_spatial(x, crop), grow, mode="wrap")
    grown = jnp.pad(x, grow, mode={"reflect": "reflect", "replicate": "edge"}[mode])
    return pad_spatial(grown, crop)


def taps(x: jax.Array, windows: Windows) -> Iterator[tuple[Sizes, jax.Array]]:
    """Per tap of the window, row-major: its index, and what it meets of the padded x, (N, *S', C)."""
    for tap in itertools.product(*map(range, windows.window)):
        starts = [t * d for t, d in zip(tap, windows.dilation, strict=True)]
        stops = [
            start + (count - 1) * stride + 1
            for start, count, stride in zip(starts, windows.output, windows.stride, strict=True)
        ]
        yield tap, lax.slice(x, (0, *starts, 0), (x.shape[0], *stops, x.shape[-1]), (1, *windows.stride, 1))
