"""``flax.nnx`` modules over ``cnnjax.ops``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax import ops


class Conv(nnx.Module):
    """`ops.conv` with a kernel and a bias of its own.

    x (N, *S, in_features) -> (N, *S', out_features). The kernel is (*window, in_features // groups, out_features).

    Args:
      in_features, out_features: channels.
      window: one int per spatial dimension.
      use_bias: whether there is a bias, zero at first.
      kernel_init: how the kernel is drawn; by default LeCun normal, variance 1 / fan_in.
      dtype: of the computation; by default that of x. Parameters are float32.
      rngs: where the kernel is drawn from.
      **keywords: those of `ops.conv`: stride, padding, padding_mode, dilation, input_dilation, groups, algorithm, ...

    >>> from flax import nnx
    >>> layer = Conv(1, 6, (5, 5), padding=2, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((2, 28, 28, 1))).shape
    (2, 28, 28, 6)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: Sequence[int],
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: Any = None,
        rngs: nnx.Rngs,
        **keywords: Any,
    ):
        init = nnx.initializers.lecun_normal() if kernel_init is None else kernel_init
        shape = (*window, in_features // keywords.get("groups", 1), out_features)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_features,))) if use_bias else None
        self.dtype = dtype
        self.keywords = nnx.static(keywords)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the convolution to x (N, *S, in_features)."""
        dtype = self.dtype or x.dtype
        bias = None if self.bias is None else self.bias[...].astype(dtype)
        return ops.conv(x.astype(dtype), self.kernel[...].astype(dtype), bias, **self.keywords)
