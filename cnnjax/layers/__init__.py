"""`flax.nnx` modules over `cnnjax.ops`.

Parameters are float32, whatever the dtype of the computation and whether x64 is on. Options that never change
(`layer.keywords`) are hashable, so that graph definitions are, too. A `Layer` also says how its windows lie and what
it costs, which `cnnjax.describe` reads.
"""

from cnnjax.layers.activations import PReLU, ScaledSigmoid, Swish
from cnnjax.layers.base import Buffer, Functional, Layer, WindowGeometry
from cnnjax.layers.conv import Conv, ConvTranspose, DeformConv, DepthwiseConv, SeparableConv, TrueConv
from cnnjax.layers.embedding import Embedding
from cnnjax.layers.kernel_layer import KernelLayer
from cnnjax.layers.lenet import RBF, ConnectedConv, Subsample
from cnnjax.layers.local import LocalConv
from cnnjax.layers.norm import BatchNorm, BatchNormMaxPool, LocalResponseNorm, split_batch_norm
from cnnjax.layers.pool import (
    AdaptiveAvgPool,
    AdaptiveMaxPool,
    AvgPool,
    FractionalMaxPool,
    GlobalAvgPool,
    GlobalMaxPool,
    LpPool,
    MaxPool,
    MinPool,
    Pool,
    StochasticPool,
)
from cnnjax.layers.rearrange import ChannelShuffle, Fold, Pad, PixelShuffle, PixelUnshuffle, Unfold

__all__ = [
    "RBF",
    "AdaptiveAvgPool",
    "AdaptiveMaxPool",
    "AvgPool",
    "BatchNorm",
    "BatchNormMaxPool",
    "Buffer",
    "ChannelShuffle",
    "ConnectedConv",
    "Conv",
    "ConvTranspose",
    "DeformConv",
    "DepthwiseConv",
    "Embedding",
    "Fold",
    "FractionalMaxPool",
    "Functional",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "KernelLayer",
    "Layer",
    "LocalConv",
    "LocalResponseNorm",
    "LpPool",
    "MaxPool",
    "MinPool",
    "PReLU",
    "Pad",
    "PixelShuffle",
    "PixelUnshuffle",
    "Pool",
    "ScaledSigmoid",
    "SeparableConv",
    "StochasticPool",
    "Subsample",
    "Swish",
    "TrueConv",
    "Unfold",
    "WindowGeometry",
    "split_batch_norm",
]
