"""The backward formulas of convolution, written out. `jax.grad` of conv gives the same numbers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from cnnjax.ops.checks import as_float_array, as_groups, check_conv_arrays, same_dtype
from cnnjax.ops.conv.api import conv_transpose
from cnnjax.ops.geometry import Ints, Padding, Windows, positive_sizes, slide
from cnnjax.ops.patches import map_taps, pad_spatial
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op


@public_op
def conv_input_grad(
    dy: jax.Array,
    w: jax.Array,
    x_shape: Sequence[int],
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    groups: int = 1,
) -> jax.Array:
    """Computes the gradient of a convolution in its input: the full correlation of dy with the turned kernel.

        dx[n, s, c] = sum over (o, t) with o * stride + t * dilation - low = s  of  sum_f dy[n, o, f] w[t, c, f]

    Args:
      dy: (N, *S', F), the gradient in y = conv(x, w).
      w: (*K, C // groups, F).
      x_shape: (N, *S, C), as several S give one S'.
      stride, padding, dilation, groups: those of that `conv`.

    Returns:
      (N, *S, C), equal to `jax.vjp(lambda x: conv(x, w), x)[1](dy)[0]`.

    Raises:
      TypeError, ValueError: as for conv, or dy's shape is not that of conv's output.

    Example:
      >>> w = jnp.array([1.0, 10.0]).reshape(2, 1, 1)
      >>> conv_input_grad(jnp.ones((1, 2, 1)), w, (1, 3, 1)).ravel()
      Array([ 1., 11., 10.], dtype=float32)

    References:
      Goodfellow, Bengio and Courville, Deep Learning, MIT Press 2016, equation 9.13.
    """
    dy, w = as_float_array("dy", dy), as_float_array("w", w)
    same_dtype(dy=dy, w=w)
    shape = _shape("x_shape", x_shape, has_batch=True)
    windows = _windows(shape, w.shape, dy, stride, padding, dilation, groups)
    geometry: dict[str, Any] = {"stride": windows.stride, "padding": windows.padding, "dilation": windows.dilation}
    return conv_transpose(dy, w, **geometry, output_shape=windows.sizes, groups=groups)


@public_op(has_batch=False)
def conv_kernel_grad(
    x: jax.Array,
    dy: jax.Array,
    w_shape: Sequence[int],
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    groups: int = 1,
) -> jax.Array:
    """Computes the gradient of a convolution in its kernel: the correlation of the input with the output's gradient.

        dw[t, c, f] = sum_n sum_o x[n, o * stride + t * dilation, c] dy[n, o, f], x padded

    Args:
      x: (N, *S, C).
      dy: (N, *S', F), the gradient in y = conv(x, w).
      w_shape: (*K, C // groups, F), as several K give one S'.
      stride, padding, dilation, groups: those of that `conv`.

    Returns:
      (*K, C // groups, F), equal to `jax.vjp(lambda w: conv(x, w), w)[1](dy)[0]`.

    Raises:
      TypeError, ValueError: as for conv, or dy's shape is not that of conv's output.

    Example:
      >>> x = jnp.array([1.0, 2.0, 3.0]).reshape(1, 3, 1)
      >>> conv_kernel_grad(x, jnp.ones((1, 2, 1)), (2, 1, 1)).ravel()
      Array([3., 5.], dtype=float32)

    References:
      Goodfellow, Bengio and Courville, Deep Learning, MIT Press 2016, equation 9.11.
    """
    x, dy = as_float_array("x", x), as_float_array("dy", dy)
    same_dtype(x=x, dy=dy)
    shape = _shape("w_shape", w_shape)
    groups = as_groups(groups)
    windows = _windows(x.shape, shape, dy, stride, padding, dilation, groups)
    return _kernel_grad(x, dy, shape, windows, groups)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _kernel_grad(x: jax.Array, dy: jax.Array, shape: tuple[int, ...], windows: Windows, groups: int) -> jax.Array:
    dtype, sum_dtype = x.dtype, accumulator_dtype(x.dtype)
    x = pad_spatial(x.astype(sum_dtype), windows.exact_padding)
    dy = dy.astype(sum_dtype).reshape(*dy.shape[:-1], groups, dy.shape[-1] // groups)

    def at_one_tap(seen: jax.Array) -> jax.Array:
        return jnp.einsum("n...gc,n...gf->cgf", seen.reshape(*seen.shape[:-1], groups, shape[-2]), dy)

    return map_taps(at_one_tap, x, windows).reshape(shape).astype(dtype)


def _shape(name: str, shape: Sequence[int], *, has_batch: bool = False) -> tuple[int, ...]:
    """Returns a shape as a tuple of positive ints; a batch may be empty, or a symbol of `jax.export`."""
    if has_batch and isinstance(shape, Sequence) and len(shape):
        batch = shape[0]
        if export.is_symbolic_dim(batch) or (isinstance(batch, int) and batch == 0):
            return (batch, *positive_sizes(name, shape[1:]))
    return positive_sizes(name, shape)


def _windows(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], dy: jax.Array, stride: Ints, padding: Padding, dilation: Ints,
    groups: int,
) -> Windows:  # fmt: skip
    """Places the windows of the convolution, after conv's own checks of shapes and one of dy's."""
    x, w = (jax.ShapeDtypeStruct(shape, dy.dtype) for shape in (x_shape, w_shape))
    check_conv_arrays(x, w, None, groups)  # it reads shapes alone
    windows = slide(x_shape[1:-1], w_shape[:-2], stride=stride, padding=padding, dilation=dilation)
    expected = (x_shape[0], *windows.output, w_shape[-1])
    if dy.shape != expected:
        raise ValueError(f"dy must have the shape of conv's output, {expected} for x {x_shape} and w {w_shape}, "
                         f"got {dy.shape}")  # fmt: skip
    return windows
