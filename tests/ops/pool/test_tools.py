"""JAX's own tools on every pool: what works on an op of lax works on a pool."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import checkify, jet

from cnnjax import ops
from tests.ops.pool.cases import BESIDE_EXAMPLES, INDICES, POOLS, SHAPE, gradient, quick_and_slow, sample

pytestmark = pytest.mark.thorough

ALL, QUICK = list(POOLS), quick_and_slow()
#: Where tests/ops/test_jax_tools.py and test_export.py do the same with an example of every op.
BESIDE = quick_and_slow(BESIDE_EXAMPLES)


def assert_close(actual, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), actual, expected)


def both(op):
    return lambda x: (op(x), gradient(op)(x))


@pytest.mark.parametrize("name", BESIDE)
def test_pools_run_without_jit(name):
    op, x = POOLS[name], sample()
    expected = jax.jit(both(op))(x)
    with jax.disable_jit():
        assert_close(both(op)(x), expected)


@pytest.mark.parametrize("name", quick_and_slow((*BESIDE_EXAMPLES, "max padded")))
def test_debug_nans_finds_nan_and_nothing_else(name):
    op, x = POOLS[name], sample()
    with jax.debug_nans(True):
        both(op)(x)
        with pytest.raises(FloatingPointError):
            op(jnp.full_like(x, jnp.nan))


@pytest.mark.parametrize("name", QUICK)
def test_checkify_sees_nan_in_values_and_cotangents(name):
    op, x = POOLS[name], sample()

    def pull(x, dy):
        return jax.vjp(op, x)[1](dy)

    dy = jnp.ones_like(jax.eval_shape(op, x))
    checked = jax.jit(checkify.checkify(pull, errors=checkify.float_checks))
    assert checked(x, dy)[0].get() is None
    assert "nan" in checked(x.at[0, 2, 2].set(jnp.nan), dy)[0].get()
    assert "nan" in checked(x, dy.at[0].set(jnp.nan))[0].get()
    # forward alone
    checked = jax.jit(checkify.checkify(op, errors=checkify.float_checks))
    assert "nan" in checked(x.at[0, 2, 2].set(jnp.nan))[0].get()


#: float32 takes the way of float64, float16 that of bfloat16.
DTYPES = [("bfloat16", "float64"), pytest.param(("float32", "float16"), marks=pytest.mark.slow)]


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("name", ALL)
def test_promotion_is_strict_in_every_dtype(name, dtypes):
    op = POOLS[name]
    for dtype in dtypes:
        with (
            jax.enable_x64(dtype == "float64"),
            jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"),
        ):
            x = jnp.ones(SHAPE, dtype)
            # what promotes raises while traced or lowered: nothing is compiled
            lowered = jax.jit(lambda x: (*both(op)(x), *jax.vmap(both(op))(x[None]))).lower(x)
            assert {each.dtype for each in jax.tree.leaves(lowered.out_info)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", list(INDICES))
def test_indices_promote_strictly(name):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        info = jax.jit(INDICES[name]).lower(jnp.ones(SHAPE, "bfloat16")).out_info
    assert [each.dtype for each in info] == [jnp.bfloat16, jnp.int32]


@pytest.mark.parametrize("name", [name for name in POOLS if "avg" in name])
def test_averages_are_transposed_by_linear_transpose(name):
    op, x = POOLS[name], sample()
    dy = jnp.sin(jnp.arange(op(x).size, dtype="float32")).reshape(op(x).shape)
    (dx,) = jax.linear_transpose(op, x)(dy)
    np.testing.assert_allclose(jnp.vdot(dx, x), jnp.vdot(dy, op(x)), rtol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_taylor_series_are_those_of_nested_tangents(name):
    op = POOLS[name]

    def derivative(f):
        return lambda t: jax.jvp(f, (t,), (jnp.ones_like(t),))[1]

    @jax.jit
    def series(x, v):
        y, terms = jet.jet(op, (x,), ([v, jnp.zeros_like(v), jnp.zeros_like(v)],))
        nested = [lambda t: op(x + t * v)]
        for _ in range(3):
            nested.append(derivative(nested[-1]))
        return [y, *terms], [f(jnp.zeros((), x.dtype)) for f in nested]

    with jax.enable_x64(True):
        x = sample(dtype="float64")
        actual, expected = series(x, jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape))
    for term, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(term, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ALL)
def test_empty_batches_give_empty_results(name):
    y, dx = jax.jit(both(POOLS[name]))(jnp.zeros((0, *SHAPE[1:])))
    assert y.shape[0] == 0
    assert dx.shape == (0, *SHAPE[1:])


def test_gradient_of_many_taps_on_an_empty_batch_without_jit():
    assert jax.grad(lambda x: ops.max_pool(x, 9).sum())(jnp.zeros((0, 9, 9, 2))).shape == (0, 9, 9, 2)


@pytest.mark.parametrize("name", BESIDE)
def test_a_symbolic_batch_is_exported_for_every_platform(name):
    f = both(POOLS[name])
    spec = jax.ShapeDtypeStruct(export.symbolic_shape("b, 8, 9, 4"), "float32")
    exported = export.export(jax.jit(f), platforms=("cpu", "cuda", "tpu"))(spec)
    for batch in (1, 3):
        x = sample((batch, *SHAPE[1:]))
        assert_close(exported.call(x), jax.jit(f)(x))


@pytest.mark.parametrize("name", ALL)
def test_no_call_of_the_cpu_stands_in_programs_for_other_platforms(name):
    traced = jax.jit(both(POOLS[name])).trace(sample())
    assert "custom_call" not in traced.lower(lowering_platforms=("tpu", "cuda")).as_text()


def test_large_arrays_are_computed_in_blocks_on_the_cpu_alone():
    traced = jax.jit(lambda x: ops.max_pool(x, 3, stride=2, padding=1)).trace(
        jax.ShapeDtypeStruct((16, 512, 512, 16), "float32")
    )
    whiles = {platform: "while" in traced.lower(lowering_platforms=(platform,)).as_text() for platform in
              ("cpu", "cuda", "tpu")}  # fmt: skip
    assert whiles == {"cpu": True, "cuda": False, "tpu": False}


def test_numpy_ints_and_arrays_are_sizes():
    x, two = sample(), np.int64(2)
    expected = ops.max_pool(x, (2, 2), stride=(2, 2), padding=((1, 1), (1, 1)))
    for window, stride, padding in (
        (two, np.int32(2), np.int8(1)),
        (np.array([2, 2]), np.array([2, 2]), np.array([1, 1])),
        ([two, 2], (two, two), np.ones((2, 2), int)),
    ):
        y = ops.max_pool(x, window, stride=stride, padding=padding, dilation=np.int64(1))
        np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(ops.avg_pool(x, two, divisor_override=two), ops.avg_pool(x, 2, divisor_override=2))
    for output_size in (two, np.array([2, 3]), (two, None)):
        plain = [None if size is None else int(size) for size in np.ravel(output_size)]
        plain = plain[0] if len(plain) == 1 else plain
        np.testing.assert_array_equal(ops.adaptive_max_pool(x, output_size), ops.adaptive_max_pool(x, plain))
        np.testing.assert_array_equal(ops.adaptive_avg_pool(x, output_size), ops.adaptive_avg_pool(x, plain))
    y, index = ops.max_pool(x, two, return_indices=True)
    np.testing.assert_array_equal(ops.max_unpool(y, index, np.array([8, 9])), ops.max_unpool(y, index, (8, 9)))
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        ops.fractional_max_pool(x, two, output_size=np.array([4, 4]), key=key),
        ops.fractional_max_pool(x, 2, output_size=4, key=key),
    )


@pytest.mark.parametrize("name", [name for name in POOLS if "stochastic" not in name and "unpool" not in name])
def test_complex_input_is_refused(name):
    with pytest.raises(TypeError, match="complex"):
        POOLS[name](sample().astype("complex64"))
