"""Kinds of convolution made of `conv`: true, depthwise, separable."""

import jax
import jax.numpy as jnp

from cnnjax.ops.checks import DType, Precision, as_float_array, same_dtype
from cnnjax.ops.conv.api import conv
from cnnjax.ops.geometry import Ints, Padding
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op


@public_op
def true_conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    dilation: Ints = 1,
    input_dilation: Ints = 1,
    groups: int = 1,
    algorithm: str = "auto",
    precision: Precision = None,
    preferred_element_type: DType | None = None,
) -> jax.Array:
    """Computes the convolution of mathematics: `conv` with the kernel turned about all its axes.

        y[n, o, f] = b[f] + sum_t sum_c x[n, o * stride + (k - 1 - t) * dilation, c] w[t, c, f]

    With padding "FULL" y[s] is the sum of x[s - t] w[t]: it commutes, and polynomials multiply by it.

    Args:
      x: (N, *S, C).
      w: (*K, C // groups, F).
      b: (F,) or None.
      stride, padding, padding_mode, dilation, input_dilation, groups, algorithm, precision,
        preferred_element_type: as for `conv`. `scipy.signal.convolve`'s modes "full", "valid"
        and "same" are the paddings "FULL", "VALID" and "SAME_LOWER".

    Returns:
      (N, *S', F).

    Raises:
      TypeError, ValueError: as for `conv`.

    Example:
      >>> x = jnp.array([1.0, 2.0]).reshape(1, 2, 1)
      >>> true_conv(x, jnp.array([3.0, 4.0]).reshape(2, 1, 1), padding="FULL").ravel() # (1 + 2z) (3 + 4z)
      Array([ 3., 10.,  8.], dtype=float32)

    References:
      Goodfellow, Bengio and Courville, Deep Learning, MIT Press 2016, section 9.1.
    """
    w = as_float_array("w", w)
    return conv(
        x,
        jnp.flip(w, range(max(w.ndim - 2, 0))),
        b,
        stride=stride,
        padding=padding,
        padding_mode=padding_mode,
        dilation=dilation,
        input_dilation=input_dilation,
        groups=groups,
        algorithm=algorithm,
        precision=precision,
        preferred_element_type=preferred_element_type,
    )


@public_op
def depthwise_conv(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    dilation: Ints = 1,
) -> jax.Array:
    """Convolves each channel by itself with M kernels, without a sum over channels.

        y[n, o, c M + m] = b[c M + m] + sum_t x[n, o * stride + t * dilation, c] w[t, c, m]

    Args:
      x: (N, *S, C).
      w: (*K, C, M), of the same dtype and number of axes.
      b: (C M,) or None.
      stride, padding, padding_mode, dilation: as for `conv`.

    Returns:
      (N, *S', C M).

    Raises:
      TypeError, ValueError: as for `conv`.

    Example:
      >>> x = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
      >>> depthwise_conv(x, jnp.array([[[1.0, 10.0], [1.0, 10.0]]]))[0]
      Array([[ 1., 10.,  2., 20.],
             [ 3., 30.,  4., 40.]], dtype=float32)

    References:
      Sifre, Rigid-motion scattering for image classification, PhD thesis, 2014.
      Howard et al., MobileNets, arXiv:1704.04861.
    """
    x, w = as_float_array("x", x), as_float_array("w", w)
    same_dtype(x=x, w=w)
    _check_depthwise_kernel("w", x, w)
    channels, multiplier = w.shape[-2:]
    w = w.reshape(*w.shape[:-2], 1, channels * multiplier)
    return conv(x, w, b, stride=stride, padding=padding, padding_mode=padding_mode, dilation=dilation, groups=channels)


@public_op
def separable_conv(
    x: jax.Array,
    w_depth: jax.Array,
    w_point: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    padding_mode: str = "zeros",
    dilation: Ints = 1,
) -> jax.Array:
    """Computes a `depthwise_conv`, and a product over its channels at each pixel.

        y[n, o, f] = b[f] + sum_c sum_m (sum_t x[n, o * stride + t * dilation, c] w_depth[t, c, m]) w_point[c M + m, f]

    Args:
      x: (N, *S, C).
      w_depth: (*K, C, M), of the same dtype and number of axes.
      w_point: (C M, F), or (1, ..., 1, C M, F) with as many axes as x.
      b: (F,) or None.
      stride, padding, padding_mode, dilation: those of the depthwise convolution, as for `conv`.

    Returns:
      (N, *S', F).

    Raises:
      TypeError, ValueError: as for `conv`.

    Example:
      >>> x = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
      >>> separable_conv(x, jnp.ones((2, 2, 1)), jnp.array([[1.0], [10.0]]))
      Array([[[64.]]], dtype=float32)

    References:
      Chollet, Xception: deep learning with depthwise separable convolutions, CVPR 2017.
    """
    x, w_depth, w_point = (
        as_float_array(name, value) for name, value in (("x", x), ("w_depth", w_depth), ("w_point", w_point))
    )
    b = None if b is None else as_float_array("b", b)
    same_dtype(x=x, w_depth=w_depth, w_point=w_point, b=b)
    _check_depthwise_kernel("w_depth", x, w_depth)
    ones, middle = (1,) * (x.ndim - 2), w_depth.shape[-2] * w_depth.shape[-1]
    if w_point.shape[:-1] not in ((middle,), (*ones, middle)) or not w_point.shape[-1]:
        raise ValueError(
            f"w_point must be (C M, F) or {(*ones, 'C M', 'F')}, C M = {middle} of w_depth {w_depth.shape}, "
            f"got shape {w_point.shape}".replace("'", "")
        )
    # what lies between the two is kept in float32 or better
    dtype, wide = x.dtype, accumulator_dtype(x.dtype)
    y = conv(
        x,
        w_depth.reshape(*w_depth.shape[:-2], 1, middle),
        stride=stride,
        padding=padding,
        padding_mode=padding_mode,
        dilation=dilation,
        groups=x.shape[-1],
        preferred_element_type=wide,
    )
    w_point = w_point.reshape(*ones, *w_point.shape[-2:]).astype(wide)
    return conv(y, w_point, None if b is None else b.astype(wide), preferred_element_type=dtype)


def _check_depthwise_kernel(name: str, x: jax.Array, w: jax.Array) -> None:
    if w.ndim not in (3, 4, 5) or x.ndim != w.ndim or x.shape[-1] != w.shape[-2] or 0 in w.shape:
        raise ValueError(
            f"{name} must be (*K, C, M) and x (N, *S, C), of the same number of axes and channels C, with one "
            f"to three spatial dimensions and no empty axis but x's batch, got x {x.shape}, {name} {w.shape}"
        )
