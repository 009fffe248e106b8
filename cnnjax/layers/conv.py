"""Convolutions whose kernel is shared by all pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, TypedDict, Unpack

import jax
from flax import nnx
from jax.typing import DTypeLike

from cnnjax import ops
from cnnjax.layers.geometry import WindowGeometry, place_windows
from cnnjax.layers.kernel_layer import (
    ConvKeywords,
    DepthwiseKeywords,
    KernelLayer,
    TransposeKeywords,
    Window,
    channels_per_group,
    window_of,
)
from cnnjax.ops.counts import Counts
from cnnjax.ops.geometry import Sizes

LECUN_NORMAL = nnx.initializers.lecun_normal()


class Conv(KernelLayer):
    """`ops.conv` with a kernel and a bias of its own.

    x `(N, *S, in_features)` -> `(N, *S', out_features)`. The kernel is `(*window, in_features // groups,
    out_features)`.

    Args:
      in_features: channels of x.
      out_features: channels of the output.
      window: one int per spatial dimension.
      use_bias: whether there is a bias, zero at first.
      kernel_init: draws the kernel; by default LeCun normal, variance 1 / fan_in.
      dtype: of the computation; by default that of x. Parameters are float32.
      rngs: where the kernel is drawn from.
      **keywords: those of `ops.conv`: stride, padding, padding_mode, dilation, input_dilation, groups, algorithm, ...

    Example:
      >>> import jax.numpy as jnp
      >>> layer = Conv(1, 6, (5, 5), padding=2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((2, 28, 28, 1))).shape
      (2, 28, 28, 6)
    """

    _op: ClassVar[Callable[..., jax.Array]] = staticmethod(ops.conv)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: Window,
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **keywords: Unpack[ConvKeywords],
    ):
        shape = (*window_of(window), channels_per_group(in_features, keywords), out_features)
        bias = (out_features,) if use_bias else None
        super().__init__(kernel_init or LECUN_NORMAL, shape, bias, dtype=dtype, rngs=rngs, keywords=keywords)


class TrueConv(Conv):
    """`ops.true_conv`, which flips the kernel, with the arguments of `Conv`."""

    _op = staticmethod(ops.true_conv)


class DeformConv(Conv):
    """`ops.deform_conv` with a kernel and a bias of its own; called as `layer(x, offset, mask=None)`.

    Args:
      in_features: as for `Conv`, and so out_features, window, use_bias, kernel_init, dtype and rngs.
      **keywords: those of `ops.deform_conv`: stride, padding, dilation, groups, offset_groups.
    """

    _op = staticmethod(ops.deform_conv)

    def __call__(self, x: jax.Array, offset: jax.Array, mask: jax.Array | None = None) -> jax.Array:  # type: ignore[override]
        """Applies the convolution to x `(N, *S, in_features)`, its taps displaced by the offset."""
        x, kernel, bias = self._cast(x)
        mask = None if mask is None else mask.astype(x.dtype)
        return ops.deform_conv(x, kernel, offset.astype(x.dtype), mask, bias, **self.keywords)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns None: offsets decide at run time what a tap reads."""
        return None


class ConvTranspose(KernelLayer):
    """`ops.conv_transpose`: the adjoint of the `Conv` from out_features to in_features channels.

    y `(N, *S', in_features)` -> `(N, *S, out_features)`. The kernel is `(*window, out_features // groups,
    in_features)`.

    Args:
      in_features: channels of y.
      out_features: channels of the output.
      window: as for `Conv`, and so use_bias, dtype and rngs.
      use_bias: whether there is a bias, zero at first.
      kernel_init: by default LeCun normal with in_features times the window as fan-in.
      dtype: of the computation; by default that of y.
      rngs: where the kernel is drawn from.
      **keywords: those of `ops.conv_transpose`: stride, padding, output_padding, output_shape, dilation, groups, ...

    Example:
      >>> import jax.numpy as jnp
      >>> ConvTranspose(8, 4, (2, 2), stride=2, rngs=nnx.Rngs(0))(jnp.ones((1, 5, 5, 8))).shape
      (1, 10, 10, 4)
    """

    _op = staticmethod(ops.conv_transpose)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: Window,
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **keywords: Unpack[TransposeKeywords],
    ):
        shape = (*window_of(window), channels_per_group(out_features, keywords), in_features)
        init = kernel_init or nnx.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        bias = (out_features,) if use_bias else None
        super().__init__(init, shape, bias, dtype=dtype, rngs=rngs, keywords=keywords)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns which pixels of the input reach a pixel of the output."""
        return place_windows(y_shape[:-1], self._window, **self._placing).transposed()

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns parameters, connections and multiply-accumulates: each pixel of the input uses the kernel once."""
        params, _, _ = super().counts(x_shape, y_shape)
        uses = math.prod(x_shape[:-1]) * self.kernel.size
        return Counts(params, uses + self._bias_uses(y_shape), uses)


class DepthwiseConv(KernelLayer):
    """`ops.depthwise_conv`: `multiplier` kernels for each channel by itself.

    x `(N, *S, features)` -> `(N, *S', features * multiplier)`. The kernel is `(*window, features, multiplier)`.

    Args:
      features: channels of x.
      window: one int per spatial dimension.
      multiplier: kernels per channel.
      use_bias: whether there is a bias, zero at first.
      kernel_init: called with the shape `(*window, 1, features * multiplier)`, whose fan-in is the window; by default
        LeCun normal.
      dtype: of the computation; by default that of x.
      rngs: where the kernel is drawn from.
      **keywords: those of `ops.depthwise_conv`: stride, padding, padding_mode, dilation.
    """

    _op = staticmethod(ops.depthwise_conv)

    def __init__(
        self,
        features: int,
        window: Window,
        *,
        multiplier: int = 1,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **keywords: Unpack[DepthwiseKeywords],
    ):
        taps = window_of(window)
        init = _drawn_as((*taps, 1, features * multiplier), kernel_init or LECUN_NORMAL)
        bias = (features * multiplier,) if use_bias else None
        super().__init__(init, (*taps, features, multiplier), bias, dtype=dtype, rngs=rngs, keywords=keywords)


class _Common(TypedDict):
    kernel_init: nnx.Initializer | None
    dtype: DTypeLike | None
    rngs: nnx.Rngs


class SeparableConv(nnx.Module):
    """A `DepthwiseConv` without bias, then a 1x1 `Conv` with one, as `ops.separable_conv`.

    Args:
      in_features: channels of x.
      out_features: channels of the output.
      window: one int per spatial dimension, of the `DepthwiseConv`.
      multiplier: of the `DepthwiseConv`.
      use_bias: whether the `Conv` has a bias.
      kernel_init: draws both kernels.
      dtype: of the computation; by default that of x.
      rngs: where the kernels are drawn from.
      **keywords: those of the `DepthwiseConv`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: Window,
        *,
        multiplier: int = 1,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
        **keywords: Unpack[DepthwiseKeywords],
    ):
        common: _Common = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
        self.depth = DepthwiseConv(in_features, window, multiplier=multiplier, use_bias=False, **common, **keywords)
        ones = (1,) * len(window_of(window))
        self.point = Conv(in_features * multiplier, out_features, ones, use_bias=use_bias, **common)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies both convolutions to x `(N, *S, in_features)`."""
        return self.point(self.depth(x))


def _drawn_as(shape: tuple[int, ...], init: nnx.Initializer) -> nnx.Initializer:
    """Initialises with `shape`, whose fan-in is right, then reshapes."""
    return lambda key, wanted, dtype: init(key, shape, dtype).reshape(wanted)
