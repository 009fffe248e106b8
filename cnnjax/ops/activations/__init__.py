"""The activation functions of the textbooks, of PyTorch and of Keras, by their usual names.

Functions of one element work on arrays of any shape; the others say along which axis they work. At a kink the
derivative is that of the flat or left-hand side, as in PyTorch. Where x is NaN the functions give NaN, and their
derivatives what their branches happen to give.
"""

from cnnjax.ops.activations.along_axis import crelu, geglu, glu, maxout, reglu, softmin, sparsemax, swiglu
from cnnjax.ops.activations.elementwise import (
    celu,
    exponential,
    gelu,
    hard_tanh,
    hardshrink,
    leaky_relu,
    prelu,
    rrelu,
    scaled_sigmoid,
    scaled_tanh,
    softplus,
    softshrink,
    swish,
    tanhshrink,
    threshold,
)
from cnnjax.ops.activations.from_jax import (
    elu,
    hard_sigmoid,
    hard_silu,
    identity,
    log_sigmoid,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    sparse_plus,
    sparse_sigmoid,
    squareplus,
    tanh,
)

__all__ = [
    "celu",
    "crelu",
    "elu",
    "exponential",
    "geglu",
    "gelu",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "identity",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "logsigmoid",
    "maxout",
    "mish",
    "prelu",
    "reglu",
    "relu",
    "relu6",
    "rrelu",
    "scaled_sigmoid",
    "scaled_tanh",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "soft_sign",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "swiglu",
    "swish",
    "tanh",
    "tanh_shrink",
    "tanhshrink",
    "threshold",
]


# other spellings
hard_shrink = hardshrink
hardsigmoid = hard_sigmoid
hardswish = hard_silu
hard_swish = hard_silu
hardtanh = hard_tanh
linear = identity
logsigmoid = log_sigmoid
soft_shrink = softshrink
softsign = soft_sign
tanh_shrink = tanhshrink
