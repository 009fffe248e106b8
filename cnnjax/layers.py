"""``flax.nnx`` modules over ``cnnjax.ops``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import ops
from cnnjax.ops.checks import check_keywords


class Fixed(nnx.Variable):
    """An array of a module that is not trained."""


class Weighted(nnx.Module):
    """What the convolutions have in common: a float32 kernel and bias, and an op that is given both.

    Args:
      kernel: how it is drawn: an initializer and a shape.
      biases: the shape of the bias, zero at first, or None for no bias.
      dtype: of the computation; by default that of x.
      keywords: those of the op; an unknown one is refused here, with the spelling that was meant.
    """

    op: ClassVar[Callable[..., jax.Array]]

    def __init__(
        self,
        kernel: tuple[nnx.Initializer, tuple[int, ...]],
        biases: tuple[int, ...] | None,
        dtype: Any,
        rngs: nnx.Rngs,
        keywords: dict[str, Any],
    ):
        op = type(self).op
        own, passed_on = (inspect.signature(f).parameters for f in (type(self), op))
        known = [*own, *(name for name, parameter in passed_on.items() if parameter.kind is parameter.KEYWORD_ONLY)]
        check_keywords(type(self).__name__, keywords, [name for name in known if name != "keywords"])
        init, shape = kernel
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = None if biases is None else nnx.Param(jnp.zeros(biases))
        self.dtype = dtype
        self.keywords = nnx.static(keywords)

    def arrays(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """x, the kernel and the bias in the dtype of the computation."""
        dtype = self.dtype or x.dtype
        bias = None if self.bias is None else self.bias[...].astype(dtype)
        return x.astype(dtype), self.kernel[...].astype(dtype), bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the op to x (N, *S, C)."""
        return type(self).op(*self.arrays(x), **self.keywords)


class Conv(Weighted):
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

    op: ClassVar[Callable[..., jax.Array]] = ops.conv

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
        shape = (*_window(window), _per_group(in_features, keywords), out_features)
        init = kernel_init or nnx.initializers.lecun_normal()
        super().__init__((init, shape), (out_features,) if use_bias else None, dtype, rngs, keywords)


class TrueConv(Conv):
    """`ops.true_conv`, which turns the kernel, with the arguments of `Conv`."""

    op = ops.true_conv


class ConvTranspose(Weighted):
    """`ops.conv_transpose`: the adjoint of the `Conv` from out_features to in_features channels.

    y (N, *S', in_features) -> (N, *S, out_features). The kernel is (*window, out_features // groups, in_features).

    Args:
      in_features, out_features, window, use_bias, dtype, rngs: as for `Conv`.
      kernel_init: by default LeCun normal with in_features times the window as fan_in.
      **keywords: those of `ops.conv_transpose`: stride, padding, output_padding, output_shape, dilation, groups, ...

    >>> from flax import nnx
    >>> ConvTranspose(8, 4, (2, 2), stride=2, rngs=nnx.Rngs(0))(jnp.ones((1, 5, 5, 8))).shape
    (1, 10, 10, 4)
    """

    op = ops.conv_transpose

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
        shape = (*_window(window), _per_group(out_features, keywords), in_features)
        init = kernel_init or nnx.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        super().__init__((init, shape), (out_features,) if use_bias else None, dtype, rngs, keywords)


class DepthwiseConv(Weighted):
    """`ops.depthwise_conv`: ``multiplier`` kernels for each channel by itself.

    x (N, *S, features) -> (N, *S', features * multiplier). The kernel is (*window, features, multiplier).

    Args:
      features: channels of x.
      window, use_bias, dtype, rngs: as for `Conv`.
      multiplier: kernels per channel.
      kernel_init: called with the shape (*window, 1, features * multiplier), whose fan_in is the window; by default
        LeCun normal.
      **keywords: those of `ops.depthwise_conv`: stride, padding, padding_mode, dilation.
    """

    op = ops.depthwise_conv

    def __init__(
        self,
        features: int,
        window: Sequence[int],
        *,
        multiplier: int = 1,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: Any = None,
        rngs: nnx.Rngs,
        **keywords: Any,
    ):
        init = _drawn_as((*_window(window), 1, features * multiplier), kernel_init)
        shape = (*_window(window), features, multiplier)
        super().__init__((init, shape), (features * multiplier,) if use_bias else None, dtype, rngs, keywords)


class SeparableConv(nnx.Module):
    """A `DepthwiseConv` without bias, then a 1x1 `Conv` with one, as `ops.separable_conv`.

    Args:
      in_features, out_features, window, use_bias, kernel_init, dtype, rngs: as for `Conv`.
      multiplier, **keywords: those of the `DepthwiseConv`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        window: Sequence[int],
        *,
        multiplier: int = 1,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: Any = None,
        rngs: nnx.Rngs,
        **keywords: Any,
    ):
        how: dict[str, Any] = {"kernel_init": kernel_init, "dtype": dtype, "rngs": rngs}
        self.depth = DepthwiseConv(in_features, window, multiplier=multiplier, use_bias=False, **how, **keywords)
        ones = (1,) * len(_window(window))
        self.point = Conv(in_features * multiplier, out_features, ones, use_bias=use_bias, **how)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply both convolutions to x (N, *S, in_features)."""
        return self.point(self.depth(x))


class LocalConv(Weighted):
    """`ops.local_conv`: a kernel of its own at each place, so the size of the image is fixed.

    x (N, *spatial_shape, in_features) -> (N, *S', out_features). The kernel is (*S', prod(window) * in_features,
    out_features), the bias (*S', out_features).

    Args:
      spatial_shape: of x.
      in_features, out_features, window, use_bias, dtype, rngs: as for `Conv`.
      kernel_init: by default LeCun normal with the window times in_features as fan_in.
      **keywords: those of `ops.local_conv`: stride, padding, dilation.
    """

    op = ops.local_conv

    def __init__(
        self,
        spatial_shape: Sequence[int],
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
        places = ops.output_shape(spatial_shape, _window(window), **keywords)
        shape = (*places, math.prod(window) * in_features, out_features)
        init = kernel_init or nnx.initializers.lecun_normal(batch_axis=tuple(range(len(places))))
        biases = (*places, out_features) if use_bias else None
        super().__init__((init, shape), biases, dtype, rngs, {**keywords, "window": _window(window)})


class ConnectedConv(Weighted):
    """`ops.connected_conv`: a table says which channels each output sees, as in LeNet-5's C3.

    x (N, *S, C) -> (N, *S', F). The kernel is (*window, C, F), zero where there is no link.

    Args:
      table: (C, F) bool, which input each output is linked to; at least one each.
      window, use_bias, dtype, rngs: as for `Conv`.
      kernel_init: by default normal with variance 1 / fan_in, where fan_in counts the links of the output alone.
      **keywords: those of `ops.connected_conv`: stride, padding.
    """

    op = ops.connected_conv

    def __init__(
        self,
        table: Any,
        window: Sequence[int],
        *,
        use_bias: bool = True,
        kernel_init: nnx.Initializer | None = None,
        dtype: Any = None,
        rngs: nnx.Rngs,
        **keywords: Any,
    ):
        table = np.asarray(table)
        if table.dtype != bool or table.ndim != 2 or not table.any(0).all():
            raise ValueError(
                f"table must be a (C, F) bool array with a link for each output, got {table.dtype} {table.shape}"
            )
        links = table.sum(0)

        def by_links(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
            return jax.random.normal(key, shape, dtype) / jnp.sqrt(jnp.asarray(math.prod(window) * links, dtype))

        def linked(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
            return jnp.where(table, (kernel_init or by_links)(key, shape, dtype), 0)

        shape, biases = (*_window(window), *table.shape), table.shape[1:] if use_bias else None
        super().__init__((linked, shape), biases, dtype, rngs, keywords)
        self.table = Fixed(jnp.asarray(table))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply the convolution to x (N, *S, C)."""
        x, kernel, bias = self.arrays(x)
        return ops.connected_conv(x, kernel, self.table[...], bias, **self.keywords)


class DeformConv(Conv):
    """`ops.deform_conv` with a kernel and a bias of its own; called as ``layer(x, offset, mask=None)``.

    Args:
      in_features, out_features, window, use_bias, kernel_init, dtype, rngs: as for `Conv`.
      **keywords: those of `ops.deform_conv`: stride, padding, dilation, groups, offset_groups.
    """

    op = ops.deform_conv

    def __call__(self, x: jax.Array, offset: jax.Array, mask: jax.Array | None = None) -> jax.Array:  # type: ignore[override]
        """Apply the convolution to x (N, *S, in_features), its taps displaced by the offset."""
        x, kernel, bias = self.arrays(x)
        mask = None if mask is None else mask.astype(x.dtype)
        return ops.deform_conv(x, kernel, offset.astype(x.dtype), mask, bias, **self.keywords)


class Subsample(nnx.Module):
    """LeNet-5's subsampling: the sum of each window times one trained factor per map, plus one bias per map.

    x (N, *S, features) -> (N, *S', features):  y = factor * (sum of the window) + bias. The windows do not overlap.

    Args:
      features: channels.
      window: one int per spatial dimension.
      factor_init: how the factor (features,) is drawn; by default 1 / prod(window), the mean.

    References:
      LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998, section II.B.
    """

    def __init__(
        self, features: int, window: Sequence[int], *, factor_init: nnx.Initializer | None = None, rngs: nnx.Rngs
    ):
        self.window = _window(window)
        init = factor_init or nnx.initializers.constant(1 / math.prod(self.window))
        self.factor = nnx.Param(init(rngs.params(), (features,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((features,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Subsample x (N, *S, features)."""
        sums = ops.avg_pool(x, self.window, divisor_override=1)
        return self.factor[...].astype(x.dtype) * sums + self.bias[...].astype(x.dtype)


class RBF(nnx.Module):
    """LeNet-5's output units: the squared distance of x to fixed centres.

    x (N, D) -> (N, M):  y[n, m] = sum_j (x[n, j] - centres[m, j])^2.  The nearest centre has the smallest y.

    Args:
      centres: (M, D); they are not trained.

    >>> RBF(jnp.array([[1.0, 1.0], [1.0, -1.0]]))(jnp.array([[1.0, 0.0]]))
    Array([[1., 1.]], dtype=float32)

    References:
      LeCun et al., 1998, equation 7.
    """

    def __init__(self, centres: Any):
        self.centres = Fixed(jnp.asarray(centres))

    def __call__(self, x: jax.Array) -> jax.Array:
        """The squared distances of x (N, D)."""
        return jnp.square(x[:, None, :] - self.centres[...].astype(x.dtype)).sum(-1)


class BatchNorm(nnx.BatchNorm):
    """``nnx.BatchNorm`` over all axes but the last, by `ops.batch_norm` in training: its arguments, state and numbers.

    ``momentum`` is the share of the running statistics that is kept.

    >>> from flax import nnx
    >>> layer = BatchNorm(1, momentum=0.9, rngs=nnx.Rngs(0))
    >>> layer(jnp.array([[1.0], [3.0]])).round(3).ravel(), layer.mean[...].round(3)
    (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32))
    """

    def __init__(
        self, num_features: int, *, momentum: float = 0.99, epsilon: float = 1e-5, dtype: Any = None, rngs: nnx.Rngs
    ):
        super().__init__(num_features, momentum=momentum, epsilon=epsilon, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
        """Normalise x (N, *S, C), by its own statistics in training, else by the running ones."""
        if self.use_running_average:
            return super().__call__(x)
        x = x.astype(self.dtype or x.dtype)
        assert self.scale is not None and self.bias is not None
        y, *statistics = ops.batch_norm(x, self.scale[...], self.bias[...], epsilon=self.epsilon)
        for running, now in zip((self.mean, self.var), jax.lax.stop_gradient(statistics), strict=True):
            running[...] = self.momentum * running[...] + (1 - self.momentum) * now
        return y


class Embedding(nnx.Module):
    """A vector for each word: ids (N, *S), int, -> (N, *S, width).

    Words have the ids 1 to `vocabulary`. The id 0, no word, has the vector 0, which is not trained.

    Args:
      vocabulary: how many words.
      width: of the vectors.
      trained: whether the vectors are parameters; else they stay as they are.
      table_init: how the table (vocabulary + 1, width) is drawn; by default uniform between -0.25 and 0.25.
      dtype: of the vectors that are given out; by default float32, as the table.
      rngs: where the table is drawn from.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        *,
        trained: bool = True,
        table_init: nnx.Initializer | None = None,
        dtype: Any = None,
        rngs: nnx.Rngs,
    ):
        def uniform(key: jax.Array, shape: Any, dtype: Any) -> jax.Array:
            return jax.random.uniform(key, shape, dtype, -0.25, 0.25)

        table = (table_init or uniform)(rngs.params(), (vocabulary + 1, width), jnp.float32)
        self.table = (nnx.Param if trained else Fixed)(table.at[0].set(0))
        self.dtype = dtype

    def __call__(self, ids: jax.Array) -> jax.Array:
        """The vectors of ids (N, *S)."""
        vectors = jnp.where(ids[..., None] > 0, self.table[...][ids], 0)
        return vectors.astype(self.dtype or vectors.dtype)


class Op(nnx.Module):
    """An op without weights as a module: its arguments beside x are fixed when it is made."""

    op: ClassVar[Callable[..., Any]]

    def __init__(self, *arguments: Any, **keywords: Any):
        op = type(self).op
        signature = inspect.signature(op)
        check_keywords(type(self).__name__, keywords, list(signature.parameters))
        _, *others = signature.parameters
        given = signature.bind(None, *arguments, **keywords).arguments  # TypeError for one missing or too many
        self.given = nnx.static({name: given[name] for name in others if name in given})

    def __call__(self, x: jax.Array) -> Any:
        """Apply the op to x (N, *S, C)."""
        return type(self).op(x, **self.given)


class MaxPool(Op):
    """``MaxPool(window, **keywords)``: `ops.max_pool`."""

    op = ops.max_pool


class MinPool(Op):
    """``MinPool(window, **keywords)``: `ops.min_pool`."""

    op = ops.min_pool


class AvgPool(Op):
    """``AvgPool(window, **keywords)``: `ops.avg_pool`."""

    op = ops.avg_pool


class LpPool(Op):
    """``LpPool(window, **keywords)``: `ops.lp_pool`."""

    op = ops.lp_pool


class Pool(Op):
    """``Pool(window, reduce, **keywords)``: `ops.pool`, by a function of your own."""

    op = ops.pool


class AdaptiveAvgPool(Op):
    """``AdaptiveAvgPool(output_size)``: `ops.adaptive_avg_pool`."""

    op = ops.adaptive_avg_pool


class AdaptiveMaxPool(Op):
    """``AdaptiveMaxPool(output_size, **keywords)``: `ops.adaptive_max_pool`."""

    op = ops.adaptive_max_pool


class GlobalAvgPool(Op):
    """``GlobalAvgPool()``: `ops.global_avg_pool`."""

    op = ops.global_avg_pool


class GlobalMaxPool(Op):
    """``GlobalMaxPool()``: `ops.global_max_pool`."""

    op = ops.global_max_pool


class LocalResponseNorm(Op):
    """``LocalResponseNorm(**keywords)``: `ops.local_response_norm`."""

    op = ops.local_response_norm


class Pad(Op):
    """``Pad(padding, **keywords)``: `ops.pad`."""

    op = ops.pad


class Unfold(Op):
    """``Unfold(window, **keywords)``: `ops.unfold`."""

    op = ops.unfold


class Fold(Op):
    """``Fold(spatial_shape, window, **keywords)``: `ops.fold`."""

    op = ops.fold


class PixelShuffle(Op):
    """``PixelShuffle(r)``: `ops.pixel_shuffle`."""

    op = ops.pixel_shuffle


class PixelUnshuffle(Op):
    """``PixelUnshuffle(r)``: `ops.pixel_unshuffle`."""

    op = ops.pixel_unshuffle


class ChannelShuffle(Op):
    """``ChannelShuffle(groups)``: `ops.channel_shuffle`."""

    op = ops.channel_shuffle


class FractionalMaxPool(Op):
    """``FractionalMaxPool(window, output_size=..., rngs=...)``: `ops.fractional_max_pool`, drawn anew at each call."""

    op = ops.fractional_max_pool

    def __init__(self, *arguments: Any, rngs: nnx.Rngs, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self.keys = rngs["dropout"].fork()

    def __call__(self, x: jax.Array) -> Any:
        """Pool x (N, *S, C) with the next key."""
        return ops.fractional_max_pool(x, **self.given, key=self.keys())


class StochasticPool(nnx.Module):
    """``StochasticPool(window, rngs=...)``: `ops.stochastic_pool`, drawn anew at each call; after ``eval()`` the mean.

    Args:
      window: one int per spatial dimension.
      deterministic: give the mean; ``model.train()`` and ``model.eval()`` set it.
      rngs: where the keys come from.
      **keywords: those of `ops.stochastic_pool`: stride, padding.
    """

    def __init__(self, window: Any, *, deterministic: bool = False, rngs: nnx.Rngs, **keywords: Any):
        check_keywords("StochasticPool", keywords, ["stride", "padding"])
        self.window, self.keywords = nnx.static(window), nnx.static(keywords)
        self.deterministic = deterministic
        self.keys = rngs["dropout"].fork()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Pool x (N, *S, C), which is not negative."""
        key = None if self.deterministic else self.keys()
        return ops.stochastic_pool(x, self.window, key=key, deterministic=self.deterministic, **self.keywords)


def _window(window: Any) -> tuple[int, ...]:
    """A layer's window, which says how many spatial dimensions there are."""
    if isinstance(window, str) or not isinstance(window, Sequence) or not 1 <= len(window) <= 3:
        raise TypeError(f"window must be one int per spatial dimension, as (5, 5), got {window!r}")
    return tuple(window)


def _per_group(features: int, keywords: dict[str, Any]) -> int:
    groups = keywords.get("groups", 1)
    if not isinstance(groups, int) or groups < 1 or features % groups:
        raise ValueError(f"groups must be an int that divides the {features} channels, got {groups!r}")
    return features // groups


def _drawn_as(shape: tuple[int, ...], init: nnx.Initializer | None) -> nnx.Initializer:
    """An initializer that draws another shape of the same size, which has the fan_in that is meant."""
    draw = init or nnx.initializers.lecun_normal()
    return lambda key, wanted, dtype: draw(key, shape, dtype).reshape(wanted)
