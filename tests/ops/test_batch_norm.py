"""Batch normalisation against its formula in float64, finite differences, flax's layer and PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

from cnnjax import layers, ops
from tests.cases import value_and_gradients

RNG = np.random.default_rng(0)
SHAPES = [(6, 3), (4, 5, 3), (3, 4, 5, 7), (2, 3, 2, 3, 5)]


def by_formula(x, scale, bias, epsilon):
    axes = tuple(range(x.ndim - 1))
    mean, var = x.mean(axes), x.var(axes)
    return scale * (x - mean) / np.sqrt(var + epsilon) + bias, mean, var


@pytest.mark.parametrize("shape", SHAPES)
def test_the_formula_and_its_derivatives(shape: tuple[int, ...]) -> None:
    x, scale, bias = RNG.normal(1, 2, shape), RNG.normal(size=shape[-1]), RNG.normal(size=shape[-1])
    with jax.enable_x64(True):
        for got, expected in zip(ops.batch_norm(x, scale, bias), by_formula(x, scale, bias, 1e-5), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)
        order = 2 if x.ndim == 2 else 1  # test_transformations has the second of images
        check_grads(jax.jit(lambda *a: ops.batch_norm(*a, epsilon=0.1)), (x, scale, bias), order=order, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_against_pytorch(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    x = RNG.normal(1, 2, shape)
    scale, bias = RNG.normal(size=shape[-1]), RNG.normal(size=shape[-1])
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda *a: ops.batch_norm(*a)[0], x, scale, bias)
    tensors = [torch.tensor(a, requires_grad=True) for a in (np.moveaxis(x, -1, 1).copy(), scale, bias)]
    result = torch.nn.functional.batch_norm(tensors[0], None, None, *tensors[1:], training=True)
    result.backward(torch.tensor(np.moveaxis(ct, -1, 1).copy()))
    expected = [a.detach().numpy() for a in (result, *(t.grad for t in tensors))]
    for g, e in zip(got, expected, strict=True):
        np.testing.assert_allclose(g, np.moveaxis(e, 1, -1) if e.ndim > 1 else e, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_layer_is_flaxs_in_training_and_evaluation(dtype: str) -> None:
    own, flaxs = (kind(5, momentum=0.9, rngs=nnx.Rngs(0)) for kind in (layers.BatchNorm, nnx.BatchNorm))
    x = jnp.asarray(RNG.normal(1, 2, (4, 3, 3, 5)), dtype)
    for layer in (own, flaxs):
        layer.scale[...], layer.bias[...] = jnp.arange(1.0, 6.0), jnp.arange(5.0)
    bound = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-3}[dtype]
    with jax.numpy_dtype_promotion("standard"):  # flax's own
        theirs = flaxs(x)
    np.testing.assert_allclose(own(x).astype("float32"), theirs.astype("float32"), rtol=bound, atol=bound)
    for name in ("mean", "var"):  # in float32 whatever x is
        assert getattr(own, name)[...].dtype == "float32"
        np.testing.assert_allclose(getattr(own, name)[...], getattr(flaxs, name)[...], rtol=bound, atol=bound)
    assert own(x).dtype == dtype
    before = own.mean[...]
    own.eval(), flaxs.eval()
    flaxs.mean[...], flaxs.var[...] = own.mean[...], own.var[...]
    with jax.numpy_dtype_promotion("standard"):
        theirs = flaxs(x)
    assert own(x).dtype == dtype, "as in training; flax's own gives float32"
    np.testing.assert_array_equal(own(x), theirs.astype(dtype))
    np.testing.assert_array_equal(own.mean[...], before)


def test_half_precision_is_summed_in_float32() -> None:
    x = jnp.full((4096, 1), 1, "bfloat16").at[::2].set(3)
    y, mean, var = ops.batch_norm(x, jnp.ones(1, "bfloat16"), jnp.zeros(1, "bfloat16"))
    assert (y.dtype, mean.dtype, var.dtype) == ("bfloat16", "float32", "float32")
    assert (float(mean[0]), float(var[0])) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"),
    [
        ((jnp.ones((2, 3)), jnp.ones(2), jnp.ones(3)), {}, ValueError, r"scale and bias must be \(C,\).*\(2,\)"),
        ((jnp.ones((0, 3)), jnp.ones(3), jnp.ones(3)), {}, ValueError, "not empty"),
        ((jnp.ones(3), jnp.ones(3), jnp.ones(3)), {}, ValueError, r"x \(3,\)"),
        ((jnp.ones((2, 3)), jnp.ones(3), jnp.ones(3)), {"epsilon": -1.0}, ValueError, "epsilon must not be negative"),
        ((jnp.ones((2, 3), int), jnp.ones(3), jnp.ones(3)), {}, TypeError, "x must be"),
    ],
)
def test_bad_input(arguments, keywords, error, message) -> None:
    with pytest.raises(error, match=message):
        ops.batch_norm(*arguments, **keywords)


@pytest.mark.thorough
@pytest.mark.parametrize("pooled", [False, True])
def test_parts_of_a_batch_are_normalised_by_themselves(pooled: bool) -> None:
    x, scale, bias = RNG.normal(1, 2, (8, 4, 6, 3)), RNG.normal(size=3), RNG.normal(size=3)
    x[:2] += 5  # so that the parts differ
    of_parts = [by_formula(part, scale, bias, 1e-5) for part in np.split(x, 4)]
    y = np.concatenate([one[0] for one in of_parts])
    mean, var = (np.mean([one[number] for one in of_parts], 0) for number in (1, 2))
    op, window = (ops.batch_norm_max_pool, (2,)) if pooled else (ops.batch_norm, ())
    if pooled:
        y = y.reshape(8, 2, 2, 3, 2, 3).max((2, 4))
    with jax.enable_x64(True):
        for got, expected in zip(op(x, scale, bias, *window, parts=4), (y, mean, var), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)

        def loss(op, *arrays):  # each part alone, so that the gradient is the sum over the parts
            return (op(*arrays)[0] ** 3).sum()

        ours = jax.grad(lambda *a: loss(lambda *b: op(*b, *window, parts=4), *a), (0, 1, 2))(x, scale, bias)
        alone = [jax.grad(lambda *a: loss(lambda *b: op(*b, *window), *a), (0, 1, 2))(part, scale, bias)
                 for part in np.split(x, 4)]  # fmt: skip
    np.testing.assert_allclose(ours[0], np.concatenate([one[0] for one in alone]), rtol=1e-10, atol=1e-12)
    for number in (1, 2):
        np.testing.assert_allclose(ours[number], sum(np.asarray(one[number]) for one in alone), rtol=1e-10)


@pytest.mark.parametrize("parts", [0, 3])
def test_parts_must_divide_the_batch(parts: int) -> None:
    for op, window in ((ops.batch_norm, ()), (ops.batch_norm_max_pool, ((2,),))):
        with pytest.raises(ValueError, match=f"divide the batch, got {parts} for a batch of 4"):
            op(jnp.ones((4, 2, 3)), jnp.ones(3), jnp.ones(3), *window, parts=parts)
