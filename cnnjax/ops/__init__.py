"""Arrays in, arrays out: convolutions, poolings and their geometry as pure functions."""

from cnnjax.ops import activations
from cnnjax.ops.activations import *  # noqa: F403
from cnnjax.ops.conv import conv
from cnnjax.ops.geometry import output_shape, receptive_field
from cnnjax.ops.normalize import local_response_norm
from cnnjax.ops.pool import avg_pool, global_avg_pool, global_max_pool, lp_pool, max_pool, min_pool, pool
from cnnjax.ops.pool_by_index import (
    adaptive_avg_pool,
    adaptive_max_pool,
    fractional_max_pool,
    max_unpool,
    stochastic_pool,
)

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "conv",
    "fractional_max_pool",
    "global_avg_pool",
    "global_max_pool",
    "local_response_norm",
    "lp_pool",
    "max_pool",
    "max_unpool",
    "min_pool",
    "output_shape",
    "pool",
    "receptive_field",
    "stochastic_pool",
]
__all__ += activations.__all__
