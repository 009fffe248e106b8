"""The units of LeNet-5 as published: linked convolution, trained subsampling, distances to centres.

References:
  LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from cnnjax import ops
from cnnjax.layers.base import Buffer, Layer
from cnnjax.layers.geometry import Ints, Padding, WindowGeometry, place_windows
from cnnjax.layers.kernel_layer import KernelLayer, Window, window_of
from cnnjax.ops.counts import Counts, conv_counts, subsample_counts
from cnnjax.ops.geometry import Sizes


class ConnectedKeywords(TypedDict, total=False):
    """The keywords of `ops.connected_conv`."""

    stride: Ints
    padding: Padding


class ConnectedConv(KernelLayer):
    """`ops.connected_conv`: a table says which channels each output sees, as in LeNet-5's C3.

    x `(N, *S, C)` -> `(N, *S', F)`. The kernel is `(*window, C, F)`, zero where there is no link.

    Args:
      table: `(C, F)` bool, which input each output is linked to; at least one each.
      window: one int per spatial dimension.
      use_bias: whether there is a bias, zero at first.
      kernel_init: by default normal with variance 1 / fan_in, where fan_in counts the links of the output alone.
      dtype: of the computation; by default that of x.
      rngs: where the kernel is drawn from.
      **keywords: those of `ops.connected_conv`: stride, padding.
    """

    _op = staticmethod(ops.connected_conv)

    def __init__(
        self,
        table: np.ndarray | jax.Array | Sequence[Sequence[bool]],
        window: Window,
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **keywords: Unpack[ConnectedKeywords],
    ):
        links = np.asarray(table)
        if links.dtype != bool or links.ndim != 2 or not links.any(0).all():
            raise ValueError(
                f"table must be a (C, F) bool array with a link for each output, got {links.dtype} {links.shape}"
            )
        taps = window_of(window)
        fan_in = math.prod(taps) * links.sum(0)

        def scaled_normal(key: jax.Array, shape: Sizes, dtype: Any) -> jax.Array:
            return jax.random.normal(key, shape, dtype) / jnp.sqrt(jnp.broadcast_to(fan_in, shape).astype(dtype))

        def linked(key: jax.Array, shape: Sizes, dtype: Any = jnp.float32) -> jax.Array:
            return jnp.where(np.broadcast_to(links, shape), (kernel_init or scaled_normal)(key, shape, dtype), 0)

        bias = links.shape[1:] if use_bias else None
        super().__init__(linked, (*taps, *links.shape), bias, dtype=dtype, rngs=rngs, keywords=keywords)
        self.table = Buffer(jnp.asarray(links))
        self.links = int(links.sum())

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the convolution to x `(N, *S, C)`."""
        x, kernel, bias = self._cast(x)
        return ops.connected_conv(x, kernel, self.table[...], bias, **self.keywords)

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns parameters, connections and multiply-accumulates of the links that there are."""
        *outputs, features = y_shape
        return conv_counts(outputs, self._window, x_shape[-1], features, links=self.links, bias=self.bias is not None)


class Subsample(Layer):
    """LeNet-5's subsampling: the sum of each window times one trained factor per map, plus one bias per map.

        y = factor * (sum of the window) + bias

    x `(N, *S, features)` -> `(N, *S', features)`. The windows do not overlap.

    Args:
      features: channels.
      window: one int per spatial dimension.
      factor_init: draws the factor `(features,)`; by default 1 / prod(window), the mean.
      rngs: where the factor is drawn from.

    References:
      LeCun et al., 1998, section II.B.
    """

    def __init__(self, features: int, window: Window, *, factor_init: nnx.Initializer | None = None, rngs: nnx.Rngs):
        self.window = window_of(window)
        init = factor_init or nnx.initializers.constant(1 / math.prod(self.window))
        self.factor = nnx.Param(init(rngs.params(), (features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,), jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Subsamples x `(N, *S, features)`."""
        sums = ops.avg_pool(x, self.window, divisor_override=1)
        factor, bias = (
            param[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)) for param in (self.factor, self.bias)
        )
        return factor * sums + bias

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns windows that do not overlap."""
        return place_windows(x_shape[:-1], self.window, self.window)

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns parameters, connections and multiply-accumulates as the paper counts them."""
        *outputs, features = y_shape
        return subsample_counts(outputs, self.window, features)


class RBF(Layer):
    """LeNet-5's output units: the squared distance of x to fixed centres.

        y[n, m] = sum_j (x[n, j] - centres[m, j])^2

    x `(N, D)` -> `(N, M)`. The nearest centre has the smallest y.

    Args:
      centres: `(M, D)`; they are not trained.

    Example:
      >>> RBF(jnp.array([[1.0, 1.0], [1.0, -1.0]]))(jnp.array([[1.0, 0.0]]))
      Array([[1., 1.]], dtype=float32)

    References:
      LeCun et al., 1998, equation 7.
    """

    def __init__(self, centres: ArrayLike | Sequence[Sequence[float]]):
        self.centres = Buffer(jnp.asarray(centres, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the squared distances of x `(N, D)` to the centres."""
        return jnp.square(x[:, None, :] - self.centres[...].astype(x.dtype)[None]).sum(-1)

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns no parameters, and one connection and multiply-accumulate per coordinate."""
        return Counts(0, self.centres.size, self.centres.size)
