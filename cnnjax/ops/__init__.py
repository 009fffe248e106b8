"""Arrays in, arrays out: convolutions, poolings, activations and their geometry as pure functions.

Precision: float32, float64, bfloat16 and float16 in, the same out. Sums are accumulated in float32, or in float64
where that is the dtype, and rounded once at the end. Largest error over largest output, of sums over thousands of
elements, for values and gradients: float64 1e-14, float32 5e-6, float16 1e-3, bfloat16 8e-3
(tests/ops/test_precision.py holds every op that sums to it). `conv` says where one of its algorithms loses more.
Maxima, paddings, unpooling and shuffles are exact, in integers too; ops that add or multiply refuse integers.

Meshes: ops run under `jax.jit` on automatic meshes, inside `jax.shard_map`, and on the explicit meshes that
`jax.make_mesh` makes; `cnnjax.ops.public.on_any_mesh` says what sharding their results have there.
"""

from cnnjax.ops import activations
from cnnjax.ops.activations import *  # noqa: F403
from cnnjax.ops.conv.api import conv, conv_transpose
from cnnjax.ops.conv.deform import deform_conv
from cnnjax.ops.conv.formulas import conv_input_grad, conv_kernel_grad
from cnnjax.ops.conv.kinds import depthwise_conv, separable_conv, true_conv
from cnnjax.ops.conv.toeplitz import toeplitz_matrix
from cnnjax.ops.conv.unshared import connected_conv, local_conv
from cnnjax.ops.geometry import output_shape, receptive_field
from cnnjax.ops.norm_pool import batch_norm_max_pool
from cnnjax.ops.normalize import batch_norm, local_response_norm
from cnnjax.ops.patches import fold, pad, unfold
from cnnjax.ops.pool.api import avg_pool, global_avg_pool, global_max_pool, lp_pool, max_pool, min_pool, pool
from cnnjax.ops.pool.by_index import adaptive_avg_pool, adaptive_max_pool, max_unpool
from cnnjax.ops.pool.sampled import fractional_max_pool, stochastic_pool
from cnnjax.ops.shuffle import channel_shuffle, pixel_shuffle, pixel_unshuffle

__all__ = [
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "avg_pool",
    "batch_norm",
    "batch_norm_max_pool",
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
