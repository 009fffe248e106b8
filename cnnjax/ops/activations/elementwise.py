"""Activation functions of one element that jax.nn lacks, or has with fewer arguments."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.activations.parameters import Parameter, as_parameter, at_least_0, channel_array
from cnnjax.ops.checks import as_float_array, as_number, check_key, one_of
from cnnjax.ops.promotion import accumulator_dtype
from cnnjax.ops.public import public_op


@public_op
def celu(x: jax.Array, alpha: Parameter = 1.0) -> jax.Array:
    """Returns x where x > 0, else alpha (exp(x / alpha) - 1).

    Args:
      x: an array of any shape.
      alpha: a number other than 0, or an array of x's dtype.

    References:
      Barron, Continuously differentiable exponential linear units, arXiv:1704.07483.
    """
    x = as_float_array("x", x)
    alpha = as_parameter("alpha", alpha, x)
    if isinstance(alpha, float) and alpha == 0:
        raise ValueError("alpha must not be 0")
    return jax.nn.celu(x, alpha)


@public_op
def scaled_tanh(x: jax.Array, amplitude: float = 1.7159, slope: float = 2 / 3) -> jax.Array:
    """Returns A tanh(S x), LeNet-5's squashing function, which takes 1 to 1 and -1 to -1.

    Example:
      >>> scaled_tanh(jnp.array([-1.0, 0.0, 1.0])).round(3)
      Array([-1.,  0.,  1.], dtype=float32)

    References:
      LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998, appendix A.
    """
    return as_number("amplitude", amplitude) * jnp.tanh(as_number("slope", slope) * as_float_array("x", x))


@public_op
def gelu(x: jax.Array, approximate: bool | str = False) -> jax.Array:
    """Returns x P(X <= x) with X standard normal: the Gaussian error linear unit.

    Args:
      x: an array of any shape.
      approximate: True (or PyTorch's "tanh") for 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). The default
        is exact, as in the paper, PyTorch and Keras; that of jax.nn is not.

    Example:
      >>> gelu(jnp.array([0.0, 2.0]))
      Array([0.       , 1.9544997], dtype=float32)

    References:
      Hendrycks and Gimpel, Gaussian error linear units, arXiv:1606.08415.
    """
    if not isinstance(approximate, bool):
        one_of("approximate", approximate, ("none", "tanh"))
    x = as_float_array("x", x)
    if approximate in (True, "tanh"):
        return jax.nn.gelu(x, approximate=True)
    wide = x.astype(accumulator_dtype(x.dtype))
    return (wide * _normal_cdf(wide)).astype(x.dtype)


@jax.custom_jvp
def _normal_cdf(x: jax.Array) -> jax.Array:
    """Returns P(X <= x) = (1 + erf(x / sqrt(2))) / 2.

    As in PyTorch, the error is that of rounding numbers near 1: far to the left few digits are left.
    """
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))  # XLA takes many times as long for erfc


@_normal_cdf.defjvp
def _normal_cdf_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return _normal_cdf(x), dx * jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)


@public_op
def softplus(x: jax.Array, beta: float = 1.0, threshold: float | None = None) -> jax.Array:
    """Returns log(1 + exp(beta x)) / beta.

    Args:
      x: an array of any shape.
      beta: a number other than 0.
      threshold: where beta x is larger the value is x itself; None for nowhere. PyTorch's default is 20.

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
    """Returns exp(x)."""
    return jnp.exp(as_float_array("x", x))


@public_op
def hard_tanh(x: jax.Array, min_val: float = -1.0, max_val: float = 1.0) -> jax.Array:
    """Clips x to the range from min_val to max_val.

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
    """Returns sign(x) max(|x| - lambd, 0): x moved towards 0 by lambd.

    Example:
      >>> softshrink(jnp.array([-2.0, 0.3, 1.0]))
      Array([-1.5,  0. ,  0.5], dtype=float32)

    References:
      Donoho, De-noising by soft-thresholding, IEEE Trans. Inf. Theory 41(3), 1995.
    """
    x, lambd = as_float_array("x", x), at_least_0("lambd", lambd)
    return jnp.where(jnp.abs(x) <= lambd, jnp.zeros((), x.dtype), x - jnp.sign(x) * lambd)


@public_op
def hardshrink(x: jax.Array, lambd: float = 0.5) -> jax.Array:
    """Returns x where |x| > lambd, else 0.

    Example:
      >>> hardshrink(jnp.array([-2.0, 0.3, 1.0]))
      Array([-2.,  0.,  1.], dtype=float32)
    """
    x, lambd = as_float_array("x", x), as_number("lambd", lambd)
    return jnp.where(jnp.abs(x) <= lambd, jnp.zeros((), x.dtype), x)


@public_op
def tanhshrink(x: jax.Array) -> jax.Array:
    """Returns x - tanh(x)."""
    x = as_float_array("x", x)
    return x - jnp.tanh(x)


@public_op
def threshold(x: jax.Array, threshold: float, value: float = 0.0) -> jax.Array:
    """Returns x where x > threshold, else value.

    Example:
      >>> threshold(jnp.array([0.5, 1.0, 2.0]), 1.0)
      Array([0., 0., 2.], dtype=float32)
    """
    x, value = as_float_array("x", x), as_number("value", value)
    return jnp.where(x <= as_number("threshold", threshold), jnp.asarray(value, x.dtype), x)


@public_op
def leaky_relu(x: jax.Array, negative_slope: Parameter = 0.01) -> jax.Array:
    """Returns x where x > 0, else negative_slope x. Keras's default slope is 0.2.

    Example:
      >>> leaky_relu(jnp.array([-2.0, 3.0]), 0.5)
      Array([-1.,  3.], dtype=float32)

    References:
      Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models, ICML 2013.
    """
    x = as_float_array("x", x)
    return jnp.where(x > 0, x, as_parameter("negative_slope", negative_slope, x) * x)


@public_op
def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """Returns x where x > 0, else slope x: the relu with a learned slope.

    Args:
      x: `(..., C)`.
      slope: `()`, `(1,)` or `(C,)`, of x's dtype; or, as in Keras, x's last axes, each whole or of size 1.

    Example:
      >>> prelu(jnp.array([[-2.0, -2.0, 3.0]]), jnp.array([0.5, 0.25, 0.5]))
      Array([[-1. , -0.5,  3. ]], dtype=float32)

    References:
      He et al., Delving deep into rectifiers, ICCV 2015, arXiv:1502.01852.
    """
    x = as_float_array("x", x)
    return jnp.where(x > 0, x, channel_array("slope", slope, x) * x)


@public_op
def swish(x: jax.Array, beta: Parameter = 1.0) -> jax.Array:
    """Returns x sigmoid(beta x): `silu` where beta is 1.

    Args:
      x: `(..., C)`.
      beta: a number, or an array of x's dtype, of shape `()`, `(1,)` or `(C,)`, or others that x's shape ends with.

    Example:
      >>> swish(jnp.array([[-1.0, 2.0]]), jnp.array([0.0, 100.0]))
      Array([[-0.5,  2. ]], dtype=float32)

    References:
      Ramachandran, Zoph and Le, Searching for activation functions, arXiv:1710.05941.
    """
    x = as_float_array("x", x)
    return x * jax.nn.sigmoid(as_parameter("beta", beta, x) * x)


@public_op
def scaled_sigmoid(x: jax.Array, alpha: Parameter) -> jax.Array:
    """Returns alpha sigmoid(x), alpha mostly learned.

    Args:
      x: `(..., C)`.
      alpha: a number, or an array of x's dtype, of shape `()`, `(1,)` or `(C,)`, or others that x's shape ends with.

    Example:
      >>> scaled_sigmoid(jnp.zeros((1, 2)), jnp.array([1.0, 3.0]))
      Array([[0.5, 1.5]], dtype=float32)
    """
    x = as_float_array("x", x)
    return as_parameter("alpha", alpha, x) * jax.nn.sigmoid(x)


@public_op
def rrelu(x: jax.Array, lower: float = 1 / 8, upper: float = 1 / 3, *, key: jax.Array | None = None) -> jax.Array:
    """Returns x where x > 0, else a x, with a drawn per element between lower and upper.

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
    slope: Parameter = (lower + upper) / 2
    if key is not None:
        check_key(key)
        slope = jax.random.uniform(key, x.shape, x.dtype, lower, upper)
    return jnp.where(x > 0, x, slope * x)
