"""The activation functions against PyTorch and against their formulas."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.ops import activations
from tests.tables import in_one_case

POINTS = np.array([-40.0, -6, -3, -1.5, -1, -0.5, -0.2, 0, 0.2, 0.5, 1, 1.5, 3, 6, 40, np.inf, -np.inf, np.nan])

#: cnnjax's name, its keywords, PyTorch's name, its keywords.
PAIRS = [
    *((name, {}, name, {}) for name in ("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh")),
    *((name, {}, name, {}) for name in ("logsigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu")),
    *((name, {}, name, {}) for name in ("softshrink", "softsign", "tanh", "tanhshrink", "rrelu", "leaky_relu")),
    ("celu", {"alpha": 0.8}, "celu", {"alpha": 0.8}),
    ("elu", {"alpha": 0.8}, "elu", {"alpha": 0.8}),
    ("gelu", {"approximate": True}, "gelu", {"approximate": "tanh"}),
    ("gelu", {"approximate": "tanh"}, "gelu", {"approximate": "tanh"}),
    ("hard_silu", {}, "hardswish", {}),
    ("hard_tanh", {"min_val": -0.5, "max_val": 3.0}, "hardtanh", {"min_val": -0.5, "max_val": 3.0}),
    ("leaky_relu", {"negative_slope": 0.3}, "leaky_relu", {"negative_slope": 0.3}),
    ("prelu", {"slope": np.array(0.3)}, "prelu", {"weight": 0.3}),
    ("rrelu", {"lower": 0.0, "upper": 0.5}, "rrelu", {"lower": 0.0, "upper": 0.5}),
    ("softplus", {"threshold": 20.0}, "softplus", {}),
    ("softplus", {"beta": 3.0, "threshold": 0.2}, "softplus", {"beta": 3, "threshold": 0.2}),
    ("softshrink", {"lambd": 1.0}, "softshrink", {"lambd": 1.0}),
    ("hardshrink", {"lambd": 1.0}, "hardshrink", {"lambd": 1.0}),
    ("swish", {}, "silu", {}),
    ("swish", {"beta": 1.0}, "silu", {}),
    ("threshold", {"threshold": 0.2, "value": -9.0}, "threshold", {"threshold": 0.2, "value": -9.0}),
]


@functools.cache
def values_and_slopes():
    """Those of every pair at `POINTS`, from one program."""
    functions = [functools.partial(getattr(ops, name), **keywords) for name, keywords, *_ in PAIRS]
    with jax.enable_x64(True):
        return jax.jit(lambda x: [(f(x), jax.grad(lambda x, f=f: f(x).sum())(x)) for f in functions])(jnp.array(POINTS))


@in_one_case("number", range(len(PAIRS)))
def test_elementwise_against_pytorch(number):
    torch = pytest.importorskip("torch")
    _, _, their_name, theirs = PAIRS[number]
    if "weight" in theirs:
        theirs = {"weight": torch.tensor([theirs["weight"]], dtype=torch.float64)}
    y, dx = values_and_slopes()[number]
    t = torch.tensor(POINTS, requires_grad=True)
    expected = getattr(torch.nn.functional, their_name)(t, **theirs)
    expected.sum().backward()
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-12, atol=1e-14)
    # PyTorch's gradients at NaN are what its branches happen to give, and it holds some constants (1/6, alpha)
    # in float32
    same = np.isfinite(POINTS)
    np.testing.assert_allclose(np.asarray(dx)[same], t.grad.numpy()[same], rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("name", ["glu", "log_softmax", "softmax", "softmin"])
@pytest.mark.parametrize("axis", [-1, 1])
def test_along_an_axis_against_pytorch(name, axis):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(3, 4, 6))
    with jax.enable_x64(True):
        f = functools.partial(getattr(ops, name), axis=axis)
        y, dx = jax.jit(lambda x: (f(x), jax.grad(lambda x: (f(x) ** 2).sum())(x)))(x)
    t = torch.tensor(x, requires_grad=True)
    expected = getattr(torch.nn.functional, name)(t, dim=axis)
    expected.square().sum().backward()
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(dx, t.grad, rtol=1e-11, atol=1e-14)


def test_what_pytorch_lacks():
    x = np.random.default_rng(0).normal(size=(3, 6))
    first, second = x[:, :3], x[:, 3:]
    by_unit = np.array([0.0, -2.0, 0.5, 1.0, 3.0, 7.0])
    alphas = [np.float64(3), np.float64(-2), by_unit, by_unit[:1], by_unit[1], x[:, :1]]

    @jax.jit
    def together(x, second, alphas):
        return {
            "gated": [ops.reglu(x), ops.geglu(x), ops.gelu(second), ops.swiglu(x)],
            "larger": [ops.crelu(x, 0), ops.maxout(x, 3), ops.maxout(x, 3, 0)],
            "smooth": [ops.scaled_tanh(x), ops.exponential(x), ops.softplus(x)],
            "trained": [(ops.scaled_sigmoid(x, alpha), ops.swish(x, alpha)) for alpha in alphas],
            "of a Python number": ops.scaled_sigmoid(x, 3.0),
        }

    with jax.enable_x64(True):
        found = jax.device_get(together(x, second, alphas))
    reglu, geglu, gelu, swiglu = found["gated"]
    np.testing.assert_allclose(reglu, first * np.maximum(second, 0), rtol=1e-14)
    np.testing.assert_allclose(geglu, first * gelu, rtol=1e-14)
    np.testing.assert_allclose(swiglu, first * second / (1 + np.exp(-second)), rtol=1e-14)
    crelu, maxout, over_the_batch = found["larger"]
    np.testing.assert_array_equal(crelu, np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)]))
    np.testing.assert_array_equal(maxout, x.reshape(3, 2, 3).max(-1))
    np.testing.assert_array_equal(over_the_batch, x.max(0, keepdims=True))
    tanh, exponential, softplus = found["smooth"]
    np.testing.assert_allclose(tanh, 1.7159 * np.tanh(x * 2 / 3), rtol=1e-14)
    np.testing.assert_allclose(exponential, np.exp(x), rtol=1e-14)
    np.testing.assert_allclose(softplus, np.log1p(np.exp(x)), rtol=1e-13)
    sigmoid = 1 / (1 + np.exp(-x))
    for alpha, (scaled, swish) in zip(alphas, found["trained"], strict=True):
        np.testing.assert_allclose(scaled, alpha * sigmoid, rtol=1e-14)
        np.testing.assert_allclose(swish, x / (1 + np.exp(-alpha * x)), rtol=1e-13)
    np.testing.assert_allclose(found["of a Python number"], 3 * sigmoid, rtol=1e-14)
    dx = jax.grad(lambda x: ops.maxout(x, 3).sum())(jnp.array([1.0, 2.0, 2.0]))
    assert dx.tolist() == [0, 1, 0]


def test_the_gradients_of_trained_parameters():
    """By hand: d swish / d beta = x^2 s (1 - s) with s = sigmoid(beta x), d scaled_sigmoid / d alpha = sigmoid(x)."""
    x = np.random.default_rng(0).normal(size=(5, 3))
    beta = np.array([0.5, -1.0, 2.0])
    with jax.enable_x64(True):
        dbeta = jax.grad(lambda beta: ops.swish(jnp.array(x), beta).sum())(jnp.array(beta))
        dalpha = jax.grad(lambda alpha: ops.scaled_sigmoid(jnp.array(x), alpha).sum())(jnp.zeros(3))
        dslope = jax.grad(lambda slope: ops.prelu(jnp.array(x), slope).sum())(jnp.array(beta))
    s = 1 / (1 + np.exp(-beta * x))
    np.testing.assert_allclose(dbeta, (x * x * s * (1 - s)).sum(0), rtol=1e-12)
    np.testing.assert_allclose(dalpha, (1 / (1 + np.exp(-x))).sum(0), rtol=1e-12)
    np.testing.assert_allclose(dslope, np.minimum(x, 0).sum(0), rtol=1e-12)


def test_sparsemax_of_large_numbers():
    """Only differences count: of masked entries, too."""
    for x, expected in (
        ([1e8, 0], [1, 0]),
        ([-1e9, -1e9, -2e9], [0.5, 0.5, 0]),
        ([3e7, 1, -np.inf], [1, 0, 0]),
    ):
        np.testing.assert_array_equal(ops.sparsemax(jnp.array(x, jnp.float32)), expected)
    gradient = jax.grad(lambda x: ops.sparsemax(x)[0])(jnp.array([-1e9, -1e9]))
    np.testing.assert_array_equal(gradient, [0.5, -0.5])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gelu_in_halves_has_its_left_tail(dtype):
    x = jnp.array([-2, -2.5, -3, -3.5], dtype)
    exact = [v * math.erfc(-v / math.sqrt(2)) / 2 for v in np.asarray(x, float)]
    y = ops.gelu(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.asarray(y, float), exact, rtol=4e-3 if dtype == "bfloat16" else 2e-3)


@pytest.mark.parametrize("axis", [-1, 0])
def test_sparsemax_is_the_projection_on_the_simplex(axis):
    x = np.random.default_rng(0).normal(size=(7, 9))
    with jax.enable_x64(True):
        y = np.asarray(jax.jit(lambda x: ops.sparsemax(x, axis))(x))
        gradient = jax.jit(jax.jacobian(ops.sparsemax))(x[0])
    # tau by bisection
    low, high = x.min(axis, keepdims=True) - 1, x.max(axis, keepdims=True)
    for _ in range(80):
        middle = (low + high) / 2
        above = np.maximum(x - middle, 0).sum(axis, keepdims=True) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    np.testing.assert_allclose(y, np.maximum(x - low, 0), atol=1e-14)
    if axis == -1:
        support = (y[0] > 0).astype(float)
        expected = np.diag(support) - np.outer(support, support) / support.sum()
        np.testing.assert_allclose(gradient, expected, atol=1e-14)


def test_rrelu_draws_between_its_bounds():
    x = -jnp.ones(1000)
    y = ops.rrelu(x, 0.25, 0.5, key=jax.random.key(0))
    assert -0.5 <= y.min() < -0.49 and -0.26 < y.max() <= -0.25
    assert (ops.rrelu(-x, key=jax.random.key(0)) == 1).all()


@in_one_case("dtype", ["float32", "bfloat16"])
@in_one_case("name", activations.__all__)
def test_dtypes_and_names(name, dtype):
    arguments = {"threshold": (0.5,), "maxout": (2,), "scaled_sigmoid": (2.0,)}.get(name, ())
    with jax.enable_x64(True):
        x = jnp.linspace(-2, 2, 8).astype(dtype).reshape(2, 4)
        if name == "prelu":
            arguments = (x[0],)
        y = jax.eval_shape(lambda x: getattr(ops, name)(x, *arguments), x)
    assert y.dtype == dtype and getattr(activations, name) is getattr(ops, name)


X = jnp.ones((2, 3))


@in_one_case(
    ("name", "arguments", "keywords", "error", "words"),
    [
        ("gelu", (X,), {"approximate": "yes"}, ValueError, "approximate must be one of 'none', 'tanh', got 'yes'"),
        ("softplus", (X,), {"beta": 0}, ValueError, "beta must not be 0"),
        ("softplus", (X,), {"threshold": "20"}, TypeError, "threshold must be a number, got '20'"),
        ("hard_tanh", (X, 1, 0), {}, ValueError, "min_val must be at most max_val, got 1 and 0"),
        ("softshrink", (X, -1), {}, ValueError, "lambd must be at least 0, got -1"),
        ("threshold", (X, None), {}, TypeError, "threshold must be a number, got None"),
        ("prelu", (X, jnp.ones(2)), {}, ValueError, r"slope must have shape \(\), \(1,\) or \(3,\), .* got \(2,\)"),
        ("prelu", (X, jnp.ones(3, "bfloat16")), {}, TypeError, "x and slope must share a dtype"),
        ("swish", (X, jnp.ones((5, 1, 1))), {}, ValueError, r"beta must have shape .* got \(5, 1, 1\)"),
        ("leaky_relu", (jnp.ones(3), jnp.ones((2, 3))), {}, ValueError, r"ends with, got \(2, 3\)"),
        ("elu", (jnp.ones((1, 3)), jnp.ones((5, 1))), {}, ValueError, r"ends with, got \(5, 1\)"),
        ("swish", (X,), {"beta": "1"}, TypeError, "beta must be a number, got '1'"),
        ("scaled_sigmoid", (X, jnp.ones(2)), {}, ValueError, r"alpha must have shape \(\), .* got \(2,\)"),
        ("scaled_sigmoid", (X, jnp.ones(3, "bfloat16")), {}, TypeError, "x and alpha must share a dtype"),
        ("rrelu", (X, 0.5, 0.25), {}, ValueError, r"lower must be at most upper, got 0\.5 and 0\.25"),
        ("rrelu", (X,), {"key": 0}, TypeError, "key must be one random key"),
        ("maxout", (X, 2), {}, ValueError, "pieces must divide the 3 entries of axis 1, got 2"),
        ("swiglu", (X,), {}, ValueError, r"axis must be one of even size, got axis 1 of shape \(2, 3\)"),
        ("sparsemax", (X, 2), {}, ValueError, "axis must be one of x's 2, got 2"),
        ("softmin", (X,), {"dim": 1}, TypeError, "softmin takes axis=, not dim="),
        ("scaled_tanh", (jnp.ones(3, int),), {}, TypeError, "x must be float32.* got int32: convert it first"),
    ],
)
def test_errors(name, arguments, keywords, error, words):
    with pytest.raises(error, match=words):
        getattr(ops, name)(*arguments, **keywords)
