"""Arrays in, arrays out: convolutions, poolings and their geometry as pure functions."""

from cnnjax.ops import activations
from cnnjax.ops.activations import *  # noqa: F403
from cnnjax.ops.conv import conv, conv_transpose, depthwise_conv, separable_conv, toeplitz_matrix, true_conv
from cnnjax.ops.conv_deform import deform_conv
from cnnjax.ops.conv_grad import conv_input_grad, conv_kernel_grad
from cnnjax.ops.conv_unshared import connected_conv, local_conv
from cnnjax.ops.geometry import output_shape, receptive_field
from cnnjax.ops.normalize import local_response_norm
from cnnjax.ops.patches import channel_shuffle, fold, pad, pixel_shuffle, pixel_unshuffle, unfold
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
    "channel_shuffle",
    "connected_conv",
    "conv",
    "conv_input_grad",
    "conv_kernel_grad",
    "conv_transpose",
    "deform_conv",
    "depthwise_conv",
    "fold",
    "fractional_max_pool",
    "global_avg_pool",
    "global_max_pool",
    "local_conv",
    "local_response_norm",
    "lp_pool",
    "max_pool",
    "max_unpool",
    "min_pool",
    "output_shape",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "pool",
    "receptive_field",
    "separable_conv",
    "stochastic_pool",
    "toeplitz_matrix",
    "true_conv",
    "unfold",
]
__all__ += activations.__all__
