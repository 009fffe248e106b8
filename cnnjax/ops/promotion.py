"""Promotion written out: ops work where JAX's own is switched off (`jax_numpy_dtype_promotion="strict"`)."""

import jax
import jax.numpy as jnp


def accumulator_dtype(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
    """Returns the dtype in which elements of float dtypes are summed: float64 where one is float64, else float32."""
    return jnp.dtype("float64" if any(jnp.dtype(dtype) == "float64" for dtype in dtypes) else "float32")


def with_axes_of(x: jax.Array, array: jax.Array) -> jax.Array:
    """Prepends axes of size 1 up to x's rank."""
    return array.reshape((1,) * (x.ndim - array.ndim) + array.shape)
