"""The activation functions of the textbooks, of PyTorch and of Keras, by their usual names.

What jax.nn has is passed on behind a door that checks the arguments; what it lacks, or takes fewer arguments for,
is written here. The functions of one element work on arrays of any shape; the others say which axis they work
along. At a kink the derivative is that of the flat or left-hand side, as in PyTorch. Where x is NaN the functions
give NaN, and their derivatives whatever their branches happen to give.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.checks import (
    as_float_array,
    as_number,
    as_number_array,
    check_key,
    one_of,
    same_dtype,
)
from cnnjax.ops.geometry import as_int
from cnnjax.ops.public import public_op

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

# ---- those of jax.nn ----


def _from_jax(op: Callable[..., jax.Array], formula: str, *, integers: bool = False) -> Callable[..., jax.Array]:
    """A function of jax.nn under its own name and with its own parameters, behind this package's door.

    Args:
      op: its first argument is x; of the others `axis` is one axis of x or several, `where` an array, and
        any other a number, or an array of x's dtype, as one that is learned is.
      formula: becomes the first line of the docstring.
      integers: whether x may be of integers too.
    """
    signature = inspect.signature(op)
    by_name = [part.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for part in signature.parameters.values()]
    signature = signature.replace(parameters=by_name)
    kinds = "float32, float64, bfloat16 or float16" + (", or of integers" if integers else "")

    def checked(*args: Any, **kwargs: Any) -> jax.Array:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        x = as_number_array("x", given.pop("x")) if integers else as_float_array("x", given.pop("x"))
        for name, value in given.items():
            if name == "axis" and value is not None:
                given[name] = tuple(_axis(x, one) for one in value) if isinstance(value, tuple) else _axis(x, value)
            elif name not in ("axis", "where"):
                given[name] = _parameter(name, value, x)
        return op(x, **given)

    checked.__name__ = checked.__qualname__ = op.__name__
    checked.__doc__ = f"""{formula}

    It is `jax.nn.{op.__name__}`.

    Args:
      x: an array of any shape, of {kinds}.

    Raises:
      TypeError: x or a parameter is of the wrong kind.
      ValueError: an axis is none of x's.
    """
    checked.__signature__ = signature  # type: ignore[attr-defined]
    return public_op(checked)


def _parameter(name: str, value: Any, x: jax.Array) -> Any:
    """A number, or an array of x's dtype, as one that is learned is."""
    if not hasattr(value, "__array__") or isinstance(value, np.number):
        return as_number(name, value)
    value = as_float_array(name, value)
    same_dtype(**{"x": x, name: value})
    return value


elu = _from_jax(jax.nn.elu, "x where x > 0, else alpha (exp(x) - 1).")
hard_sigmoid = _from_jax(jax.nn.hard_sigmoid, "relu6(x + 3) / 6, as in PyTorch and Keras 3 (ONNX has x / 5).")
hard_silu = _from_jax(jax.nn.hard_silu, "x relu6(x + 3) / 6.")
identity = _from_jax(jax.nn.identity, "x.", integers=True)
log_sigmoid = _from_jax(jax.nn.log_sigmoid, "log(1 / (1 + exp(-x))).")
log_softmax = _from_jax(jax.nn.log_softmax, "x - log(sum exp(x)), the sum along an axis.")
mish = _from_jax(jax.nn.mish, "x tanh(log(1 + exp(x))).")
relu = _from_jax(jax.nn.relu, "max(x, 0).", integers=True)
relu6 = _from_jax(jax.nn.relu6, "min(max(x, 0), 6).")
selu = _from_jax(jax.nn.selu, "1.0507 x where x > 0, else 1.0507 * 1.6733 (exp(x) - 1).")
sigmoid = _from_jax(jax.nn.sigmoid, "1 / (1 + exp(-x)).")
silu = _from_jax(jax.nn.silu, "x / (1 + exp(-x)).")
soft_sign = _from_jax(jax.nn.soft_sign, "x / (1 + |x|).")
softmax = _from_jax(jax.nn.softmax, "exp(x) / sum exp(x), the sum along an axis.")
sparse_plus = _from_jax(jax.nn.sparse_plus, "0 where x <= -1, x where x >= 1, else (x + 1)^2 / 4.")
sparse_sigmoid = _from_jax(jax.nn.sparse_sigmoid, "0 where x <= -1, 1 where x >= 1, else (x + 1) / 2.")
squareplus = _from_jax(jax.nn.squareplus, "(x + sqrt(x^2 + b)) / 2.")
tanh = _from_jax(jax.nn.tanh, "tanh(x).")

# ---- of one element ----


@public_op
def celu(x: jax.Array, alpha: Any = 1.0) -> jax.Array:
    """x where x > 0, else alpha (exp(x / alpha) - 1); alpha a number other than 0, or an array of x's dtype.

    References:
      Barron, Continuously differentiable exponential linear units, arXiv:1704.07483.
    """
    x = as_float_array("x", x)
    alpha = _parameter("alpha", alpha, x)
    if isinstance(alpha, float) and alpha == 0:
        raise ValueError("alpha must not be 0")
    return jax.nn.celu(x, alpha)


@public_op
def scaled_tanh(x: jax.Array, amplitude: float = 1.7159, slope: float = 2 / 3) -> jax.Array:
    """LeNet-5's squashing function, which takes 1 to 1 and -1 to -1: A tanh(S x).

    Example:
      >>> scaled_tanh(jnp.array([-1.0, 0.0, 1.0])).round(3)
      Array([-1.,  0.,  1.], dtype=float32)

    References:
      LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998,
      appendix A.
    """
    return as_number("amplitude", amplitude) * jnp.tanh(as_number("slope", slope) * as_float_array("x", x))


@public_op
def gelu(x: jax.Array, approximate: Any = False) -> jax.Array:
    """The Gaussian error linear unit: x P(X <= x) with X standard normal.

    `approximate=True` (PyTorch's "tanh") gives 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). The
    default is exact, as in the paper, PyTorch and Keras; that of jax.nn is not.

    Example:
      >>> gelu(jnp.array([0.0, 2.0]))
      Array([0.       , 1.9544997], dtype=float32)

    References:
      Hendrycks and Gimpel, Gaussian error linear units, arXiv:1606.08415.
    """
    if not isinstance(approximate, bool):
        one_of("approximate", approximate, ("none", "tanh"))
    x = as_float_array("x", x)
    return jax.nn.gelu(x, approximate=True) if approximate in (True, "tanh") else x * _normal_cdf(x)


@jax.custom_jvp
def _normal_cdf(x: jax.Array) -> jax.Array:
    """P(X <= x) = erfc(-x / sqrt(2)) / 2. The derivative of jax 0.12's own erfc fails under shard_map."""
    return lax.erfc(-x / math.sqrt(2)) / 2


@_normal_cdf.defjvp
def _normal_cdf_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return _normal_cdf(x), dx * jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@public_op
def softplus(x: jax.Array, beta: float = 1.0, threshold: float | None = None) -> jax.Array:
    """log(1 + exp(beta x)) / beta; where beta x > threshold, if one is given, x itself (PyTorch has 20).

    Example:
      >>> softplus(jnp.array([0.0, 3.0]), threshold=2.0)
      Array([0.6931472, 3.       ], dtype=float32)

    References:
      Dugas et al., Incorporating second-order functional knowledge for better option pricing, NIPS 2000.
    """
    x, beta = as_float_array("x", x), as_number("beta", beta)
    if beta == 0:
        raise ValueError("beta must not be 0")
    y = jax.nn.softplus(beta * x) / beta
    return y if threshold is None else jnp.where(beta * x > as_number("threshold", threshold), x, y)


@public_op
def exponential(x: jax.Array) -> jax.Array:
    """exp(x)."""
    return jnp.exp(as_float_array("x", x))


@public_op
def hard_tanh(x: jax.Array, min_val: float = -1.0, max_val: float = 1.0) -> jax.Array:
    """x, kept between min_val and max_val.

    Example:
      >>> hard_tanh(jnp.array([-3.0, 0.5, 3.0]))
      Array([-1. ,  0.5,  1. ], dtype=float32)

    References:
      Collobert, Large scale machine learning, thesis, Paris 6, 2004.
    """
    x, least, most = as_float_array("x", x), as_number("min_val", min_val), as_number("max_val", max_val)
    if not least <= most:
        raise ValueError(f"min_val must be at most max_val, got {min_val} and {max_val}")
    return jnp.where(x <= least, least, jnp.where(x >= most, most, x)).astype(x.dtype)


@public_op
def softshrink(x: jax.Array, lambd: float = 0.5) -> jax.Array:
    """x drawn lambd nearer to 0: sign(x) max(|x| - lambd, 0).

    Example:
      >>> softshrink(jnp.array([-2.0, 0.3, 1.0]))
      Array([-1.5,  0. ,  0.5], dtype=float32)

    References:
      Donoho, De-noising by soft-thresholding, IEEE Trans. Inf. Theory 41(3), 1995.
    """
    x, lambd = as_float_array("x", x), _at_least_0("lambd", lambd)
    return jnp.where(jnp.abs(x) <= lambd, jnp.zeros((), x.dtype), x - jnp.sign(x) * lambd)


@public_op
def hardshrink(x: jax.Array, lambd: float = 0.5) -> jax.Array:
    """x where |x| > lambd, else 0.

    Example:
      >>> hardshrink(jnp.array([-2.0, 0.3, 1.0]))
      Array([-2.,  0.,  1.], dtype=float32)
    """
    x, lambd = as_float_array("x", x), as_number("lambd", lambd)
    return jnp.where(jnp.abs(x) <= lambd, jnp.zeros((), x.dtype), x)


@public_op
def tanhshrink(x: jax.Array) -> jax.Array:
    """x - tanh(x)."""
    x = as_float_array("x", x)
    return x - jnp.tanh(x)


@public_op
def threshold(x: jax.Array, threshold: float, value: float = 0.0) -> jax.Array:
    """x where x > threshold, else value.

    Example:
      >>> threshold(jnp.array([0.5, 1.0, 2.0]), 1.0)
      Array([0., 0., 2.], dtype=float32)
    """
    x, value = as_float_array("x", x), as_number("value", value)
    return jnp.where(x <= as_number("threshold", threshold), jnp.asarray(value, x.dtype), x)


@public_op
def leaky_relu(x: jax.Array, negative_slope: Any = 0.01) -> jax.Array:
    """x where x > 0, else negative_slope x. Keras's slope is 0.2.

    Example:
      >>> leaky_relu(jnp.array([-2.0, 3.0]), 0.5)
      Array([-1.,  3.], dtype=float32)

    References:
      Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models, ICML 2013.
    """
    x = as_float_array("x", x)
    return jnp.where(x > 0, x, _parameter("negative_slope", negative_slope, x) * x)


@public_op
def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """The parametric relu: x where x > 0, else slope x; slope one number, or one per channel, to be learned.

    Args:
      x: (..., C).
      slope: () or (1,) or (C,), of x's dtype; or of as many sizes, each 1 or x's own, as has Keras, whose
        slopes differ from place to place.

    Example:
      >>> prelu(jnp.array([[-2.0, -2.0, 3.0]]), jnp.array([0.5, 0.25, 0.5]))
      Array([[-1. , -0.5,  3. ]], dtype=float32)

    References:
      He et al., Delving deep into rectifiers, ICCV 2015, arXiv:1502.01852.
    """
    x, slope = as_float_array("x", x), as_float_array("slope", slope)
    same_dtype(x=x, slope=slope)
    if slope.shape == (1,):
        slope = slope[0]
    sizes = x.shape[x.ndim - slope.ndim :] if slope.ndim <= x.ndim else ()
    if len(sizes) != slope.ndim or any(one not in (1, size) for one, size in zip(slope.shape, sizes, strict=True)):
        raise ValueError(
            f"slope must have shape (), (1,) or {x.shape[-1:]}, one per channel of x, or others that x's "
            f"{x.shape} ends with, got {slope.shape}"
        )
    return jnp.where(x > 0, x, slope * x)


@public_op
def rrelu(x: jax.Array, lower: float = 1 / 8, upper: float = 1 / 3, *, key: Any = None) -> jax.Array:
    """The randomised leaky relu: x where x > 0, else a x, a drawn per element between lower and upper.

    Without a key, as at test time, a is their mean.

    Example:
      >>> rrelu(jnp.array([-4.0, 2.0]), 0.25, 0.75)
      Array([-2.,  2.], dtype=float32)

    References:
      Xu et al., Empirical evaluation of rectified activations in convolutional network, arXiv:1505.00853.
    """
    x, lower, upper = as_float_array("x", x), as_number("lower", lower), as_number("upper", upper)
    if lower > upper:
        raise ValueError(f"lower must be at most upper, got {lower} and {upper}")
    slope: Any = (lower + upper) / 2
    if key is not None:
        check_key(key)
        slope = jax.random.uniform(key, x.shape, x.dtype, lower, upper)
    return jnp.where(x > 0, x, slope * x)


def _at_least_0(name: str, value: Any) -> float:
    number = as_number(name, value)
    if not number >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return number


# ---- along an axis ----


@public_op
def softmin(x: jax.Array, axis: int = -1) -> jax.Array:
    """softmax(-x)."""
    return softmax(-as_float_array("x", x), axis)


@public_op
def sparsemax(x: jax.Array, axis: int = -1) -> jax.Array:
    """The nearest point to x that has no negative entries and sums to 1 along an axis: max(x - tau, 0).

    Example:
      >>> sparsemax(jnp.array([0.5, 1.0, -1.0]))
      Array([0.25, 0.75, 0. ], dtype=float32)

    References:
      Martins and Astudillo, From softmax to sparsemax, ICML 2016, arXiv:1602.02068.
    """
    x = as_float_array("x", x)
    axis = _axis(x, axis)
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    falling = -jnp.sort(-wide, axis)
    place = lax.broadcasted_iota(falling.dtype, falling.shape, axis) + 1
    # the largest entries are kept, as long as each is above the tau that it leads to
    kept = 1 + place * falling > jnp.cumsum(falling, axis)
    tau = (jnp.where(kept, falling, 0).sum(axis, keepdims=True) - 1) / kept.sum(axis, keepdims=True)
    return jax.nn.relu(wide - tau.astype(wide.dtype)).astype(x.dtype)


@public_op
def crelu(x: jax.Array, axis: int = -1) -> jax.Array:
    """relu(x) and relu(-x) side by side: twice the channels.

    Example:
      >>> crelu(jnp.array([-1.0, 2.0]))
      Array([0., 2., 1., 0.], dtype=float32)

    References:
      Shang et al., Understanding and improving convolutional neural networks via concatenated rectified
      linear units, ICML 2016, arXiv:1603.05201.
    """
    x = as_float_array("x", x)
    return jax.nn.relu(jnp.concatenate([x, -x], _axis(x, axis)))


@public_op
def maxout(x: jax.Array, pieces: int, axis: int = -1) -> jax.Array:
    """The largest of every `pieces` channels that stand side by side; the first of equals takes the gradient.

    Example:
      >>> maxout(jnp.array([1.0, 3.0, 2.0, 0.0]), 2)
      Array([3., 2.], dtype=float32)

    References:
      Goodfellow et al., Maxout networks, ICML 2013, arXiv:1302.4389.
    """
    x = as_float_array("x", x)
    axis, pieces = _axis(x, axis), as_int("pieces", pieces)
    size = x.shape[axis]
    if pieces < 1 or size % pieces:
        raise ValueError(f"pieces must divide the {size} entries of axis {axis}, got {pieces}")
    x = x.reshape(*x.shape[:axis], size // pieces, pieces, *x.shape[axis + 1 :])
    first = lax.stop_gradient(x).argmax(axis + 1, keepdims=True)
    return jnp.take_along_axis(x, first, axis=axis + 1).squeeze(axis + 1)


@public_op
def glu(x: jax.Array, axis: int = -1) -> jax.Array:
    """The gated linear unit: the first half of the axis times sigmoid of the second.

    Example:
      >>> glu(jnp.array([2.0, 3.0, 0.0, 0.0]))
      Array([1. , 1.5], dtype=float32)

    References:
      Dauphin et al., Language modeling with gated convolutional networks, ICML 2017, arXiv:1612.08083.
    """
    return _gated(x, axis, jax.nn.sigmoid)


@public_op
def reglu(x: jax.Array, axis: int = -1) -> jax.Array:
    """The gated linear unit with relu: the first half of the axis times relu of the second.

    The gate is the second half, as in `glu`.

    References:
      Shazeer, GLU variants improve transformer, arXiv:2002.05202.
    """
    return _gated(x, axis, jax.nn.relu)


@public_op
def geglu(x: jax.Array, axis: int = -1) -> jax.Array:
    """The gated linear unit with gelu (the exact one): `reglu` with another gate."""
    return _gated(x, axis, gelu)


@public_op
def swiglu(x: jax.Array, axis: int = -1) -> jax.Array:
    """The gated linear unit with silu: `reglu` with another gate.

    Example:
      >>> swiglu(jnp.array([2.0, 3.0, 0.0, 0.0]))
      Array([0., 0.], dtype=float32)
    """
    return _gated(x, axis, jax.nn.silu)


def _gated(x: jax.Array, axis: int, gate: Any) -> jax.Array:
    x = as_float_array("x", x)
    axis = _axis(x, axis)
    if x.shape[axis] % 2:
        raise ValueError(f"axis must be one of even size, got axis {axis} of shape {x.shape}")
    first, second = jnp.split(x, 2, axis)
    return first * gate(second)


def _axis(x: jax.Array, axis: Any) -> int:
    axis = as_int("axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be one of x's {x.ndim}, got {axis}")
    return axis % x.ndim


# ---- the other spellings ----

hard_shrink = hardshrink
hardsigmoid = hard_sigmoid
hardswish = hard_silu
hard_swish = hard_silu
hardtanh = hard_tanh
linear = identity
logsigmoid = log_sigmoid
soft_shrink = softshrink
softsign = soft_sign
swish = silu
tanh_shrink = tanhshrink
