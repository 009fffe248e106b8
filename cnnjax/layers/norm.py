"""Normalisation."""

from __future__ import annotations

import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cnnjax import ops
from cnnjax.layers.base import Functional, Layer, freeze, own_params
from cnnjax.layers.geometry import Ints, Padding, WindowGeometry, place_windows
from cnnjax.layers.pool import window_reads
from cnnjax.ops.checks import check_keywords
from cnnjax.ops.counts import Counts
from cnnjax.ops.geometry import Sizes


class BatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` over all axes but the last, by `ops.batch_norm` in training: its arguments, state and numbers.

    Args:
      num_features: channels of x.
      use_running_average: normalise by the running statistics; `model.train()` and `model.eval()` set it.
      momentum: the share of the running statistics that is kept.
      epsilon: what is added to the variance.
      dtype: of the output; by default that of x.
      use_bias: whether a trained bias is added.
      use_scale: whether the result is multiplied by a trained scale.
      parts: number of parts of a batch that are normalised by their own statistics, as for `ops.batch_norm`; the
        running statistics take their mean. See `split_batch_norm`.
      unbiased: whether the running variance takes a batch's variance with divisor n - 1, of n elements a channel, as in
        PyTorch; else with n. By itself a batch is always normalised by the latter.
      rngs: as `nnx.BatchNorm` wants it; nothing random is drawn.

    Example:
      >>> layer = BatchNorm(1, momentum=0.9, rngs=nnx.Rngs(0))
      >>> layer(jnp.array([[1.0], [3.0]])).round(3).ravel(), layer.mean[...].round(3)
      (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32))
    """

    # attributes of their own only where they are others: layers without them are described as before
    parts: int = 1
    unbiased: bool = False

    def __init__(
        self,
        num_features: int,
        *,
        use_running_average: bool | None = False,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
        dtype: DTypeLike | None = None,
        use_bias: bool = True,
        use_scale: bool = True,
        parts: int = 1,
        unbiased: bool = False,
        rngs: nnx.Rngs,
    ):
        super().__init__(
            num_features,
            use_running_average=use_running_average,
            momentum=momentum,
            epsilon=epsilon,
            dtype=dtype,
            use_bias=use_bias,
            use_scale=use_scale,
            rngs=rngs,
        )
        if parts != 1:
            self.parts = parts
        if unbiased:
            self.unbiased = unbiased

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises x `(N, *S, C)`, by its own statistics in training, else by the running ones.

        Args:
          x: `(N, *S, C)`.
          use_running_average: for this call; by default what the layer is set to.
          mask: as in `nnx.BatchNorm`: which elements the statistics count.
        """
        if not self._is_by_batch(use_running_average, mask):
            with jax.numpy_dtype_promotion("standard"):  # flax's layer promotes halves, also where the user forbids it
                return super().__call__(x, use_running_average, mask=mask).astype(self.dtype or x.dtype)
        x = x.astype(self.dtype or x.dtype)
        normalized = ops.batch_norm(x, *self._scale_and_bias(x), epsilon=self.epsilon, parts=self.parts)
        return self._keep_statistics(*normalized, count=math.prod(x.shape[:-1]))

    def _is_by_batch(self, use_running_average: bool | None, mask: jax.Array | None) -> bool:
        """True where x is normalised by its own statistics, all of it: flax's layer does the rest, and the refusals."""
        running = self.use_running_average if use_running_average is None else use_running_average
        if running is None or running:
            return False
        if mask is not None and self.parts > 1:
            raise ValueError(f"mask must be None where parts is {self.parts}: a part's statistics count all elements")
        if mask is not None and self.unbiased:
            raise ValueError("mask must be None where unbiased is True: its divisor counts all elements")
        return mask is None

    def _scale_and_bias(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale = jnp.ones(x.shape[-1], jnp.float32) if self.scale is None else self.scale[...]
        bias = jnp.zeros(x.shape[-1], jnp.float32) if self.bias is None else self.bias[...]
        return scale, bias

    def _keep_statistics(self, y: jax.Array, mean: jax.Array, var: jax.Array, count: int) -> jax.Array:
        """Takes the statistics of a batch, of `count` elements a channel, into the running ones, and returns y."""
        if self.unbiased:
            of_a_part = count // self.parts
            var = var * (of_a_part / max(of_a_part - 1, 1))
        for average, now in zip((self.mean, self.var), jax.lax.stop_gradient((mean, var)), strict=True):
            average[...] = (self.momentum * average[...] + (1 - self.momentum) * now).astype(average.dtype)
        return y


class BatchNormMaxPool(Layer, BatchNorm):
    """`BatchNorm` and `MaxPool` in one layer, by `ops.batch_norm_max_pool` in training: less memory, and fewer passes.

    Its parameters and statistics are those of `BatchNorm`.

    Args:
      num_features: channels of x.
      window: of the pool, an int, or one int per spatial dimension.
      stride: from one window to the next; `None` means `window`.
      padding: as for `ops.max_pool`.
      keywords: of `BatchNorm`.

    Example:
      >>> layer = BatchNormMaxPool(1, (2,), epsilon=0.0, rngs=nnx.Rngs(0))
      >>> layer(jnp.array([1.0, 3.0, 5.0, 3.0]).reshape(1, 4, 1)).ravel().round(2)
      Array([0.  , 1.41], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        window: Ints,
        *,
        stride: Ints | None = None,
        padding: Padding = "VALID",
        rngs: nnx.Rngs,
        **keywords: Any,
    ):
        check_keywords(type(self).__name__, keywords, list(inspect.signature(BatchNorm.__init__).parameters))
        super().__init__(num_features, rngs=rngs, **keywords)
        self.pooling = nnx.static(freeze({"window": window, "stride": stride, "padding": padding}))

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises x `(N, *S, C)` as `BatchNorm` does, and pools it: `(N, *S', C)`.

        Args:
          x: `(N, *S, C)`.
          use_running_average: as for `BatchNorm`.
          mask: as for `BatchNorm`.
        """
        if not self._is_by_batch(use_running_average, mask):
            return ops.max_pool(super().__call__(x, use_running_average, mask=mask), **self.pooling)
        x = x.astype(self.dtype or x.dtype)
        normalized = ops.batch_norm_max_pool(
            x, *self._scale_and_bias(x), epsilon=self.epsilon, parts=self.parts, **self.pooling
        )
        return self._keep_statistics(*normalized, count=math.prod(x.shape[:-1]))

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns the windows that are pooled."""
        window, stride, padding = self.pooling["window"], self.pooling["stride"], self.pooling["padding"]
        return place_windows(x_shape[:-1], window, window if stride is None else stride, padding=padding)

    def counts(self, x_shape: Sizes, y_shape: Sizes) -> Counts:
        """Returns those of a batch norm of x, and what the windows read as connections."""
        params, normalized = own_params(self), math.prod(x_shape)
        read = window_reads(self, x_shape, y_shape).connections
        return Counts(params, normalized * (params // x_shape[-1]) + read, normalized)


def split_batch_norm(model: nnx.Module, parts: int) -> int:
    """Lets each batch norm of a model normalise the parts of a batch by themselves, in place.

    With as many parts as there are devices, over which the batch is sharded, this is local batch norm: statistics cost
    no communication but for the running ones.

    Args:
      model: any net; its layers `BatchNorm` and `BatchNormMaxPool` are set.
      parts: number of parts, of equal size; 1 is batch norm over the whole batch.

    Returns:
      The number of layers that were set.

    Raises:
      ValueError: `parts` is below 1, or a layer is flax's own `nnx.BatchNorm`, which knows no parts.

    Example:
      >>> net = nnx.Sequential(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), BatchNorm(2, rngs=nnx.Rngs(0)))
      >>> split_batch_norm(net, 4), net.layers[1].parts
      (1, 4)
    """
    if parts < 1:
        raise ValueError(f"parts must be at least 1, got {parts}")
    norms = [(path, one) for path, one in nnx.iter_modules(model) if isinstance(one, nnx.BatchNorm)]
    for path, norm in norms:
        if not isinstance(norm, BatchNorm):
            raise ValueError(
                f"the layer {'/'.join(map(str, path))} is flax's nnx.BatchNorm, which normalises whole batches: use "
                "cnnjax.layers.BatchNorm, which takes the same arguments"
            )
    for _, norm in norms:
        norm.parts = parts  # type: ignore[attr-defined]
    return len(norms)


class LocalResponseNorm(Functional):
    """`LocalResponseNorm(**keywords)`: `ops.local_response_norm`."""

    _op = staticmethod(ops.local_response_norm)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns windows of one pixel: only channels are neighbours."""
        return place_windows(x_shape[:-1], 1)
