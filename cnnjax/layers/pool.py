"""Pools."""

from __future__ import annotations

import math
from typing import TypedDict, Unpack

import jax
from flax import nnx

from cnnjax import ops
from cnnjax.layers.base import Functional, Layer, freeze
from cnnjax.layers.geometry import Ints, Padding, WindowGeometry, place_windows, spread_windows
from cnnjax.ops.checks import check_keywords
from cnnjax.ops.counts import Counts
from cnnjax.ops.geometry import Sizes


class _WindowPool(Functional):
    """A pool whose windows are given by window, stride, padding and dilation."""

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns the windows that are pooled."""
        window, stride = self.keywords["window"], self.keywords.get("stride")
        others = {name: self.keywords[name] for name in ("dilation", "padding") if name in self.keywords}
        return place_windows(x_shape[:-1], window, window if stride is None else stride, **others)

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns what the windows read as connections."""
        return window_reads(self, x_shape, y_shape)


class MaxPool(_WindowPool):
    """`MaxPool(window, **keywords)`: `ops.max_pool`."""

    _op = staticmethod(ops.max_pool)


class MinPool(_WindowPool):
    """`MinPool(window, **keywords)`: `ops.min_pool`."""

    _op = staticmethod(ops.min_pool)


class AvgPool(_WindowPool):
    """`AvgPool(window, **keywords)`: `ops.avg_pool`."""

    _op = staticmethod(ops.avg_pool)


class LpPool(_WindowPool):
    """`LpPool(window, **keywords)`: `ops.lp_pool`."""

    _op = staticmethod(ops.lp_pool)


class Pool(_WindowPool):
    """`Pool(window, reduce, **keywords)`: `ops.pool`, by a function of your own."""

    _op = staticmethod(ops.pool)


class StochasticKeywords(TypedDict, total=False):
    """The keywords of `ops.stochastic_pool`."""

    stride: Ints | None
    padding: Padding


class StochasticPool(Layer):
    """`StochasticPool(window, rngs=...)`: `ops.stochastic_pool`, drawn anew at each call; after `eval()` the mean.

    Args:
      window: an int, or one per spatial dimension.
      deterministic: give the mean; `model.train()` and `model.eval()` set it.
      rngs: where the keys come from.
      **keywords: those of `ops.stochastic_pool`: stride, padding.
    """

    def __init__(
        self, window: Ints, *, deterministic: bool = False, rngs: nnx.Rngs, **keywords: Unpack[StochasticKeywords]
    ):
        check_keywords("StochasticPool", keywords, ["stride", "padding"])
        self.keywords = nnx.static(freeze({"window": window, **keywords}))
        self.deterministic = deterministic
        self.keys = rngs["dropout"].fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pools x `(N, *S, C)`, which is not negative."""
        key = None if self.deterministic else self.keys()
        return ops.stochastic_pool(x, key=key, deterministic=self.deterministic, **self.keywords)

    window_geometry = _WindowPool.window_geometry

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns what the windows read as connections."""
        return window_reads(self, x_shape, y_shape)


class _AdaptivePool(Functional):
    """A pool whose windows follow from the output's size."""

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns windows spread evenly over the input."""
        return spread_windows(x_shape[:-1], y_shape[:-1])


class AdaptiveAvgPool(_AdaptivePool):
    """`AdaptiveAvgPool(output_size)`: `ops.adaptive_avg_pool`."""

    _op = staticmethod(ops.adaptive_avg_pool)


class AdaptiveMaxPool(_AdaptivePool):
    """`AdaptiveMaxPool(output_size, **keywords)`: `ops.adaptive_max_pool`."""

    _op = staticmethod(ops.adaptive_max_pool)


class FractionalMaxPool(_AdaptivePool):
    """`FractionalMaxPool(window, output_size=..., rngs=...)`: `ops.fractional_max_pool`, drawn anew at each call."""

    _op = staticmethod(ops.fractional_max_pool)

    def __init__(self, *arguments: object, rngs: nnx.Rngs, **keywords: object):
        for name in ("key", "samples"):
            if name in keywords:
                raise TypeError(f"FractionalMaxPool takes no {name}=: it draws by rngs")
        super().__init__(*arguments, **keywords)
        self.keys = rngs["dropout"].fork()

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns windows at equal distances; the drawn ones lie up to a pixel beside them."""
        even = spread_windows(x_shape[:-1], y_shape[:-1])
        return place_windows(x_shape[:-1], self.keywords["window"])._replace(stride=even.stride)

    def __call__(self, x: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Pools x `(N, *S, C)` with the next key."""
        return ops.fractional_max_pool(x, **self.keywords, key=self.keys())


class GlobalAvgPool(Functional):
    """`GlobalAvgPool()`: `ops.global_avg_pool`."""

    _op = staticmethod(ops.global_avg_pool)


class GlobalMaxPool(Functional):
    """`GlobalMaxPool()`: `ops.global_max_pool`."""

    _op = staticmethod(ops.global_max_pool)


def window_reads(layer: Layer, x_shape: Sizes, y_shape: Sizes) -> Counts:
    """Returns what the windows of a pool read as connections."""
    geometry = layer.window_geometry(x_shape, y_shape)
    assert geometry is not None
    return Counts(0, math.prod(y_shape) * math.prod(geometry.window), 0)
