"""Arrays in, arrays out: convolutions, poolings and their geometry as pure functions."""

from cnnjax.ops.conv import conv, conv_transpose, depthwise_conv, separable_conv, toeplitz_matrix, true_conv
from cnnjax.ops.conv_grad import conv_input_grad, conv_kernel_grad
from cnnjax.ops.conv_unshared import connected_conv, local_conv
from cnnjax.ops.geometry import output_shape, receptive_field
from cnnjax.ops.patches import channel_shuffle, fold, pad, pixel_shuffle, pixel_unshuffle, unfold
from cnnjax.ops.pool import avg_pool, max_pool, min_pool

__all__ = [
    "avg_pool",
    "channel_shuffle",
    "connected_conv",
    "conv",
    "conv_input_grad",
    "conv_kernel_grad",
    "conv_transpose",
    "depthwise_conv",
    "fold",
    "local_conv",
    "max_pool",
    "min_pool",
    "output_shape",
    "pad",
    "pixel_shuffle",
    "pixel_unshuffle",
    "receptive_field",
    "separable_conv",
    "toeplitz_matrix",
    "true_conv",
    "unfold",
]
