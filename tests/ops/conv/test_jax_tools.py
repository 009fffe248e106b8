"""Convolutions under JAX's own tools, where a primitive of ours must behave as one of lax's."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify, jet
from jax.scipy.sparse.linalg import bicgstab

from cnnjax import ops
from cnnjax.ops.conv import onednn

pytestmark = pytest.mark.thorough

X = jnp.sin(jnp.arange(2 * 8 * 9 * 4.0)).reshape(2, 8, 9, 4)
W = jnp.cos(jnp.arange(3 * 3 * 4 * 4.0)).reshape(3, 3, 4, 4)
OPS = {
    "conv": partial(ops.conv, padding=1),
    "strided": partial(ops.conv, stride=2),
    "few channels": lambda x, w: ops.conv(x[..., :1], w[:, :, :1]),
    "transposed": partial(ops.conv_transpose, stride=2),
    "depthwise": lambda x, w: ops.depthwise_conv(x, w[..., :1]),
}
each_op = pytest.mark.parametrize("op", OPS.values(), ids=OPS)


def loss(op, x, w):
    return (op(x, w) ** 2).sum()


@each_op
def test_without_jit(op) -> None:
    expected, expected_dw = jax.jit(lambda x, w: (op(x, w), jax.grad(partial(loss, op), 1)(x, w)))(X, W)
    with jax.disable_jit():
        y, dw = op(X, W), jax.grad(partial(loss, op), 1)(X, W)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, expected_dw, rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore")
@each_op
def test_debug_nans_finds_the_nan_and_lets_numbers_pass(op, capsys) -> None:
    with jax.debug_nans(True):
        op(X, W)
        with pytest.raises(FloatingPointError, match="nan"):
            jax.jit(op)(X.at[0, 0, 0, 0].set(jnp.nan), W)


@each_op
def test_checkify_sees_a_nan_that_the_op_makes(op) -> None:
    checked = jax.jit(checkify.checkify(op, errors=checkify.float_checks))
    error, _ = checked(X, W)
    assert error.get() is None
    error, _ = checked(jnp.full_like(X, jnp.inf), W)  # infinity minus infinity
    assert "nan generated" in error.get()


@each_op
def test_linear_transpose_is_the_adjoint(op) -> None:
    @jax.jit
    def products(x, w):
        value = op(x, w)
        y = jnp.cos(jnp.arange(float(value.size))).reshape(value.shape)
        (dx,) = jax.linear_transpose(lambda x: op(x, w), x)(y)
        return (dx * x).sum(), (value * y).sum()

    np.testing.assert_allclose(*products(X, W), rtol=1e-4)


def test_gradients_pass_through_a_linear_solver() -> None:
    w = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(4.0) + 0.1 * W[:, :, :1, :1]
    target = X[:1, :, :, :1]

    def solution(w):
        return bicgstab(lambda x: ops.conv(x, w, padding=1), target)[0]

    def by_matrix(w):
        matrix = ops.toeplitz_matrix(w, (8, 9), padding=1)
        return jnp.linalg.solve(matrix, target.ravel()).reshape(target.shape)

    weights = jnp.cos(target)
    got, expected = jax.jit(
        lambda w: [jax.grad(lambda w, f=f: (f(w) * weights).sum())(w) for f in (solution, by_matrix)]
    )(w)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@each_op
def test_jet_gives_the_derivatives_of_nested_jvps(op) -> None:
    @jax.jit
    def both(x, w):
        zeros = jnp.zeros_like(x), jnp.zeros_like(w)
        first = jnp.cos(x), jnp.sin(w)
        _, series = jet.jet(op, (x, w), [[dx, zero, zero] for dx, zero in zip(first, zeros, strict=True)])
        derivatives = [lambda t: op(x + t * first[0], w + t * first[1])]
        for _ in series:
            derivatives.append(partial(lambda f, t: jax.jvp(f, (t,), (1.0,))[1], derivatives[-1]))
        return series, [derivative(0.0) for derivative in derivatives[1:]]

    with jax.enable_x64(True):
        for term, expected in zip(*both(X.astype("float64"), W.astype("float64")), strict=True):
            np.testing.assert_allclose(term, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not onednn.is_available(), reason="Winograd's kernel gradient runs with oneDNN alone")
def test_default_matmul_precision_counts_as_a_precision() -> None:
    arrays = jnp.ones((2, 10, 10, 40)), jnp.ones((3, 3, 40, 40))

    def text() -> str:
        return jax.jit(lambda x, w: jax.grad(lambda w: loss(ops.conv, x, w))(w)).lower(*arrays).as_text()

    assert "36x" in text()
    with jax.default_matmul_precision("highest"):
        assert "36x" not in text()


#: float32 takes the way of float64, float16 that of bfloat16.
SLOW_DTYPES = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in ("float32", "float16")]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", *SLOW_DTYPES])
def test_strict_promotion_of_dtypes_and_ranks(dtype: str) -> None:
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"), jax.enable_x64(True):
        x, w, b = X.astype(dtype), W.astype(dtype), jnp.arange(4.0).astype(dtype)
        for f in (
            lambda x, w, b: ops.conv(x, w, b, padding=1, stride=2),
            lambda x, w, b: ops.conv(x, w, b, algorithm="winograd"),
            lambda x, w, b: ops.conv(x, w, b, preferred_element_type="float32").astype(dtype),
            lambda x, w, b: ops.conv_transpose(x, w, b, stride=2),
            lambda x, w, b: ops.separable_conv(x, w[..., :2], w.reshape(-1, 4)[:8], b),
            lambda x, w, b: ops.deform_conv(x, w, x[:, :6, :7, :1].repeat(18, -1), None, b),
            lambda x, w, b: ops.local_conv(x, w[0, :1].repeat(72, 0).reshape(8, 9, 4, 4), b, window=1),
            lambda x, w, b: ops.connected_conv(x, w, jnp.ones((4, 4), bool), b),
        ):
            # what promotes raises while traced or lowered: nothing is compiled
            lowered = jax.jit(lambda *arrays, f=f: (f(*arrays), jax.vjp(f, *arrays)[1](f(*arrays)))).lower(x, w, b)
            assert {each.dtype for each in jax.tree.leaves(lowered.out_info)} == {jnp.dtype(dtype)}


@each_op
def test_vmap_over_kernels_images_and_both(op) -> None:
    stacks = jnp.stack([X, X[::-1], 2 * X]), jnp.stack([W, 2 * W, jnp.sin(W)])
    both = jax.value_and_grad(lambda x, w: (loss(op, x, w), op(x, w)), (0, 1), has_aux=True)
    alone = jax.jit(both)
    kinds = [(0, None), (None, 0), (0, 0)]
    arguments = [
        [many if axis == 0 else one for many, one, axis in zip(stacks, (X, W), axes, strict=True)] for axes in kinds
    ]
    found = jax.jit(lambda every: [jax.vmap(both, axes)(*arrays) for axes, arrays in zip(kinds, every, strict=True)])(
        arguments
    )
    for axes, mapped, ((_, y), gradients) in zip(kinds, arguments, found, strict=True):
        for i in range(3):
            one = [a[i] if axis == 0 else a for a, axis in zip(mapped, axes, strict=True)]
            (_, expected), expected_gradients = alone(*one)
            np.testing.assert_allclose(y[i], expected, rtol=1e-4, atol=1e-4)
            for got, wanted in zip(gradients, expected_gradients, strict=True):
                np.testing.assert_allclose(got[i], wanted, rtol=1e-4, atol=1e-3)


def test_numpy_ints_and_arrays_as_arguments() -> None:
    padding = np.array([[1, 1], [0, 2]])
    got = ops.conv(X, W[:, :, :2], groups=np.int64(2), stride=np.array([1, 2]), padding=padding)
    expected = ops.conv(X, W[:, :, :2], groups=2, stride=(1, 2), padding=((1, 1), (0, 2)))
    np.testing.assert_array_equal(got, expected)


def test_complex_arrays_are_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"complex.*real"):
        ops.conv(X.astype("complex64"), W)


@pytest.mark.parametrize("op", [ops.conv, partial(ops.conv_transpose, stride=2)])
def test_empty_batches(op) -> None:
    y, pull = jax.vjp(op, X[:0], W)
    dx, dw = pull(y)
    assert y.shape[0] == 0 and dx.shape == (0, 8, 9, 4) and not dw.any()
