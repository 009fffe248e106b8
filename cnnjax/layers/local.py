"""A convolution without shared weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Unpack

from flax import nnx
from jax.typing import DTypeLike

from cnnjax import ops
from cnnjax.layers.base import freeze, own_params
from cnnjax.layers.kernel_layer import KernelLayer, LocalKeywords, Window, window_of
from cnnjax.ops.checks import check_keywords
from cnnjax.ops.counts import Counts
from cnnjax.ops.geometry import Sizes


class LocalConv(KernelLayer):
    """`ops.local_conv`: a kernel of its own at each pixel, so the size of the image is fixed.

    x `(N, *spatial_shape, in_features)` -> `(N, *S', out_features)`. The kernel is `(*S', prod(window) * in_features,
    out_features)`, the bias `(*S', out_features)`.

    Args:
      spatial_shape: of x.
      in_features: channels of x.
      out_features: channels of the output.
      window: one int per spatial dimension.
      use_bias: whether there is a bias, zero at first.
      kernel_init: by default LeCun normal with the window times in_features as fan-in.
      dtype: of the computation; by default that of x.
      rngs: where the kernels are drawn from.
      **keywords: those of `ops.local_conv`: stride, padding, dilation.
    """

    _op = staticmethod(ops.local_conv)

    def __init__(
        self,
        spatial_shape: Sequence[int],
        in_features: int,
        out_features: int,
        window: Window,
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **keywords: Unpack[LocalKeywords],
    ):
        check_keywords(type(self).__name__, keywords, list(LocalKeywords.__annotations__))
        taps = window_of(window)
        outputs = ops.output_shape(spatial_shape, taps, **freeze(keywords))
        shape = (*outputs, math.prod(taps) * in_features, out_features)
        init = kernel_init or nnx.initializers.lecun_normal(batch_axis=tuple(range(len(outputs))))
        bias = (*outputs, out_features) if use_bias else None
        super().__init__(init, shape, bias, dtype=dtype, rngs=rngs, keywords={**keywords, "window": taps})

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns parameters, connections and multiply-accumulates: each weight is used once."""
        params = own_params(self)
        return Counts(params, params, self.kernel.size)

    @property
    def _window(self) -> Sizes:
        return self.keywords["window"]
