"""Normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cnnjax import ops
from cnnjax.layers.base import Functional
from cnnjax.layers.geometry import WindowGeometry, place_windows
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
      rngs: as `nnx.BatchNorm` wants it; nothing random is drawn.

    Example:
      >>> layer = BatchNorm(1, momentum=0.9, rngs=nnx.Rngs(0))
      >>> layer(jnp.array([[1.0], [3.0]])).round(3).ravel(), layer.mean[...].round(3)
      (Array([-1.,  1.], dtype=float32), Array([0.2], dtype=float32))
    """

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

    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises x `(N, *S, C)`, by its own statistics in training, else by the running ones.

        Args:
          x: `(N, *S, C)`.
          use_running_average: for this call; by default what the layer is set to.
          mask: as in `nnx.BatchNorm`: which elements the statistics count.
        """
        running = self.use_running_average if use_running_average is None else use_running_average
        if running or running is None or mask is not None:
            with jax.numpy_dtype_promotion("standard"):  # flax's layer promotes halves, also where the user forbids it
                return super().__call__(x, use_running_average, mask=mask)
        x = x.astype(self.dtype or x.dtype)
        scale = jnp.ones(x.shape[-1], jnp.float32) if self.scale is None else self.scale[...]
        bias = jnp.zeros(x.shape[-1], jnp.float32) if self.bias is None else self.bias[...]
        y, *statistics = ops.batch_norm(x, scale, bias, epsilon=self.epsilon)
        for average, now in zip((self.mean, self.var), jax.lax.stop_gradient(statistics), strict=True):
            average[...] = (self.momentum * average[...] + (1 - self.momentum) * now).astype(average.dtype)
        return y


class LocalResponseNorm(Functional):
    """`LocalResponseNorm(**keywords)`: `ops.local_response_norm`."""

    _op = staticmethod(ops.local_response_norm)

    def window_geometry(self, x_shape: Sizes, y_shape: Sizes) -> WindowGeometry | None:
        """Returns windows of one pixel: only channels are neighbours."""
        return place_windows(x_shape[:-1], 1)
