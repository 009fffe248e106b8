"""A convolution that reads where it is told to: deformable convolution."""

import itertools
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops.checks import as_float_array, check_conv_arrays, same_dtype
from cnnjax.ops.conv.api import add_bias
from cnnjax.ops.geometry import Ints, Padding, Windows, as_int, slide
from cnnjax.ops.patches import pad_spatial
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op


@public_op
def deform_conv(
    x: jax.Array,
    w: jax.Array,
    offset: jax.Array,
    mask: jax.Array | None = None,
    b: jax.Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    groups: int = 1,
    offset_groups: int = 1,
) -> jax.Array:
    """Convolves with taps that are displaced, by an amount of their own at each pixel ("deformable").

        y[n, o, f] = b[f] + sum_t sum_c mask[n, o, t] x[n, o * stride + t * dilation + offset[n, o, t], c] w[t, c, f]

    where x between pixels is interpolated linearly (bilinearly in two dimensions), and is zero outside: a
    position between -1 and 0 still sees pixel 0.

    Args:
      x: (N, *S, C), one to three spatial dimensions.
      w: (*K, C // groups, F), of the same dtype and number of axes.
      offset: (N, *S', offset_groups prod(K) rank), of the same dtype: per offset group and tap, row-major,
        the displacements in pixels in axis order (row, column).
      mask: (N, *S', offset_groups prod(K)), of the same dtype: per offset group and tap a factor; or None.
      b: (F,) or None.
      stride, padding, dilation, groups: as for `conv`.
      offset_groups: divides C; the channels of a group are read at the same positions.

    Returns:
      (N, *S', F). Positions are computed and sums accumulated in float32 or better. At whole positions,
      where x has a kink, the derivative in offset is that towards larger positions. A NaN in offset makes
      NaN of the outputs that it displaces; one in x reaches those too that read beside it by a whole offset.

    Raises:
      TypeError: an argument is of the wrong kind, or the arrays differ in dtype.
      ValueError: shapes disagree, or the window is larger than the padded input.

    Example:
      >>> x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)
      >>> offset = jnp.array([0.0, 0.5, 0.75]).reshape(1, 3, 1)
      >>> deform_conv(x, jnp.ones((1, 1, 1)), offset).ravel() # the last: a quarter of 4, the rest is outside
      Array([1., 3., 1.], dtype=float32)

    References:
      Dai et al., Deformable convolutional networks, ICCV 2017, arXiv:1703.06211.
      Zhu et al., Deformable ConvNets v2, CVPR 2019, arXiv:1811.11168 (the mask).
      `torchvision.ops.deform_conv2d`, there with the channels first, in the same order.
    """
    x, w, offset = as_float_array("x", x), as_float_array("w", w), as_float_array("offset", offset)
    mask = None if mask is None else as_float_array("mask", mask)
    b = None if b is None else as_float_array("b", b)
    same_dtype(x=x, w=w, offset=offset, mask=mask, b=b)
    groups = check_conv_arrays(x, w, b, groups)
    offset_groups = as_int("offset_groups", offset_groups)
    if offset_groups < 1 or x.shape[-1] % offset_groups:
        raise ValueError(
            f"offset_groups must be at least 1 and divide x's channels, got {offset_groups} for x {x.shape}"
        )
    windows = slide(x.shape[1:-1], w.shape[:-2], stride=stride, padding=padding, dilation=dilation)
    rank, taps = len(windows.window), math.prod(windows.window)
    _check_per_tap("offset", offset, x, windows, offset_groups * taps * rank, "offset_groups prod(K) rank")
    if mask is not None:
        _check_per_tap("mask", mask, x, windows, offset_groups * taps, "offset_groups prod(K)")
    if 0 in x.shape:
        return jnp.zeros((0, *windows.output, w.shape[-1]), x.dtype)
    return _deform_conv(x, w, offset, mask, b, windows, groups, offset_groups)


def _check_per_tap(name: str, array: jax.Array, x: jax.Array, windows: Windows, channels: int, meaning: str) -> None:
    expected = (x.shape[0], *windows.output, channels)
    if array.shape != expected:
        turned = array.shape == (x.shape[0], channels, *windows.output)
        hint = f"; it looks channels-first: jnp.moveaxis({name}, 1, -1)" if turned else ""
        raise ValueError(f"{name} must be (N, *S', {meaning}), here {expected}, got {array.shape}{hint}")


@partial(jax.jit, static_argnums=(5, 6, 7))
def _deform_conv(
    x: jax.Array,
    w: jax.Array,
    offset: jax.Array,
    mask: jax.Array | None,
    b: jax.Array | None,
    windows: Windows,
    groups: int,
    offset_groups: int,
) -> jax.Array:
    out_dtype, sum_dtype = x.dtype, accumulator_dtype(x.dtype)
    x, w, offset, mask, b = jax.tree.map(lambda array: array.astype(sum_dtype), (x, w, offset, mask, b))
    n, channels = x.shape[0], x.shape[-1]
    rank, taps = len(windows.window), math.prod(windows.window)
    # per place, tap and offset group, the order of the channels of what is read
    offset = jnp.swapaxes(offset.reshape(n, *windows.output, offset_groups, taps, rank), -3, -2)
    seen = _sampled(x, offset, windows)
    if mask is not None:
        seen = seen * jnp.swapaxes(mask.reshape(n, *windows.output, offset_groups, taps), -2, -1)[..., None]
    seen = seen.reshape(n, *windows.output, taps, groups, channels // groups)
    y = jnp.einsum("n...tgc,tcgf->n...gf", seen, w.reshape(taps, channels // groups, groups, -1))
    y = y.reshape(n, *windows.output, w.shape[-1])
    return add_bias(y, b, out_dtype)


def _sampled(x: jax.Array, offset: jax.Array, windows: Windows) -> jax.Array:
    """Samples x (N, *S, C) under the displaced taps, by offset (N, *S', T, G, rank): (N, *S', T, G, C // G).

    x[p] = sum over the corners i of p's cell of  x[i] prod over axes of (1 - |p - i|)
    """
    # a negative padding crops, and what it crops is outside too
    x = pad_spatial(x, tuple((min(low, 0), min(high, 0)) for low, high in windows.padding))
    n, *sizes, channels = x.shape
    rank, groups = len(sizes), offset.shape[-2]
    tap = np.indices(windows.window).reshape(rank, -1, 1)
    cells, fractions = [], []
    for axis, (size, count) in enumerate(zip(sizes, windows.output, strict=True)):
        start = np.arange(count) * windows.stride[axis] - max(windows.padding[axis][0], 0)
        start = start.reshape(*(1,) * (axis + 1), -1, *(1,) * (rank - axis + 1))  # along (N, *S', T, G)
        grid = jnp.asarray(start + tap[axis] * windows.dilation[axis], offset.dtype)
        # far outside is as good as two pixels outside, and stays within the integers
        position = jnp.clip(grid + offset[..., axis], -2, size + 1)
        cell = jnp.floor(position)
        cells.append(cell)
        fractions.append(position - cell)

    # one row per pixel and group, so that a corner is read by a single index
    x = x.reshape(n, math.prod(sizes) * groups, channels // groups)
    total: Any = 0
    for corner in itertools.product((0, 1), repeat=rank):
        index, weight = jnp.zeros(offset.shape[:-1], jnp.int32), jnp.ones((), x.dtype)
        inside = jnp.ones((), bool)
        for size, cell, fraction, step in zip(sizes, cells, fractions, corner, strict=True):
            at = cell + step
            inside &= (at >= 0) & (at < size)
            index = index * np.int32(size) + at.astype(jnp.int32)
            weight = weight * (fraction if step else 1 - fraction)
        # what is outside, NaN too, gets an index beyond the end, where the value is 0
        group = np.arange(groups, dtype=np.int32).reshape(*(1,) * (index.ndim - 1), groups)
        index = jnp.where(inside, index * np.int32(groups) + group, x.shape[1])
        value = jnp.take_along_axis(x, index.reshape(n, -1, 1), axis=1, mode="fill", fill_value=0)
        total += weight[..., None] * value.reshape(*index.shape, -1)
    return total
