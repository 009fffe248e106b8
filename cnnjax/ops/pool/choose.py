"""Every rule by which a pool's form is chosen, and every limit in them.

    what is computed            form            chosen where
    ------------------------    ------------    -------------------------------------------------------------
    sums of windows             axes            at most `SUM_TAPS` taps, counted along each axis and added up
                                reduce_window   more
    their transpose             repeat          windows tile x
                                transpose       else: XLA's transpose of the sums
    sums over channels          product         on a TPU, which shifts channels slowly and multiplies matrices fast
                                windows         else
    largest elements            taps            at most `FEW_TAPS` taps, no padding on the low side
                                axes            else
    elements at the winners     gather          more than `UNROLLED_TAPS` taps
                                tiles           the extents of windows tile x
                                taps            else
    their transpose             transpose       dilated, or more than `UNROLLED_TAPS` taps
                                tiles           on the CPU, windows tile x, fewer than `FULL_VECTOR` channels
                                at once         on a TPU, windows tile x, after a norm
                                shifts          else
    both, on a TPU              reduce_window   windows that overlap, not dilated
    adaptive pools              usual           windows alike and as far apart, at most `UNROLLED_TAPS` along all axes
                                rows            else
    rows of indices             taps            alike in all examples, of at most `SUM_TAPS` indices
                                table           else
    what a gradient keeps       offsets         offsets of at most `KEPT_BYTES`, or a symbolic batch
                                input           more: the winners are found again
    how much at once            whole           temporaries of at most `BLOCK_BYTES`, any platform but one CPU device
                                blocks          more, on one CPU device (`block_sizes`)

Where no platform is named the forms are the same on all. Blocks are for the CPU alone, whose compiler writes down
padded copies that other compilers fuse away; the TPU's compiler writes down each slice of windows that overlap, but has
XLA's reduce_window and select_and_scatter in its hardware's layout.
"""

import math
from typing import Any, Literal

import numpy as np

from cnnjax.ops.geometry import Windows, largest_divisor

#: Taps of a window that are compared one after the other: beyond, one axis after the other takes fewer comparisons.
FEW_TAPS = 8

#: Taps, counted along each axis and added up, each with a slice of its own: beyond, reduce_window compiles faster.
SUM_TAPS = 32

#: Taps with a piece of the program each: beyond, compiling takes seconds.
UNROLLED_TAPS = 64

#: Channels that fill a vector register: below, XLA computes the winners again for each pixel of a tile.
FULL_VECTOR = 16

#: Bytes of argmax offsets that a gradient may keep beyond lax's, which keeps none.
KEPT_BYTES = 2**24

#: Bytes of temporary arrays that a pool may take at once on the CPU: with `KEPT_BYTES` 64 MiB.
BLOCK_BYTES = 48 * 2**20


def sum_form(windows: Windows) -> Literal["axes", "reduce_window"]:
    """Chooses how windows are summed."""
    return "axes" if sum(windows.window) <= SUM_TAPS else "reduce_window"


def sum_transpose_form(windows: Windows) -> Literal["repeat", "transpose"]:
    """Chooses how the sums of windows are transposed."""
    tiling = windows.stride == windows.window and max(windows.dilation) == 1 and min(map(min, windows.padding)) >= 0
    return "repeat" if tiling else "transpose"


def channel_sum_form(platform: str) -> Literal["product", "windows"]:
    """Chooses how neighbouring channels are summed."""
    return "product" if platform == "tpu" else "windows"


def max_form(windows: Windows) -> Literal["taps", "axes"]:
    """Chooses how the largest elements are found."""
    few = math.prod(windows.window) <= FEW_TAPS and all(low <= 0 for low, _ in windows.padding)
    return "taps" if few else "axes"


def is_reduce_window(windows: Windows, platform: str) -> bool:
    """True where the largest elements are found by reduce_window, and scattered to by select_and_scatter."""
    return (
        platform == "tpu"
        and max(windows.dilation) == 1
        and any(k > s for k, s in zip(windows.window, windows.stride, strict=True))
    )


def is_pooled_with_norm(windows: Windows) -> bool:
    """True where a batch norm in front of a maximum normalises the winners alone."""
    return _tile_exactly(windows) and math.prod(windows.window) <= FEW_TAPS


def gather_form(windows: Windows) -> Literal["gather", "tiles", "taps"]:
    """Chooses how the elements at the winners are gathered."""
    if math.prod(windows.window) > UNROLLED_TAPS:
        return "gather"
    return "tiles" if windows.stride == windows.extents else "taps"


def scatter_form(
    windows: Windows, channels: int, platform: str, written: bool
) -> Literal["transpose", "tiles", "at once", "shifts"]:
    """Chooses how values are scattered to the winners.

    Args:
      windows: of the pool.
      channels: of the values.
      platform: that computes it.
      written: whether the result should be written once where its readers would each compute it again: right for
        several readers of all of it, wrong where one is a sum.
    """
    if max(windows.dilation) > 1 or math.prod(windows.window) > UNROLLED_TAPS:
        return "transpose"
    if windows.stride == windows.window and platform == "tpu" and written:
        return "at once"
    return "tiles" if windows.stride == windows.window and channels < FULL_VECTOR and platform == "cpu" else "shifts"


def adaptive_form(window: tuple[int, ...]) -> Literal["usual", "rows"]:
    """Chooses how an adaptive pool is computed whose windows are all alike and as far apart."""
    return "usual" if sum(window) <= UNROLLED_TAPS else "rows"


def row_form(indices: int) -> Literal["taps", "table"]:
    """Chooses how rows of so many indices are read, where they are alike in all examples and channels."""
    return "taps" if indices <= SUM_TAPS else "table"


def keeps_offsets(windows: Windows, batch: Any, channels: int, dtype: np.dtype) -> bool:
    """True where a gradient keeps the argmax offsets, of a dtype; else it keeps the input, and finds them again."""
    if not isinstance(batch, int):
        return True
    return batch * math.prod(windows.output) * channels * dtype.itemsize <= KEPT_BYTES


def sum_temporaries(windows: Windows, x_bytes: int, y_bytes: int, *, transposed: bool) -> int:
    """Estimates the bytes of temporary arrays that sums of windows take, or their transpose."""
    if transposed and sum_transpose_form(windows) == "repeat":
        return 0
    if sum_form(windows) == "reduce_window":
        return y_bytes if transposed else 0
    if not transposed:
        return 0 if _tile_exactly(windows) else x_bytes
    # along each axis one padded array per tap, of which half stand at once
    return math.ceil(x_bytes * sum(k / s for k, s in zip(windows.window, windows.stride, strict=True)) / 2)


def max_temporaries(windows: Windows, x_bytes: int) -> int:
    """Estimates the bytes of temporary arrays that the largest elements take: one padded copy."""
    return 0 if _tile(windows) else x_bytes


def winner_temporaries(windows: Windows, x_bytes: int, y_bytes: int) -> int:
    """Estimates the bytes of temporary arrays that gathering at the winners takes, or scattering to them."""
    form = gather_form(windows)
    if form == "gather":  # indices and their masks, four bytes each
        return x_bytes + 6 * y_bytes
    return 0 if _tile(windows) else x_bytes + 3 * y_bytes


def plane_temporaries(elements: int) -> int:
    """Estimates the bytes of temporary arrays that the first maximum of a plane takes: int32 positions."""
    return 4 * elements


def index_temporaries(indices: int) -> int:
    """Estimates the bytes of temporary arrays that gathering by so many indices takes: int32 triples, and masks."""
    return 20 * indices


def row_temporaries(elements: int, itemsize: int) -> int:
    """Estimates the bytes of temporary arrays that maxima by index take: the elements, and their int32 indices."""
    return elements * (itemsize + 4)


def row_mean_temporaries(x_bytes: int) -> int:
    """Estimates the bytes of temporary arrays that means by index take: rows that overlap cover x about twice."""
    return 2 * x_bytes


def unpool_temporaries(elements: int) -> int:
    """Estimates the bytes of temporary arrays that unpooling to so many elements takes: int32 positions."""
    return 4 * elements


def block_sizes(batch: int, channels: int, temporary_bytes: int) -> tuple[int, int]:
    """Divides examples, and then channels, so that the temporary arrays of a block take `BLOCK_BYTES` or less."""
    if temporary_bytes <= BLOCK_BYTES:
        return batch, channels
    examples = largest_divisor(batch, batch * BLOCK_BYTES // temporary_bytes)
    if temporary_bytes <= BLOCK_BYTES * batch:
        return examples, channels
    return examples, largest_divisor(channels, channels * batch * BLOCK_BYTES // temporary_bytes)


def _tile(windows: Windows) -> bool:
    """True where windows without holes stand side by side from the first pixel on; pixels may be left at the end."""
    return windows.stride == windows.window and max(windows.dilation) == 1 and not any(map(any, windows.padding))


def _tile_exactly(windows: Windows) -> bool:
    """True where windows without holes cover x, each pixel once."""
    covered = (s * n == size for s, n, size in zip(windows.stride, windows.output, windows.sizes, strict=True))
    return _tile(windows) and all(covered)
