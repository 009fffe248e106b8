"""Convolutions whose kernels are not shared between places, or not linked to every channel."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.ops.checks import as_array, as_float_array, same_dtype, spatial_rank
from cnnjax.ops.conv.api import add_bias, conv
from cnnjax.ops.geometry import Ints, Padding, Sizes, Windows, per_dimension, slide
from cnnjax.ops.patches import unfold
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op


@public_op
def local_conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    window: Ints | None = None,
) -> jax.Array:
    """Convolves with a kernel of its own at each pixel: a locally connected layer.

        y[n, o, f] = b[f] + sum_t sum_c x[n, o * stride + t * dilation, c] w[o, t C + c, f]

    Args:
      x: (N, *S, C), one to three spatial dimensions.
      w: (*S', prod(K) C, F), of the same dtype; each place's kernel as `unfold` orders it.
      b: (F,), or (*S', F) for one bias at each place, or None.
      stride, padding, dilation: as for `conv`.
      window: K, an int or one int per spatial dimension. It may be left out where only one K has that
        many taps and gives S'.

    Returns:
      (N, *S', F). Sums are accumulated in float32 or better.

    Raises:
      TypeError: an argument is of the wrong kind, or x, w and b differ in dtype.
      ValueError: shapes disagree, or window is left out and several would do.

    Example:
      >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
      >>> w = jnp.array([[1.0, 1.0], [10.0, 0.0]]).reshape(2, 2, 1)
      >>> local_conv(x, w).ravel()
      Array([ 3., 20.], dtype=float32)

    References:
      LeCun, Generalization and network design strategies, 1989.
      Taigman et al., DeepFace, CVPR 2014.
    """
    x, w = as_float_array("x", x), as_float_array("w", w)
    b = None if b is None else as_float_array("b", b)
    same_dtype(x=x, w=w, b=b)
    rank = spatial_rank("x", x)
    if w.ndim != rank + 2 or 0 in w.shape or w.shape[-2] % x.shape[-1]:
        raise ValueError(
            f"w must be (*S', prod(K) C, F) with as many axes as x (N, *S, C), got x {x.shape}, w {w.shape}"
        )
    windows = _local_windows(x, w, window, stride, padding, dilation)
    if b is not None and b.shape not in ((w.shape[-1],), (*windows.output, w.shape[-1])):
        raise ValueError(f"b must have shape ({w.shape[-1]},) or {(*windows.output, w.shape[-1])}, got {b.shape}")
    sum_dtype = accumulator_dtype(x.dtype)
    geometry: dict[str, Any] = {"stride": windows.stride, "padding": windows.padding, "dilation": windows.dilation}
    cols = unfold(x.astype(sum_dtype), windows.window, **geometry)  # so that its gradient is summed in it too
    y = jnp.einsum("n...p,...pf->n...f", cols, w.astype(sum_dtype))
    return add_bias(y, b, x.dtype)


def _local_windows(
    x: jax.Array, w: jax.Array, window: Ints | None, stride: Ints, padding: Padding, dilation: Ints
) -> Windows:
    """Places the windows of local_conv: of the window given, or of the only one that w's shape leaves."""
    sizes, output, count = x.shape[1:-1], w.shape[:-2], w.shape[-2] // x.shape[-1]
    geometry: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    if window is not None:
        windows = slide(sizes, per_dimension("window", window, len(sizes)), **geometry)
        if windows.output != output or math.prod(windows.window) != count:
            expected = (*windows.output, math.prod(windows.window) * x.shape[-1], "F")
            raise ValueError(
                f"w must be {expected} for x {x.shape} and window {windows.window}, got {w.shape}".replace("'", "")
            )
        return windows
    fitting: list[Windows] = []
    problem = None
    for candidate in _factors(count, len(sizes)):
        try:
            windows = slide(sizes, candidate, **geometry)
        except ValueError as error:
            problem = error
            continue
        if windows.output == output:
            fitting.append(windows)
    if len(fitting) == 1:
        return fitting[0]
    found = f"any of {', '.join(str(windows.window) for windows in fitting)} would do" if fitting else "none does"
    raise ValueError(
        f"window must be given where not exactly one of {count} taps leads from x {x.shape} to w (*S', prod(K) C, F) "
        f"{w.shape} by stride {stride}, padding {padding!r}, dilation {dilation}: {found}"
    ) from problem


def _factors(count: int, rank: int) -> list[Sizes]:
    """Returns all windows of that many taps."""
    divisors = [k for k in range(1, count + 1) if count % k == 0]
    return [sizes for sizes in itertools.product(divisors, repeat=rank) if math.prod(sizes) == count]


@public_op
def connected_conv(
    x: jax.Array,
    w: jax.Array,
    table: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
) -> jax.Array:
    """Convolves by a table that says which input channels each output channel reads: LeNet-5's C3.

        y[n, o, f] = b[f] + sum over c with table[c, f]  of  sum_t x[n, o * stride + t, c] w[t, c, f]

    Args:
      x: (N, *S, C), one to three spatial dimensions.
      w: (*K, C, F), of the same dtype. Weights without a link are not read: their gradient is 0.
      table: (C, F) bool.
      b: (F,) or None.
      stride, padding: as for `conv`.

    Returns:
      (N, *S', F). NaN and infinities of x reach the outputs that are not linked to them too, as NaN.

    Raises:
      TypeError, ValueError: as for `conv`, or table is not bool or not (C, F).

    Example:
      >>> x = jnp.array([[[1.0, 2.0]]])
      >>> connected_conv(x, jnp.ones((1, 2, 3)), jnp.array([[True, False, True], [False, True, True]]))
      Array([[[1., 2., 3.]]], dtype=float32)

    References:
      LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition,
      Proc. IEEE 1998, table I.
    """
    w, table = as_float_array("w", w), as_array("table", table)
    if table.dtype != bool:
        raise TypeError(f"table must be a bool array, got {table.dtype}")
    if w.ndim < 2 or table.shape != w.shape[-2:]:
        raise ValueError(f"table must be (C, F), the last two axes of w {w.shape}, got shape {table.shape}")
    return conv(x, jnp.where(table, w, 0), b, stride=stride, padding=padding)
