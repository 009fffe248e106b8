"""Where the windows of a pool stand, and what they read of an array."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.checks import pooled_rank
from cnnjax.ops.geometry import Ints, Padding, Sizes, Windows, per_dimension, real_taps, require_real_taps, slide
from cnnjax.ops.patches import pad_spatial, summed_columns


def slide_pool(
    x: jax.Array,
    window: Ints,
    stride: Ints | None,
    padding: Padding,
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Windows:
    """Places the windows of a pool over x `(N, *S, C)`; refuses windows that lie wholly in the padding."""
    rank = pooled_rank(x, window)
    window = per_dimension("window", window, rank)
    windows = slide(
        x.shape[1:-1],
        window,
        stride=window if stride is None else stride,
        padding=padding,
        dilation=dilation,
        ceil_mode=ceil_mode,
    )
    require_real_taps(windows)
    return windows


def overlapping(windows: Windows) -> bool:
    """True where an element may be in several windows."""
    return any(extent > stride for extent, stride in zip(windows.extents, windows.stride, strict=True))


def counts(windows: Windows, *, include_padding: bool) -> np.ndarray:
    """Counts the elements of each window: one number, or `(1, *S', 1)` where they differ."""
    per_axis = [real_taps(windows, axis, padded=include_padding) for axis in range(len(windows.sizes))]
    if all(min(each) == max(each) for each in per_axis):
        return np.asarray(math.prod(each[0] for each in per_axis))
    return functools.reduce(np.multiply, np.ix_(*per_axis))[None, ..., None]


def padded(x: jax.Array, windows: Windows, value: float | jax.Array = 0) -> jax.Array:
    """Pads x, or crops it, to where the last window ends."""
    # cropped first: a last window of ceil_mode must not reach what a crop has taken away
    crop = tuple((0, min(high, 0)) for _, high in windows.padding)
    rest = tuple((low, high - cropped) for (low, high), (_, cropped) in zip(windows.exact_padding, crop, strict=True))
    return pad_spatial(pad_spatial(x, crop), rest, value=value)  # type: ignore[arg-type]


def unpadded(covered: jax.Array, windows: Windows) -> jax.Array:
    """Crops an array over all that the windows cover to the sizes of x; where no window reaches it is zero."""
    ends = zip(windows.sizes, windows.padding, covered.shape[1:-1], strict=True)
    return pad_spatial(covered, tuple((-low, size + low - whole) for size, (low, _), whole in ends))


@functools.partial(jax.jit, static_argnums=1)
def elements(x: jax.Array, windows: Windows, pad_value: float | jax.Array = 0) -> jax.Array:
    """Copies out the elements of each window, row-major: `(N, *S', prod(K), C)`."""
    cols = summed_columns(padded(x, windows, pad_value), windows)
    return cols.reshape(*cols.shape[:-1], math.prod(windows.window), x.shape[-1])


def slices_along(x: jax.Array, windows: Windows, axis: int) -> list[jax.Array]:
    """Slices the padded x along one spatial dimension: for each tap of the window the elements that it reads."""
    stride, dilation = windows.stride[axis], windows.dilation[axis]
    span = (windows.output[axis] - 1) * stride + 1
    starts = [tap * dilation for tap in range(windows.window[axis])]
    return [lax.slice_in_dim(x, start, start + span, stride, axis + 1) for start in starts]


def tiled_sizes(windows: Windows) -> Sizes:
    """Returns the spatial sizes that windows cover which stand side by side."""
    return tuple(count * extent for count, extent in zip(windows.output, windows.extents, strict=True))


def split_sizes(windows: Windows) -> Sizes:
    """Returns these sizes split into windows and their elements: `(S1', K1, S2', K2, ...)`."""
    return tuple(part for pair in zip(windows.output, windows.extents, strict=True) for part in pair)


def nan_checked(y: jax.Array) -> jax.Array:
    """Passes y through an operation that checkify's float checks look at, an empty padding, which XLA removes."""
    return lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0)] * y.ndim)
