"""The dtype in which ops add up."""

import jax.numpy as jnp


def accumulator_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """Returns the dtype in which elements of a float dtype are summed: float64 for float64, else float32."""
    return jnp.dtype("float64" if dtype == "float64" else "float32")
