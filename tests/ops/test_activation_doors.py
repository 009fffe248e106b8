"""The door of the activation functions that jax.nn has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.ops import activations
from tests.tables import in_one_case

#: What a user of torch.nn.functional or keras.activations looks for.
PYTORCH = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "rrelu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softmin",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
]
KERAS = [
    "celu",
    "elu",
    "exponential",
    "gelu",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softplus",
    "softsign",
    "sparse_plus",
    "sparse_sigmoid",
    "sparsemax",
    "squareplus",
    "swish",
    "tanh",
    "tanh_shrink",
    "threshold",
]

X = jnp.ones((2, 4))


@in_one_case("name", sorted({*PYTORCH, *KERAS, *activations.__all__}))
def test_only_float_arrays_come_in(name):
    f = getattr(ops, name)
    arguments = {"prelu": (X[0],), "threshold": (0.5,), "maxout": (2,), "scaled_sigmoid": (X[0],)}.get(name, ())
    assert jax.eval_shape(lambda x: f(x, *arguments), X).dtype == X.dtype and f.__doc__ and f.__module__
    with pytest.raises(TypeError, match="x must be an array of numbers, got one of dtype <U1"):
        f(np.array(["a", "b"]), *arguments)
    with pytest.raises(TypeError, match="x must be an array, got str"):
        f("relu", *arguments)
    with pytest.raises(TypeError, match="takes no inplace=; its arguments are x"):
        f(X, *arguments, inplace=True)
    if name in ("identity", "linear", "relu"):
        assert jax.eval_shape(f, X.astype(int)).dtype == "int32"
    else:
        with pytest.raises(TypeError, match=r"x must be float32.* got int32: convert it first"):
            f(X.astype(int), *arguments)


@in_one_case(
    ("name", "arguments", "keywords", "error", "words"),
    [
        ("softmax", (X,), {"dim": 1}, TypeError, "softmax takes axis=, not dim="),
        ("log_softmax", (X, 2), {}, ValueError, "axis must be one of x's 2, got 2"),
        ("log_softmax", (X, (0, 2)), {}, ValueError, "axis must be one of x's 2, got 2"),
        ("softmax", (X, 1.0), {}, TypeError, "axis must be made of ints, got 1.0"),
        ("softmin", (X, 2), {}, ValueError, "axis must be one of x's 2, got 2"),
        ("softmax", (jnp.ones(()),), {}, ValueError, "axis must be one of x's 0, got -1"),
        ("glu", (X[:, :3],), {}, ValueError, r"axis must be one of even size, got axis 1"),
        ("elu", (X, "1"), {}, TypeError, "alpha must be a number, got '1'"),
        ("elu", (X, X.astype("bfloat16")), {}, TypeError, "x and alpha must share a dtype"),
        ("celu", (X, 0), {}, ValueError, "alpha must not be 0"),
        ("leaky_relu", (X,), {"negative_slope": None}, TypeError, "negative_slope must be a number, got None"),
        ("relu", (), {}, TypeError, "missing a required argument: 'x'"),
        ("prelu", (X, jnp.ones((3, 2, 4))), {}, ValueError, r"slope must have .* got \(3, 2, 4\)"),
    ],
)
def test_errors(name, arguments, keywords, error, words):
    with pytest.raises(error, match=words):
        getattr(ops, name)(*arguments, **keywords)


def test_parameters_may_be_learned():
    dalpha = jax.grad(lambda alpha: ops.elu(-X, alpha).sum())(jnp.ones(4))
    np.testing.assert_allclose(dalpha, 2 * np.expm1(-np.ones(4)), rtol=1e-6)
    np.testing.assert_allclose(ops.softmax(X, (0, 1)), np.full((2, 4), 1 / 8), rtol=1e-6)


def test_prelu_with_slopes_that_differ_from_place_to_place():
    slope = jnp.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(ops.prelu(-X, slope), -slope)
    np.testing.assert_array_equal(ops.prelu(-jnp.ones((3, 2, 4)), slope[:, :1])[0, 1], [-4] * 4)
    assert ops.prelu(jnp.float32(-1), jnp.array([0.5])) == -0.5
