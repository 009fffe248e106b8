"""The pools against hand-computed numbers, the nested-loop oracles and PyTorch; their rules and errors."""

import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import avg_pool, global_avg_pool, global_max_pool, lp_pool, max_pool, min_pool, pool
from cnnjax.ops.geometry import require_real_taps, slide
from cnnjax.ops.pool import maxima, winners
from tests import oracles
from tests.cases import INF, NAN, REDUCERS, line, softmax_pool, value_and_gradients, values_and_gradients
from tests.tables import draws, in_one_case


def test_hand_computed():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(max_pool(x, 2)[0, ..., 0], [[5, 7], [13, 15]])
    np.testing.assert_array_equal(min_pool(x, 2)[0, ..., 0], [[0, 2], [8, 10]])
    np.testing.assert_array_equal(avg_pool(x, 2)[0, ..., 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(max_pool(x, (1, 3), stride=1)[0, ..., 0], [[2, 3], [6, 7], [10, 11], [14, 15]])
    np.testing.assert_array_equal(max_pool(x, 2, stride=1, dilation=3)[0, ..., 0], [[15]])
    _, index = max_pool(x, 2, padding=1, return_indices=True)
    np.testing.assert_array_equal(index[0, ..., 0], [[0, 2, 3], [8, 10, 11], [12, 14, 15]])
    assert index.dtype == jnp.int32


def test_average_counts_by_hand():
    x = line(1, 2, 3, 4, 6)

    def y(**keywords):
        return avg_pool(x, (2,), **keywords).ravel().tolist()

    assert y() == [1.5, 3.5]
    assert y(padding=1) == [1, 2.5, 5]
    assert y(padding=1, count_include_pad=True) == [0.5, 2.5, 5]
    assert y(padding=0, ceil_mode=True) == [1.5, 3.5, 6]
    # what ceil_mode adds beyond the padding is not counted
    assert y(padding=0, ceil_mode=True, count_include_pad=True) == [1.5, 3.5, 6]
    assert y(padding=0, ceil_mode=True, divisor_override=4) == [0.75, 1.75, 1.5]
    # nor what a crop has taken away
    assert y(padding=((-1, -1),), ceil_mode=True) == [2.5, 4]
    assert max_pool(x, (2,), padding=((-1, -1),), ceil_mode=True).ravel().tolist() == [3, 4]


def winner_and_gradient(pool, x, **keywords):
    @jax.jit
    def together(x, dx):
        y, index = pool(x, (3,), **keywords, return_indices=True)
        gradient = jax.grad(lambda x: jnp.where(jnp.isfinite(y), pool(x, (3,), **keywords), 0).sum())(x)
        return y, index, gradient, jax.jvp(lambda x: pool(x, (3,), **keywords), (x,), (dx,))[1]

    dx = np.arange(1, 1 + x.size, dtype="float32").reshape(x.shape)
    return [np.asarray(each).ravel().tolist() for each in together(x, dx)]


@pytest.mark.parametrize("pool", [max_pool, min_pool])
def test_first_of_equals_wins(pool):
    y, index, gradient, tangent = winner_and_gradient(pool, line(2, 2, 2, 7, 7, 7))
    assert (y, index, gradient, tangent) == ([2, 7], [0, 3], [1, 0, 0, 1, 0, 0], [1, 4])
    x = jnp.zeros((1, 3, 3, 1))  # row-major in the plane
    assert pool(x, 2, stride=1, return_indices=True)[1].ravel().tolist() == [0, 1, 3, 4]
    x = jnp.array([0.0, 1, 1, 0]).reshape(1, 2, 2, 1)  # the earlier row, not the earlier column
    assert max_pool(x, 2, return_indices=True)[1].item() == 1
    signed = max_pool(line(-0.0, 0.0, -0.0), (3,))
    assert jnp.signbit(signed).item()


@pytest.mark.parametrize(("pool", "sign"), [(max_pool, 1), (min_pool, -1)])
def test_nan_and_infinity(pool, sign):
    y, index, _, tangent = winner_and_gradient(pool, sign * line(1, NAN, INF, 5, NAN, NAN, 3, -INF, 2))
    assert np.isnan(y[:2]).all() and y[2] == sign * 3
    assert index == [1, 4, 6] and tangent == [2, 5, 7]
    y, index, gradient, _ = winner_and_gradient(pool, sign * line(-INF, -INF, -INF, 4), padding=2, stride=2)
    assert y == [-INF * sign, -INF * sign, 4 * sign] and index == [0, 0, 3]
    assert gradient == [0, 0, 0, 1]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32"])
def test_integers_are_exact(dtype):
    least, most = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    x = line(least, least, most, 5, most - 1, least, dtype=dtype)
    (y, index), (least_y, least_index) = jax.jit(
        lambda x: [pool(x, (2,), padding=1, return_indices=True) for pool in (max_pool, min_pool)]
    )(x)
    assert y.dtype == x.dtype and y.ravel().tolist() == [least, most, most - 1, least]
    assert index.ravel().tolist() == [0, 2, 4, 5]
    assert least_y.ravel().tolist() == [least, least, 5, least] and least_index.ravel().tolist() == [0, 1, 3, 5]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("padding", ["VALID", 1])
def test_sums_are_accumulated_in_float32(dtype, padding):
    x = jnp.ones((1, 64, 64, 1), dtype)
    y = avg_pool(x, 64, divisor_override=1, padding=padding)
    assert y.dtype == dtype and y[0, 0, 0, 0] == (4096 if padding == "VALID" else 63 * 63 // 16 * 16)
    small = avg_pool(jnp.ones((1, 16, 16, 1), dtype) * 3, 16, divisor_override=1)
    assert small.item() == 768
    assert jax.eval_shape(jax.grad(lambda x: avg_pool(x, 2).sum()), x).dtype == dtype


# ---- the oracles ----


def random_case(seed):
    """One geometry, the rank going round with the seed, the rest drawn."""
    draw = random.Random(seed)
    rank = 1 + seed % 3
    while True:
        sizes = [draw.randint(1, {1: 12, 2: 7, 3: 5}[rank]) for _ in range(rank)]
        window = [draw.randint(1, 4) for _ in range(rank)]
        stride, dilation = ([draw.choice([1, 2, 3]) for _ in range(rank)] for _ in range(2))
        if draw.random() < 0.5:
            dilation = [1] * rank
        padding = tuple((draw.choice([-1, 0, 0, 1, 2]), draw.choice([-1, 0, 0, 1, 2])) for _ in range(rank))
        ceil_mode = draw.random() < 0.5
        if not ceil_mode and draw.random() < 0.3:
            padding = draw.choice(["VALID", "SAME", "SAME_LOWER", "FULL"])
        keywords = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
        try:
            windows = slide(sizes, window, **keywords)
            require_real_taps(windows)
        except ValueError:
            continue
        shape = (draw.randint(1, 2), *sizes, draw.randint(1, 3))
        return (
            shape,
            {"window": window, **keywords},
            {"window": window, **keywords, "padding": windows.padding},
        )


@pytest.mark.parametrize("seed", draws(14, 48))
def test_max_pool_against_the_oracle(seed):
    shape, keywords, full = random_case(seed)
    # few values, so that there are ties
    x = np.random.default_rng(seed).integers(0, 4, shape).astype(float)
    x[x == 0] = -INF
    with jax.enable_x64(True):
        for pool, sign in ((max_pool, 1), (min_pool, -1)) if seed % 4 == 0 else ((max_pool, 1),):
            ct, (y, dx, index) = value_and_gradients(
                lambda x, pool=pool: pool(x, **keywords, return_indices=True), x, has_aux=True
            )
            expected, expected_index, expected_dx = oracles.max_pool(sign * x, ct, **full)
            np.testing.assert_array_equal(y, sign * expected)
            np.testing.assert_array_equal(index, expected_index)
            np.testing.assert_allclose(dx, expected_dx, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", draws(14, 48))
def test_avg_pool_against_the_oracle(seed):
    shape, keywords, full = random_case(seed + 500)
    counting = {"count_include_pad": seed % 2 == 0, "divisor_override": 5 if seed % 5 == 0 else None}
    x = np.random.default_rng(seed).normal(size=shape)
    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(lambda x: avg_pool(x, **keywords, **counting), x)
    expected, expected_dx = oracles.avg_pool(x, ct, **full, **counting)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("window", "stride"), [((9, 9), 1), ((33, 2), 2), ((20, 20), 20)])
def test_large_windows(window, stride):
    x = np.random.default_rng(0).integers(0, 9, (1, 35, 21, 2)).astype(float)
    full = {"window": window, "stride": (stride,) * 2, "dilation": (1, 1), "padding": ((1, 0),) * 2}
    keywords = full | {"ceil_mode": False}
    with jax.enable_x64(True):
        pools = [partial(max_pool, **keywords), partial(avg_pool, **keywords)]
        ct, ((y, dx), (mean, mean_dx)) = values_and_gradients(pools, x)
    expected, _, expected_dx = oracles.max_pool(x, ct, **keywords)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-11, atol=1e-11)
    expected, expected_dx = oracles.avg_pool(x, ct, **keywords, count_include_pad=False, divisor_override=None)
    np.testing.assert_allclose(mean, expected, rtol=1e-11)
    np.testing.assert_allclose(mean_dx, expected_dx, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("seed", draws(6, 15))
def test_against_pytorch(seed):
    torch = pytest.importorskip("torch")
    draw = random.Random(seed)
    rank = 1 + seed % 3
    window = [draw.randint(2, 4) for _ in range(rank)]
    sizes = [draw.randint(k, 9) for k in window]
    stride = [draw.randint(1, 4) for _ in range(rank)]
    padding = tuple(draw.randint(0, k // 2) for k in window)
    ceil_mode = seed % 2 == 0
    x = np.random.default_rng(seed).integers(0, 5, (2, *sizes, 3)).astype(float)
    functional = torch.nn.functional
    common = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    t = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)

    def check(y, dx, f, **keywords):
        t.grad = None
        result = f(t, window, **common, **keywords)
        result, index = result if isinstance(result, tuple) else (result, None)
        result.backward(torch.tensor(np.moveaxis(ct, -1, 1)))
        np.testing.assert_allclose(y, np.moveaxis(result.detach().numpy(), 1, -1), rtol=1e-12)
        np.testing.assert_allclose(dx, np.moveaxis(t.grad.numpy(), 1, -1), rtol=1e-12, atol=1e-12)
        return None if index is None else np.moveaxis(index.numpy(), 1, -1)

    with jax.enable_x64(True):
        ct, (y, dx, index) = value_and_gradients(
            lambda x: max_pool(x, window, **common, return_indices=True), x, has_aux=True
        )
        expected = check(y, dx, getattr(functional, f"max_pool{rank}d"), return_indices=True)
        np.testing.assert_array_equal(index, expected)
        counting = [partial(avg_pool, window=window, **common, count_include_pad=include) for include in (True, False)]
        for include, (y, dx) in zip((True, False), values_and_gradients(counting, x)[1], strict=True):
            check(y, dx, getattr(functional, f"avg_pool{rank}d"), count_include_pad=include)


# ---- Lp ----


@pytest.mark.parametrize("seed", draws(12, 30))
def test_lp_pool_against_the_oracle(seed):
    shape, keywords, full = random_case(seed + 900)
    p = (2.0, 1, 3, 0.5, 2.5)[seed % 5]
    # whole numbers, so that there are zeros, and windows of nothing else
    x = np.random.default_rng(seed).integers(-2, 3, shape).astype(float)
    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(lambda x: lp_pool(x, **keywords, p=p), x)
    expected, expected_dx = oracles.lp_pool(x, ct, **full, p=p)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-12, atol=1e-12)


def test_lp_pool_limits():
    x = line(0, 0, 3, -4, -1, 1)
    assert lp_pool(x, (2,), p=1).ravel().tolist() == [0, 7, 2]
    assert lp_pool(x, (2,), p=INF).ravel().tolist() == [0, 4, 1]
    for p, expected in ((1, [0, 0, 1, -1, -1, 1]), (2, [0, 0, 0.6, -0.8, -(0.5**0.5), 0.5**0.5])):
        dx = jax.jit(jax.grad(lambda x, p=p: lp_pool(x, (2,), p=p).sum()))(x)
        np.testing.assert_allclose(dx.ravel(), expected, rtol=1e-6)
    assert jax.jit(jax.grad(lambda x: lp_pool(x, (2,), p=INF).sum()))(x).ravel().tolist() == [0, 0, 0, -1, -1, 0]
    assert np.isnan(lp_pool(line(NAN, 1, 2, -INF), (2,))[0, 0, 0]) and lp_pool(line(2, -INF), (2,)).item() == INF
    # neither overflow nor underflow on the way
    np.testing.assert_allclose(
        lp_pool(line(3e30, 1e30, 3e-30, -1e-30), (2,), p=3).ravel(),
        [28 ** (1 / 3) * 1e30, 28 ** (1 / 3) * 1e-30],
        rtol=1e-6,
    )
    np.testing.assert_allclose(lp_pool(line(20, 1, 0.1, 0.01), (2,), p=99).ravel(), [20, 0.1], rtol=1e-6)


def test_second_derivative_of_lp_pool_at_zero_elements():
    with jax.enable_x64(True):
        x = line(2, 0, 0, dtype="float64")
        hessian = jax.jit(jax.hessian(lambda x: lp_pool(x, (3,)).sum()))(x).reshape(3, 3)
    np.testing.assert_allclose(hessian, np.diag([0, 0.5, 0.5]), atol=1e-15)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lp_pool_sums_in_float32(dtype):
    y = lp_pool(jnp.ones((1, 64, 64, 1), dtype), 64)
    assert y.dtype == dtype and y.item() == 64


@pytest.mark.parametrize("seed", draws(3, 6))
def test_lp_pool_against_pytorch(seed):
    torch = pytest.importorskip("torch")
    rank, p = 1 + seed % 3, (2.0, 3.0)[seed % 2]
    x = abs(np.random.default_rng(seed).normal(size=(2, *(7, 6, 5)[:rank], 3)))
    window, stride = (2, 3, 2)[:rank], (1, 2, 3)[:rank]
    theirs = (window, stride) if rank > 1 else (2, 1)
    t = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(lambda x: lp_pool(x, window, p=p, stride=stride), x)
    expected = getattr(torch.nn.functional, f"lp_pool{rank}d")(t, p, *theirs)
    expected.backward(torch.tensor(np.moveaxis(ct, -1, 1)))
    np.testing.assert_allclose(y, np.moveaxis(expected.detach().numpy(), 1, -1), rtol=1e-12)
    np.testing.assert_allclose(dx, np.moveaxis(t.grad.numpy(), 1, -1), rtol=1e-12, atol=1e-12)


# ---- a reducer of one's own ----


@pytest.mark.parametrize("seed", draws(10, 16))
def test_pool_against_the_oracle(seed):
    shape, keywords, full = random_case(seed + 1300)
    ours, theirs = REDUCERS[list(REDUCERS)[seed % 4]]
    rng = np.random.default_rng(seed)
    x, dx, pad_value = rng.normal(size=shape), rng.normal(size=shape), 0.5
    with jax.enable_x64(True):

        def op(x):
            return pool(x, **keywords, reduce=ours, pad_value=pad_value)

        ct, (y, gradient) = value_and_gradients(op, x)
        tangent = np.asarray(jax.jit(lambda: jax.jvp(op, (x,), (dx,))[1])())
    np.testing.assert_allclose(y, oracles.pool(x, theirs, **full, pad_value=pad_value), rtol=1e-12, atol=1e-12)
    up, down = (oracles.pool(x + h * dx, theirs, **full, pad_value=pad_value) for h in (1e-6, -1e-6))
    np.testing.assert_allclose(tangent, (up - down) / 2e-6, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose((np.asarray(gradient) * dx).sum(), (ct * tangent).sum(), rtol=1e-10)


def test_pool_with_a_learned_reducer():
    x = line(1, 2, 4, 3, 0, 7)

    @jax.jit
    @jax.value_and_grad
    def loss(temperature):
        return pool(x, (3,), lambda w, axis: softmax_pool(w * temperature, axis)).sum()

    slope = (loss(1.01)[0] - loss(0.99)[0]) / 0.02
    np.testing.assert_allclose(loss(1.0)[1], slope, rtol=1e-3)
    many = jax.jit(jax.vmap(loss))(jnp.array([0.5, 1.0]))[1]
    np.testing.assert_allclose(many[1], loss(1.0)[1], rtol=1e-6)


def test_gradient_of_the_product_with_zeros():
    dx = jax.grad(lambda x: pool(x, (3,), jnp.prod).sum())(line(2, 0, 3, 0, 0, 5))
    assert dx.ravel().tolist() == [0, 6, 0, 0, 0, 0]


def test_pool_of_integers_and_of_other_dtypes():
    x = line(1, 3, 2, 5, dtype="int32")
    y = pool(x, (3,), jnp.argmax, padding=1, pad_value=-1, stride=1)
    assert y.dtype == jnp.int32 and y.ravel().tolist() == [2, 1, 2, 1]
    assert pool(x, (2,), jnp.max).dtype == jnp.int32


# ---- the whole plane ----


@pytest.mark.parametrize("sizes", [(5,), (4, 3), (2, 3, 2), (1, 1)])
def test_global_pools_against_the_oracles(sizes):
    x = np.random.default_rng(0).integers(0, 4, (2, *sizes, 3)).astype(float)
    rank = len(sizes)
    full = {"window": sizes, "stride": (1,) * rank, "padding": ((0, 0),) * rank, "dilation": (1,) * rank}
    full["ceil_mode"] = False
    with jax.enable_x64(True):
        ct, ((y, dx), (mean, mean_dx)) = values_and_gradients([global_max_pool, global_avg_pool], x)
    ct = ct.reshape(2, *(1,) * rank, 3)
    expected, _, expected_dx = oracles.max_pool(x, ct, **full)
    np.testing.assert_array_equal(y, expected.reshape(2, 3))
    np.testing.assert_array_equal(dx, expected_dx)
    expected, expected_dx = oracles.avg_pool(x, ct, **full, count_include_pad=False, divisor_override=None)
    np.testing.assert_allclose(mean, expected.reshape(2, 3), rtol=1e-14)
    np.testing.assert_allclose(mean_dx, expected_dx, rtol=1e-14)


def test_global_pools_of_special_values():
    assert np.isnan(global_max_pool(line(INF, NAN, NAN)).item())
    assert jax.grad(lambda x: global_max_pool(x).sum())(line(-INF, -INF)).ravel().tolist() == [1, 0]
    tangent = jax.jvp(lambda x: global_max_pool(x), (line(1, NAN, NAN),), (line(1, 2, 3),))[1]
    assert tangent.tolist() == [[2]]
    assert global_max_pool(line(3, 250, 7, dtype="uint8")).tolist() == [[250]]
    for dtype in ("bfloat16", "float16"):
        y = global_avg_pool(jnp.ones((1, 64, 64, 1), dtype))
        assert y.dtype == dtype and y.item() == 1


def test_empty_batch():
    for op in (global_avg_pool, global_max_pool):
        y, dx = jax.jit(lambda x, op=op: (op(x), jax.grad(lambda x: op(x).sum())(x)))(jnp.ones((0, 6, 6, 2)))
        assert y.shape == (0, 2) and dx.shape == (0, 6, 6, 2)

    def product(x, window, **keywords):
        return pool(x, window, jnp.prod, pad_value=1, **keywords)

    for op in (max_pool, min_pool, avg_pool, lp_pool, product):
        y, dx = jax.jit(lambda x, op=op: (op(x, 2, padding=1), jax.grad(lambda x: op(x, 2).sum())(x)))(
            jnp.ones((0, 6, 6, 2))
        )
        assert y.shape == (0, 4, 4, 2) and dx.shape == (0, 6, 6, 2)


# ---- errors ----

X = jnp.ones((2, 8, 9, 3))


@pytest.mark.parametrize("pool", [max_pool, min_pool, avg_pool, lp_pool])
@in_one_case(
    ("x", "window", "keywords", "error", "words"),
    [
        (X, 2, {"strides": 2}, TypeError, "pool takes stride=, not strides="),
        (X, 2, {"kernel_size": 2}, TypeError, "pool takes window=, not kernel_size="),
        (X, 2, {"window_shape": 2}, TypeError, "pool takes window=, not window_shape="),
        (X, 2, {"groups": 2}, TypeError, "pool takes no groups=; its arguments are x, window"),
        ("X", 2, {}, TypeError, "x must be an array, got str"),
        (X[0], 2, {}, ValueError, r"window must be \(2,\) where x has one spatial dimension"),
        (X[0, 0], 2, {}, ValueError, r"x must be \(N, \*S, C\) with one to three"),
        (X[:, :0], 2, {}, ValueError, "spatial sizes of at least 1"),
        (X, (2, 2, 2), {}, ValueError, "window must be an int or one int per spatial dimension"),
        (X, 9, {}, ValueError, "window must fit into the padded input"),
        (X, 2.0, {}, TypeError, "window must be an int"),
        (X, 2, {"stride": 0}, ValueError, "stride must be at least 1"),
        (X, 2, {"padding": 2}, ValueError, "window 0 of spatial dimension 0 lies wholly in the padding"),
        (X, 2, {"dilation": 9}, ValueError, "window must fit"),
        (X, 2, {"ceil_mode": True}, ValueError, "ceil_mode=True needs padding in numbers"),
        (X, 2, {"padding": "valid"}, ValueError, 'did you mean "VALID"'),
        (X.astype(bool), 2, {}, TypeError, "x must be float32.* got bool"),
    ],
)
def test_errors(pool, x, window, keywords, error, words):
    with pytest.raises(error, match=words):
        pool(x, window, **keywords)


def test_errors_of_one_pool():
    with pytest.raises(TypeError, match=r"x must be float32.* got int32: convert it first"):
        avg_pool(jnp.ones((1, 4, 4, 1), "int32"), 2)
    with pytest.raises(TypeError, match="return_indices must be True or False, got 1"):
        max_pool(X, 2, return_indices=1)
    with pytest.raises(TypeError, match="count_include_pad must be True or False, got 'yes'"):
        avg_pool(X, 2, count_include_pad="yes")
    with pytest.raises(ValueError, match="divisor_override must not be 0"):
        avg_pool(X, 2, divisor_override=0)
    with pytest.raises(TypeError, match=r"divisor_override must be made of ints, got 2\.5"):
        avg_pool(X, 2, divisor_override=2.5)
    for p, error, words in (
        (0, ValueError, r"p must be above 0, got 0\.0"),
        (NAN, ValueError, "p must be above 0, got nan"),
        ("inf", TypeError, "p must be a number, got 'inf'"),
        (True, TypeError, "p must be a number, got True"),
    ):
        with pytest.raises(error, match=words):
            lp_pool(X, 2, p=p)
    with pytest.raises(TypeError, match=r"x must be float32.* got int32: convert it first"):
        lp_pool(jnp.ones((1, 4, 4, 1), "int32"), 2)


@pytest.mark.parametrize("pool", [global_avg_pool, global_max_pool])
def test_errors_of_the_global_pools(pool):
    for x, error, words in (
        (X[0, 0], ValueError, r"x must be \(N, \*S, C\) with one to three"),
        (X[:, :0], ValueError, "spatial sizes of at least 1"),
        (X.astype(bool), TypeError, "x must be float32.* got bool"),
    ):
        with pytest.raises(error, match=words):
            pool(x)
    with pytest.raises(TypeError, match="takes no keepdims=; its arguments are x"):
        pool(X, keepdims=True)


@in_one_case(
    ("x", "reduce", "keywords", "error", "words"),
    [
        (X, "max", {}, TypeError, r"reduce must be a function reduce\(windows, axis\), got 'max'"),
        (X, jnp.cumsum, {}, ValueError, r"reduce must drop axis -2 .* shape \(2, 4, 4, 3\), got \(2, 4, 4, 4, 3\)"),
        (X, jnp.max, {"padding": 1}, ValueError, "pad_value must be given where there is padding, got padding=1"),
        (X, jnp.max, {"padding": 0, "ceil_mode": True}, ValueError, "pad_value must be given"),
        (
            X,
            jnp.max,
            {"padding": 1, "pad_value": jnp.zeros(3)},
            ValueError,
            r"one number, got an array of shape \(3,\)",
        ),
        (X, jnp.max, {"pad_value": "0"}, TypeError, "pad_value must be a number, got '0'"),
        (X.astype("int8"), jnp.max, {"pad_value": -INF}, ValueError, "pad_value must be a number of x's dtype int8"),
        (X, jnp.max, {"strides": 2}, TypeError, "pool takes stride=, not strides="),
    ],
)
def test_errors_of_pool(x, reduce, keywords, error, words):
    with pytest.raises(error, match=words):
        pool(x, 2, reduce, **keywords)


@pytest.mark.parametrize(
    ("window", "keywords"),
    [
        ((3, 2), {"stride": (2, 2), "padding": ((1, 1), (0, 0))}),
        ((3, 3), {"stride": 2, "padding": 0, "ceil_mode": True}),
        ((3, 3), {"stride": (1, 2), "padding": ((-1, 1), (1, -2))}),
        ((2, 2), {}),
        ((2, 3), {"dilation": 2, "stride": 1}),
    ],
    ids=str,
)
def test_the_forms_of_accelerators_are_those_of_the_cpu(window, keywords):
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 3))
    windows = slide((7, 8), window, **{"stride": window, **keywords})
    ct = jax.random.normal(jax.random.key(1), (2, *windows.output, 3))
    y, offset = maxima.first_maximum(x, windows)
    dx = winners.scatter_max(ct, offset, windows)
    for platform in ("gpu", "tpu"):
        np.testing.assert_array_equal(maxima._max(x, windows=windows, give="value", platform=platform), y)
        for written in (False, True):
            got = maxima._gather_max(ct, x, offset, of="x", windows=windows, written=written, platform=platform)
            np.testing.assert_allclose(got, dx, rtol=1e-6, atol=1e-6, err_msg=platform)
