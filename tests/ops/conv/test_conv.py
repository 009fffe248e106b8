"""conv against hand-computed numbers, the nested-loop oracle and PyTorch; its gradients and its errors."""

import random
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import conv
from cnnjax.ops.conv.choose import ALGORITHM_NAMES
from cnnjax.ops.conv.forward import im2col_width_blocked, lax_conv
from cnnjax.ops.geometry import resolve_padding, slide
from tests import oracles
from tests.cases import UNIVERSAL, array, random_arrays, value_and_gradients, values_and_gradients
from tests.oracles import correlate
from tests.tables import draws, in_one_case


def test_hand_computed():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    w = jnp.arange(4.0).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(conv(x, w)[0, ..., 0], [[19, 25], [37, 43]])
    np.testing.assert_array_equal(conv(x, w, jnp.array([1.0]))[0, ..., 0], [[20, 26], [38, 44]])
    same = [[19, 25, 10], [37, 43, 16], [7, 8, 0]]
    np.testing.assert_array_equal(conv(x, w, padding="SAME")[0, ..., 0], same)
    lower = [[0, 3, 8], [9, 19, 25], [21, 37, 43]]
    np.testing.assert_array_equal(conv(x, w, padding="SAME_LOWER")[0, ..., 0], lower)


def test_edge_detector():
    # the textbook's: ones, columns 2..5 zero; (1, -1) finds the two edges
    x = jnp.ones((1, 6, 8, 1)).at[:, :, 2:6].set(0)
    y = conv(x, jnp.array([1.0, -1.0]).reshape(1, 2, 1, 1))
    np.testing.assert_array_equal(y[0, :, :, 0], [[0, 1, 0, 0, 0, -1, 0]] * 6)


def test_one_dimension_by_hand():
    x = jnp.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1)
    w = jnp.array([1.0, 10.0]).reshape(2, 1, 1)

    def y(**keywords):
        return conv(x, w, **keywords).ravel().tolist()

    assert y() == [21, 32, 43]
    assert y(stride=2) == [21, 43]
    assert y(dilation=2) == [31, 42]
    assert y(padding=((1, 0),)) == y(padding="CAUSAL") == [10, 21, 32, 43]
    assert y(padding="FULL") == [10, 21, 32, 43, 4]
    assert y(padding=((-1, 0),)) == [32, 43]
    assert y(padding=((-1, 1),)) == [32, 43, 4]
    assert y(input_dilation=2) == [1, 20, 2, 30, 3, 40]
    assert y(padding=((1, 0),), padding_mode="reflect") == [12, 21, 32, 43]
    assert y(padding=((1, 0),), padding_mode="replicate") == [11, 21, 32, 43]
    assert y(padding=((1, 0),), padding_mode="circular") == [14, 21, 32, 43]


def test_groups_by_hand():
    x = jnp.array([[[1.0, 2.0, 3.0, 4.0]]])
    w = jnp.array([[[1.0, 1.0, 0.0, 1.0], [10.0, 0.0, 1.0, 1.0]]])
    assert conv(x, w, groups=2).ravel().tolist() == [21, 1, 4, 7]


# ---- the oracle ----

PADDINGS = ["VALID", "SAME", "SAME_LOWER", "FULL", "int", "pairs", "crop", "reflect", "replicate", "circular"]


def random_case(seed):
    """One geometry; the kind of padding and the rank go round with the seed, the rest is drawn."""
    draw = random.Random(seed)
    rank, kind = 1 + seed % 3, PADDINGS[seed // 3 % len(PADDINGS)]
    while True:
        most = {1: 9, 2: 6, 3: 4}[rank]
        sizes = [draw.randint(1, most) for _ in range(rank)]
        window = [draw.randint(1, 3) for _ in range(rank)]
        groups = draw.choice([1, 1, 1, 2, 3])
        per_group, out = draw.randint(1, 2), draw.randint(1, 2) * groups
        stride, dilation = ([draw.choice([1, 1, 2, 3]) for _ in range(rank)] for _ in range(2))
        mode = kind if kind in ("reflect", "replicate", "circular") else "zeros"
        holes = [draw.choice([1, 2]) if draw.random() < 0.4 and mode == "zeros" else 1 for _ in range(rank)]
        if draw.random() < 0.3:
            stride = dilation = [1] * rank
        padding = {
            "int": draw.randint(0, 2),
            "crop": tuple((draw.randint(-2, 1), draw.randint(-2, 2)) for _ in range(rank)),
        }.get(kind, kind)
        if kind in ("pairs", "reflect", "replicate", "circular"):
            padding = tuple((draw.randint(-1, 2), draw.randint(0, 2)) for _ in range(rank))
        keywords = {"stride": stride, "dilation": dilation, "padding": padding}
        dilated = tuple((size - 1) * hole + 1 for size, hole in zip(sizes, holes, strict=True))
        try:
            pads = slide(dilated, window, **keywords).padding
        except ValueError:
            continue
        if mode == "reflect" and any(max(pair) >= size for pair, size in zip(pads, sizes, strict=True)):
            continue
        if mode == "circular" and any(
            max(low, high) > size + min(low, 0) for (low, high), size in zip(pads, sizes, strict=True)
        ):
            continue
        x_shape = (draw.randint(1, 2), *sizes, per_group * groups)
        full = {"stride": stride, "dilation": dilation, "padding": pads, "mode": mode, "holes": holes}
        keywords |= {"padding_mode": mode, "input_dilation": holes, "groups": groups}
        return x_shape, (*window, per_group, out), keywords, full | {"groups": groups}


@pytest.mark.parametrize("seed", draws(22, 42))
def test_against_the_oracle(seed):
    x_shape, w_shape, keywords, full = random_case(seed)
    arrays = random_arrays(seed, x_shape, w_shape, w_shape[-1:])
    algorithms = ["auto", UNIVERSAL[seed // 3 % len(UNIVERSAL)]]
    with jax.enable_x64(True):
        ct, found = values_and_gradients([partial(conv, **keywords, algorithm=one) for one in algorithms], *arrays)
    every = oracles.conv(*arrays, ct, **full)
    for algorithm, got in zip(algorithms, found, strict=True):
        for g, expected in zip(got, every, strict=True):
            np.testing.assert_allclose(g, expected, rtol=1e-11, atol=1e-11, err_msg=algorithm)


@in_one_case("block", [2, 3, 4])
@pytest.mark.parametrize("sizes", [(7,), (5, 8), (3, 4, 5)])
def test_blocks_of_im2col(sizes, block):
    rank = len(sizes)
    for k, padding in [(1, 0), (3, 1)]:
        windows = slide(sizes, (k,) * rank, padding=padding)
        x, w = random_arrays(block, (2, *sizes, 2), (*(k,) * rank, 2, 3))
        with jax.enable_x64(True):
            forms = partial(im2col_width_blocked, block=block), partial(lax_conv, groups=1)
            _, (got, expected) = values_and_gradients(
                [partial(form, windows=windows, precision=None) for form in forms], x, w
            )
        for g, e in zip(got, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", draws(6, 12))
def test_against_pytorch(seed):
    torch = pytest.importorskip("torch")
    x_shape, w_shape, keywords, full = random_case(seed + 1000)
    keywords["input_dilation"] = 1
    pads = resolve_padding(
        keywords["padding"],
        x_shape[1:-1],
        w_shape[:-2],
        tuple(keywords["stride"]),
        tuple(keywords["dilation"]),
    )
    try:
        slide(x_shape[1:-1], w_shape[:-2], **{k: keywords[k] for k in ("stride", "dilation", "padding")})
    except ValueError:
        pytest.skip("does not fit without input_dilation")
    arrays = random_arrays(seed, x_shape, w_shape, w_shape[-1:])
    with jax.enable_x64(True):
        ct, got = value_and_gradients(lambda *a: conv(*a, **keywords), *arrays)
    x, w, b = (torch.tensor(a, requires_grad=True) for a in arrays)
    turned = torch.nn.functional.pad(
        torch.movedim(x, -1, 1),
        [p for pair in reversed(pads) for p in pair],
        **({} if full["mode"] == "zeros" else {"mode": full["mode"]}),
    )
    rank = x.ndim - 2
    f = getattr(torch.nn.functional, f"conv{rank}d")
    y = f(
        turned,
        w.permute(-1, -2, *range(rank)),
        b,
        stride=keywords["stride"],
        dilation=keywords["dilation"],
        groups=keywords["groups"],
    )
    y = torch.movedim(y, 1, -1)
    y.backward(torch.tensor(ct))
    for g, expected in zip(got, (y.detach(), x.grad, w.grad, b.grad), strict=True):
        np.testing.assert_allclose(g, expected.numpy(), rtol=1e-11, atol=1e-11)


# ---- dtypes ----


@in_one_case(("dtype", "bound"), [("float64", 1e-14), ("float32", 2e-6), ("float16", 1e-3), ("bfloat16", 8e-3)])
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHM_NAMES if name != "auto"])
def test_error_bound(dtype, bound, algorithm):
    with jax.enable_x64(True):
        x, w, b = (array(a, dtype) for a in random_arrays(0, (2, 9, 9, 64), (3, 3, 64, 8), (8,)))
        y = jax.jit(partial(conv, algorithm=algorithm))(x, w, b)
    assert y.dtype == dtype
    x, w, b = (np.asarray(a).astype(np.longdouble) for a in (x, w, b))
    exact = correlate(x, w) + b
    if algorithm == "winograd4" and dtype in ("float32", "float64"):
        bound *= 20
    assert np.abs(np.asarray(y).astype(np.longdouble) - exact).max() <= bound * np.abs(exact).max()


@in_one_case("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("algorithm", UNIVERSAL)
def test_sums_are_accumulated_in_float32(dtype, algorithm):
    ones = jnp.ones((1, 4, 4, 256), dtype)
    w = ones.reshape(4, 4, 256, 1)
    assert jax.jit(partial(conv, algorithm=algorithm))(ones, w).item() == 4096
    if algorithm == "toeplitz":
        return  # the matrix would be large
    # the kernel gradient sums over 4,096 outputs
    long = jnp.ones((1, 4097, 1), dtype)
    gradient = jax.jit(jax.grad(lambda w: conv(long, w, algorithm=algorithm).sum()))(jnp.ones((2, 1, 1), dtype))
    assert gradient.dtype == dtype and gradient.ravel().tolist() == [4096, 4096]


def test_preferred_element_type():
    x, w = jnp.ones((1, 8, 2), "bfloat16"), jnp.full((3, 2, 2), 0.1, "bfloat16")
    for preferred in ("float32", jnp.float16, "bfloat16"):
        y, pull = jax.vjp(lambda x, w, p=preferred: conv(x, w, preferred_element_type=p), x, w)
        assert y.dtype == jnp.dtype(preferred)
        assert [g.dtype for g in pull(jnp.ones_like(y))] == [jnp.bfloat16, jnp.bfloat16]
    with jax.enable_x64(True):
        assert conv(x, w, preferred_element_type="float64").dtype == jnp.float64


# ---- corners ----


@pytest.mark.parametrize("algorithm", ["auto", *UNIVERSAL])
def test_empty_batch(algorithm):
    x, w = jnp.ones((0, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
    assert conv(x, w, jnp.ones(4), algorithm=algorithm, stride=2).shape == (0, 2, 2, 4)
    dx, dw = jax.jit(jax.grad(lambda x, w: conv(x, w, algorithm=algorithm).sum(), (0, 1)))(x, w)
    assert dx.shape == x.shape and not dw.any()


def test_nan_and_infinity_stay_where_they_are_seen():
    x = jnp.zeros((1, 8, 1)).at[0, 3].set(jnp.nan)
    w = jnp.ones((2, 1, 2))
    for algorithm in ("lax", "direct", "im2col"):
        seen = jnp.isnan(conv(x, w, algorithm=algorithm))[0, :, 0].tolist()
        assert seen == [False, False, True, True, False, False, False], algorithm


@pytest.mark.parametrize("algorithm", ["lax", "im2col"])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "stride", "padding"),
    [
        ((2, 4, 7, 3, 6), (2, 3, 3, 6, 4), 2, 1),  # XLA ended the process on the input gradient of this one
        ((2, 3, 3, 3, 2), (2, 2, 2, 2, 2), 2, 1),
        ((1, 2, 2, 2, 1), (1, 2, 3, 1, 1), 2, 1),
        ((1, 2, 5, 1), (2, 5, 1, 1), 2, 1),
    ],
)
def test_derivatives_do_not_end_the_process(x_shape, w_shape, stride, padding, algorithm):
    x, w = (array(a) for a in random_arrays(0, x_shape, w_shape))

    def loss(x, w):
        return (conv(x, w, stride=stride, padding=padding, algorithm=algorithm) ** 2).sum()

    def gradients(x, w):
        return jax.grad(loss, (0, 1))(x, w)

    def penalty(x, w):
        return sum((g**2).sum() for g in gradients(x, w))

    @jax.jit
    def all_three(x, w):
        return gradients(x, w), jax.jvp(gradients, (x, w), (x, w))[1], jax.grad(penalty, (0, 1))(x, w)

    first, forward, reverse = all_three(x, w)  # Euler: the loss is of degree 2 in each
    assert all(np.isfinite(g).all() for g in (*forward, *reverse))
    np.testing.assert_allclose(forward[0], 3 * first[0], rtol=1e-3, atol=1e-3)


# ---- errors ----

X, W = jnp.ones((2, 8, 9, 4)), jnp.ones((3, 3, 4, 5))
TURNED_X, TURNED_W = jnp.moveaxis(X, -1, 1), jnp.transpose(W, (3, 2, 0, 1))


@in_one_case(
    ("args", "keywords", "error", "words"),
    [
        ((X, W), {"strides": 2}, TypeError, "conv takes stride=, not strides="),
        ((X, W), {"kernel_size": 3}, TypeError, r"conv takes no kernel_size=: the window is the shape of w"),
        ((X, W), {"window_strides": 2}, TypeError, "conv takes stride=, not window_strides="),
        ((X, W), {"rhs_dilation": 2}, TypeError, "conv takes dilation=, not rhs_dilation="),
        ((X, W), {"lhs_dilation": 2}, TypeError, "conv takes input_dilation=, not lhs_dilation="),
        ((X, W), {"feature_group_count": 2}, TypeError, "conv takes groups=, not feature_group_count="),
        ((X, W), {"bias": 2}, TypeError, "conv takes b=, not bias="),
        ((X, W), {"data_format": "NCHW"}, TypeError, "conv takes no data_format=: it wants channels-last"),
        ((X, W), {"colour": 1}, TypeError, "conv takes no colour=; its arguments are x, w, b, stride"),
        (([1.0], W), {}, TypeError, "x must be an array, got list"),
        (
            (X.astype("uint8"), W),
            {},
            TypeError,
            r"x must be float32.* got uint8: .*x.astype\(jnp.float32\) / 255",
        ),
        ((X, W.astype("int32")), {}, TypeError, r"w must be float32.* got int32: .*w.astype\(jnp.float32\)$"),
        ((X.astype("complex64"), W), {}, TypeError, "x must be float32.* got complex64"),
        ((X, W.astype("bfloat16")), {}, TypeError, "x and w must share a dtype, got x float32, w bfloat16"),
        ((X, W, jnp.ones(5, "float16")), {}, TypeError, "x and w and b must share a dtype"),
        ((X[0], W), {}, ValueError, r"exactly one batch axis, as x\[None\]"),
        ((X[None], W), {}, ValueError, "must have the same number of axes"),
        ((X, W[0, 0]), {}, ValueError, r"w must be \(\*K, C // groups, F\) with one to three"),
        ((X[:, :0], W), {}, ValueError, "no empty axis but x's batch"),
        ((TURNED_X, W), {}, ValueError, r"x looks channels-first: .*jnp.moveaxis\(x, 1, -1\)"),
        ((X, TURNED_W), {}, ValueError, r"w looks like PyTorch's .*w.transpose\(2, 3, 1, 0\)"),
        ((TURNED_X, TURNED_W), {}, ValueError, r"channels-first.*PyTorch's"),
        (
            (X[..., :3], jnp.ones((5, 3, 3, 3)), jnp.ones(5)),
            {},
            ValueError,
            r"b must have shape \(3,\).*PyTorch's",
        ),
        ((X, W[:, :, :2]), {}, ValueError, "x's channels must be w's input channels times groups, got x"),
        ((X, W[:, :, :1]), {"groups": 4}, ValueError, "groups must divide w's output channels"),
        ((X, W), {"groups": 0}, ValueError, "groups must be at least 1, got 0"),
        ((X, W), {"groups": 1.0}, TypeError, "groups must be an int, got 1.0"),
        ((X, W, jnp.ones(3)), {}, ValueError, r"b must have shape \(5,\).* got \(3,\)"),
        ((X, W), {"stride": (1, 1, 1)}, ValueError, "stride must be an int or one int per spatial dimension"),
        ((X, W), {"input_dilation": 0}, ValueError, "input_dilation must be at least 1"),
        ((X, W), {"dilation": 5}, ValueError, "window must fit into the padded input"),
        ((X, W), {"padding": -4}, ValueError, "crops all 8"),
        ((X, W), {"padding": "same"}, ValueError, 'did you mean "SAME"'),
        ((X, W), {"padding": "CAUSAL"}, ValueError, "one spatial dimension"),
        ((X, W), {"padding_mode": "mirror"}, ValueError, "padding_mode must be one of 'zeros', 'reflect'"),
        (
            (X, W),
            {"padding_mode": "reflect", "padding": 8},
            ValueError,
            "at most 7 for padding_mode='reflect'",
        ),
        (
            (X, W),
            {"padding_mode": "circular", "padding": 9},
            ValueError,
            "at most 8 for padding_mode='circular'",
        ),
        (
            (X, W),
            {"padding_mode": "reflect", "input_dilation": 2},
            ValueError,
            "must be 'zeros' where input_dil",
        ),
        ((X, W), {"algorithm": "strassen"}, ValueError, "algorithm must be one of 'auto', 'lax', 'direct'"),
        ((X, W), {"precision": "best"}, ValueError, "precision must be None"),
        (
            (X, W),
            {"preferred_element_type": "int32"},
            TypeError,
            "preferred_element_type must be None or one of",
        ),
        ((X, W), {"preferred_element_type": "float64"}, ValueError, "needs jax_enable_x64"),
    ],
)
def test_errors(args, keywords, error, words):
    with pytest.raises(error, match=words):
        conv(*args, **keywords)


def test_precision():
    for precision in ("highest", jax.lax.Precision.HIGH, ["default", "highest"]):
        np.testing.assert_allclose(conv(X, W, precision=precision), 36)


def test_what_is_not_finite_reaches_those_that_see_it_alone():
    x = jax.random.normal(jax.random.key(0), (4, 20, 20, 2))
    w = jax.random.normal(jax.random.key(1), (3, 3, 2, 4))
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        dirty = x.at[1, 7, 9, 1].set(value)
        y = conv(dirty, w)  # enough work for the CPU to compute it by blocks
        np.testing.assert_allclose(y, lax_conv(dirty, w, slide((20, 20), (3, 3)), 1, None), rtol=1e-4, atol=1e-5)
        seen = np.zeros((4, 18, 18, 4), bool)
        seen[1, 5:8, 7:10] = True
        np.testing.assert_array_equal(np.isfinite(y), ~seen)
