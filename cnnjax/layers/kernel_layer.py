"""A layer with a kernel and a bias: what the convolutions have in common."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.layers.base import Layer, freeze, own_params
from cnnjax.layers.geometry import Ints, Padding, WindowGeometry, place_windows
from cnnjax.ops.checks import check_keywords
from cnnjax.ops.counts import Counts
from cnnjax.ops.geometry import Sizes, as_int, per_dimension

#: A window says how many spatial dimensions there are: one int for each.
Window = Sequence[int] | np.ndarray


class LocalKeywords(TypedDict, total=False):
    """The keywords of `ops.local_conv`."""

    stride: Ints
    padding: Padding
    dilation: Ints


class DepthwiseKeywords(LocalKeywords, total=False):
    """The keywords of `ops.depthwise_conv`."""

    padding_mode: str


class ConvKeywords(DepthwiseKeywords, total=False):
    """The keywords of `ops.conv`."""

    input_dilation: Ints
    groups: int
    algorithm: str
    precision: jax.lax.PrecisionLike
    preferred_element_type: DTypeLike | None
    offset_groups: int  # of `ops.deform_conv` alone


class TransposeKeywords(LocalKeywords, total=False):
    """The keywords of `ops.conv_transpose`."""

    output_padding: Ints
    output_shape: Ints | None
    groups: int
    precision: jax.lax.PrecisionLike


class KernelLayer(Layer):
    """An op with a float32 kernel and bias of its own.

    Args:
      kernel_init: draws the kernel.
      kernel_shape: of the kernel.
      bias_shape: of the bias, zero at first, or None for no bias.
      dtype: of the computation; by default that of x.
      rngs: where the kernel is drawn from.
      keywords: of the op; an unknown one is answered with the spelling that was meant.
    """

    _op: ClassVar[Callable[..., jax.Array]]

    def __init__(
        self,
        kernel_init: nnx.Initializer,
        kernel_shape: Sizes,
        bias_shape: Sizes | None,
        *,
        dtype: DTypeLike | None,
        rngs: nnx.Rngs,
        keywords: Mapping[str, object],
    ):
        own, passed_on = (inspect.signature(f).parameters for f in (type(self).__init__, type(self)._op))
        by_name = [name for name, parameter in passed_on.items() if parameter.kind is parameter.KEYWORD_ONLY]
        known = [name for name in (*own, *by_name) if name not in ("self", "keywords")]
        check_keywords(type(self).__name__, keywords, known)
        self.kernel = nnx.Param(kernel_init(rngs.params(), kernel_shape, jnp.float32))
        self.bias = None if bias_shape is None else nnx.Param(jnp.zeros(bias_shape, jnp.float32))
        self.dtype = dtype
        self.keywords = nnx.static(freeze(keywords))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the op to x `(N, *S, C)`."""
        return type(self)._op(*self._cast(x), **self.keywords)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns how the kernel slides over the input."""
        *sizes, _ = x_shape
        holes = per_dimension("input_dilation", self.keywords.get("input_dilation", 1), len(sizes))
        spread = [(size - 1) * hole + 1 for size, hole in zip(sizes, holes, strict=True)]
        return place_windows(spread, self._window, **self._placing).over_holes(holes)

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns parameters, connections and multiply-accumulates: each pixel of the output uses the kernel once."""
        uses = math.prod(y_shape[:-1]) * self.kernel.size
        return Counts(own_params(self), uses + self._bias_uses(y_shape), uses)

    @property
    def _window(self) -> Sizes:
        return self.kernel.shape[:-2]

    @property
    def _placing(self) -> dict[str, Any]:
        """The keywords that decide where windows lie."""
        return {name: self.keywords[name] for name in ("stride", "dilation", "padding") if name in self.keywords}

    def _bias_uses(self, y_shape: Sizes) -> int:
        return 0 if self.bias is None else math.prod(y_shape)

    def _cast(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Returns x, the kernel and the bias in the dtype of the computation."""
        dtype = self.dtype or x.dtype
        bias = None if self.bias is None else self.bias[...].astype(dtype)
        return x.astype(dtype), self.kernel[...].astype(dtype), bias


def window_of(window: Window) -> Sizes:
    """Returns a layer's window as a tuple.

    Raises:
      TypeError: it is not one int per spatial dimension.
    """
    values = window.tolist() if isinstance(window, np.ndarray) else window
    if isinstance(values, str) or not isinstance(values, Sequence) or not 1 <= len(values) <= 3:
        raise TypeError(f"window must be one int per spatial dimension, as (5, 5), got {window!r}")
    return per_dimension("window", tuple(values), len(values))


def channels_per_group(channels: int, keywords: Mapping[str, Any]) -> int:
    """Returns `channels // groups`.

    Raises:
      ValueError: groups is not an int that divides the channels.
    """
    groups = keywords.get("groups", 1)
    try:
        count = as_int("groups", groups)
    except TypeError:
        count = 0
    if count < 1 or channels % count:
        raise ValueError(f"groups must be an int that divides the {channels} channels, got {groups!r}")
    return channels // count
