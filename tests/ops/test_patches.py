"""pad, unfold, fold and the shuffles against hand-computed numbers, the oracles and PyTorch; their errors."""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops import channel_shuffle, conv, conv_kernel_grad, fold, pad, pixel_shuffle, pixel_unshuffle, unfold
from cnnjax.ops.geometry import slide
from tests import oracles
from tests.cases import line, value_and_gradients
from tests.tables import draws, in_one_case

# ---- pad ----


def test_pad_by_hand():
    def y(padding, **keywords):
        return pad(line(1, 2, 3, 4), padding, **keywords).ravel().tolist()

    assert y(1) == y((1,)) == y(((1, 1),)) == [0, 1, 2, 3, 4, 0]
    assert y(((2, 0),), value=-np.inf) == [-np.inf, -np.inf, 1, 2, 3, 4]
    assert y(((-1, 1),), value=9) == [2, 3, 4, 9]
    assert y(((3, 1),), mode="reflect") == [4, 3, 2, 1, 2, 3, 4, 3]
    assert y(((2, -1),), mode="reflect") == [3, 2, 1, 2, 3]
    assert y(((2, 1),), mode="replicate") == [1, 1, 1, 2, 3, 4, 4]
    assert y(((1, 4),), mode="circular") == [4, 1, 2, 3, 4, 1, 2, 3, 4]
    assert y(((1, -1),), mode="circular") == [3, 1, 2, 3]
    assert pad(line(1, 2, dtype="uint8"), 1, value=255).ravel().tolist() == [255, 1, 2, 255]
    assert pad(jnp.ones((0, 3, 4, 2)), (1, 2)).shape == (0, 5, 8, 2)


@pytest.mark.parametrize("seed", draws(12, 24))
def test_pad_against_the_oracle_and_pytorch(seed):
    draw = random.Random(seed)
    rank, mode = 1 + seed % 3, ["zeros", "reflect", "replicate", "circular"][seed // 3 % 4]
    sizes = [draw.randint(3, 6) for _ in range(rank)]
    padding = tuple((draw.randint(-1, 2), draw.randint(-1, 2)) for _ in range(rank))
    value = 1.5 if mode == "zeros" else 0
    x = np.random.default_rng(seed).normal(size=(2, *sizes, 2))
    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(lambda x: pad(x, padding, mode=mode, value=value), x)
    expected, expected_dx = oracles.pad(x, ct, padding=padding, mode=mode, value=value)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-13, atol=1e-13)

    torch = pytest.importorskip("torch")
    t = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    by_torch = {"mode": "constant", "value": value} if mode == "zeros" else {"mode": mode}
    z = torch.nn.functional.pad(t, [p for pair in reversed(padding) for p in pair], **by_torch)
    z.backward(torch.tensor(np.moveaxis(ct, -1, 1)))
    np.testing.assert_array_equal(y, np.moveaxis(z.detach().numpy(), 1, -1))
    np.testing.assert_allclose(dx, np.moveaxis(t.grad.numpy(), 1, -1), rtol=1e-13, atol=1e-13)


# ---- unfold and fold ----


def random_case(seed):
    """One geometry, the rank going round with the seed, the rest drawn."""
    draw = random.Random(seed)
    rank = 1 + seed % 3
    while True:
        sizes = [draw.randint(1, {1: 9, 2: 6, 3: 4}[rank]) for _ in range(rank)]
        window, stride, dilation = ([draw.randint(1, 3) for _ in range(rank)] for _ in range(3))
        padding = tuple((draw.randint(-1, 2), draw.randint(-1, 2)) for _ in range(rank))
        if draw.random() < 0.3:
            padding = draw.choice(["VALID", "SAME", "SAME_LOWER", "FULL"])
        keywords = {"stride": stride, "padding": padding, "dilation": dilation}
        try:
            pads = slide(sizes, window, **keywords).padding
        except ValueError:
            continue
        return (draw.randint(1, 2), *sizes, draw.randint(1, 3)), window, keywords, keywords | {"padding": pads}


@pytest.mark.parametrize("seed", draws(12, 30))
def test_unfold_and_fold_against_the_oracle(seed):
    shape, window, keywords, full = random_case(seed)
    x = np.random.default_rng(seed).normal(size=shape)
    with jax.enable_x64(True):
        ct, (cols, dx) = value_and_gradients(lambda x: unfold(x, window, **keywords), x)
        _, (folded, dcols) = value_and_gradients(lambda cols: fold(cols, shape[1:-1], window, **keywords), ct)
        ct_x = np.random.default_rng(0).normal(size=shape)
    expected, expected_dx = oracles.unfold(x, ct, window=window, **full)
    np.testing.assert_array_equal(cols, expected)
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-13, atol=1e-13)
    # fold is the adjoint of unfold, so each is the other's gradient
    np.testing.assert_allclose(folded, expected_dx, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(dcols, oracles.unfold(ct_x, None, window=window, **full)[0])


def test_unfold_times_kernel_is_conv():
    x, w = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 7, 8, 3), (3, 2, 3, 4)]))
    geometry = {"stride": 2, "padding": "SAME", "dilation": 2}
    y = unfold(x, (3, 2), **geometry) @ w.reshape(-1, 4)
    np.testing.assert_allclose(y, conv(x, w, **geometry), rtol=1e-5, atol=1e-5)


def test_unfold_and_fold_against_pytorch():
    torch = pytest.importorskip("torch")
    geometry = {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}
    x = np.random.default_rng(0).normal(size=(2, 6, 7, 3))
    cols = torch.nn.functional.unfold(torch.tensor(np.moveaxis(x, -1, 1)), (3, 2), **geometry)
    folded = torch.nn.functional.fold(cols, (6, 7), (3, 2), **geometry).numpy()
    with jax.enable_x64(True):
        mine = unfold(jnp.asarray(x), (3, 2), **geometry)
        np.testing.assert_allclose(
            fold(mine, (6, 7), (3, 2), **geometry), np.moveaxis(folded, 1, -1), rtol=1e-13, atol=1e-13
        )
    turned = np.asarray(mine).reshape(2, -1, 6, 3).transpose(0, 3, 2, 1)  # PyTorch: channel, tap, place
    np.testing.assert_array_equal(turned.reshape(2, 18, -1), cols.numpy())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_fold_accumulates_in_float32(dtype):
    cols = jnp.ones((1, 1, 16), dtype).at[0, 0, 0].set(2048)  # one by one, 2048 + 1 is 2048 again
    folded = fold(jnp.tile(cols, (1, 16, 1)), (16,), 16, padding=((15, 0),))
    assert folded.dtype == dtype and folded[0, 0, 0] == 2064


@pytest.mark.parametrize("rank", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_many_taps_take_another_way_to_the_same_numbers(rank):
    sizes, window = ((90,), (70,)) if rank == 1 else ((11, 14), (9, 10))
    geometry = {"stride": (2, 1)[:rank], "dilation": (1, 1)[:rank], "padding": ((3, -1), (1, 0))[:rank]}
    x = np.random.default_rng(0).normal(size=(2, *sizes, 2))
    with jax.enable_x64(True):
        ct, (cols, dx) = value_and_gradients(lambda x: unfold(x, window, **geometry), x)
        _, (folded, dcols) = value_and_gradients(lambda cols: fold(cols, sizes, window, **geometry), ct)
        dy = jnp.cos(jnp.arange(cols[..., :4].size, dtype="float64")).reshape(*cols.shape[:-1], 4)
        dw = conv_kernel_grad(jnp.asarray(x), dy, (*window, 1, 4), groups=2, **geometry)
    expected, expected_dx = oracles.unfold(x, ct, window=window, **geometry)
    np.testing.assert_array_equal(cols, expected)
    for got in (dx, folded):
        np.testing.assert_allclose(got, expected_dx, rtol=1e-13, atol=1e-13)
    ct_x = np.random.default_rng(0).normal(size=x.shape)
    np.testing.assert_array_equal(dcols, oracles.unfold(ct_x, None, window=window, **geometry)[0])
    by_tap = expected.reshape(-1, int(np.prod(window)), 2, 1)
    expected_dw = np.einsum("otgc,ogf->tcgf", by_tap, dy.reshape(-1, 2, 2)).reshape(dw.shape)
    np.testing.assert_allclose(dw, expected_dw, rtol=1e-11, atol=1e-11)


def test_fold_of_many_taps_of_integers_and_of_nothing():
    counts = fold(jnp.ones((1, 31, 100), int), (130,), 100)
    assert counts.dtype == "int32" and counts.max() == 31 and counts[0, :3, 0].tolist() == [1, 2, 3]
    assert fold(jnp.ones((0, 31, 100)), (130,), 100).shape == (0, 130, 1)
    assert unfold(jnp.ones((0, 130, 1)), (100,)).shape == (0, 31, 100)


# ---- shuffles ----


def test_shuffles_by_hand():
    x = jnp.arange(12).reshape(1, 2, 6)
    assert pixel_shuffle(x, 3)[0].tolist() == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]
    assert channel_shuffle(x, 3)[0].tolist() == [[0, 2, 4, 1, 3, 5], [6, 8, 10, 7, 9, 11]]
    uneven = pixel_shuffle(jnp.arange(6).reshape(1, 1, 1, 6), (2, 3))
    assert uneven[0, :, :, 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert pixel_unshuffle(uneven, (2, 3)).ravel().tolist() == [*range(6)]
    for op in (pixel_shuffle, pixel_unshuffle, channel_shuffle):
        assert op(jnp.ones((0, 2, 2, 4)), 2).shape[0] == 0


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_shuffles_against_the_oracle(rank):
    x = np.random.default_rng(rank).normal(size=(2, *(2, 3, 1)[:rank], 2 * 2**rank))
    with jax.enable_x64(True):
        ct, (y, dx) = value_and_gradients(lambda x: pixel_shuffle(x, 2), x)
        np.testing.assert_array_equal(y, oracles.pixel_shuffle(x, 2))
        np.testing.assert_array_equal(oracles.pixel_shuffle(np.asarray(dx), 2), ct)  # orthogonal: inverse, adjoint
        back, (again, gradient) = value_and_gradients(lambda y: pixel_unshuffle(y, 2), y)
        np.testing.assert_array_equal(again, x)
        np.testing.assert_array_equal(gradient, oracles.pixel_shuffle(back, 2))


def test_shuffles_against_pytorch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 12))
    t = torch.tensor(np.moveaxis(x, -1, 1))
    for op, f, argument in [
        (pixel_shuffle, torch.nn.functional.pixel_shuffle, 2),
        (pixel_unshuffle, torch.nn.functional.pixel_unshuffle, 2),
        (channel_shuffle, torch.nn.functional.channel_shuffle, 3),
    ]:
        with jax.enable_x64(True):
            y, pull = jax.vjp(lambda x, op=op, argument=argument: op(x, argument), jnp.asarray(x))
            np.testing.assert_array_equal(y, np.moveaxis(f(t, argument).numpy(), 1, -1))
            np.testing.assert_array_equal(pull(y)[0], x)


# ---- errors ----

X = jnp.ones((2, 8, 9, 6))


@in_one_case(
    ("call", "error", "words"),
    [
        (lambda: pad(X, 1, pads=2), TypeError, "pad takes padding=, not pads="),
        (lambda: pad("X", 1), TypeError, "x must be an array, got str"),
        (lambda: pad(X.astype(bool), 1), TypeError, "x must be float32.* got bool"),
        (lambda: pad(X[0, 0], 1), ValueError, r"x must be \(N, \*S, C\) with one to three.*x\[None\]"),
        (lambda: pad(X[:, :0], 1), ValueError, "x must have channels and spatial sizes of at least 1"),
        (lambda: pad(X, (1, 1, 1)), ValueError, "padding must be an int, or 2 entries"),
        (lambda: pad(X, 1.5), TypeError, r"padding must be an int, or 2 entries.*got 1\.5"),
        (lambda: pad(X, "SAME"), ValueError, "padding must be in numbers, as 'SAME' is about a window"),
        (lambda: pad(X, (-4, 0)), ValueError, r"padding must leave something of x: \(-4, -4\) crops all 8"),
        (lambda: pad(X, 1, mode="mirror"), ValueError, "mode must be one of 'zeros', 'reflect'"),
        (lambda: pad(X, 8, mode="reflect"), ValueError, "padding must be at most 7"),
        (lambda: pad(X, 9, mode="circular"), ValueError, "padding must be at most 8"),
        (lambda: pad(X, 1, mode="reflect", value=1), ValueError, "value must be left out where mode is 'reflect'"),
        (lambda: pad(X, 1, value="0"), TypeError, "value must be a number, got '0'"),
        (lambda: pad(X.astype("uint8"), 1, value=-1), ValueError, "value must be an integer that x's dtype uint8"),
        (lambda: pad(X.astype("int32"), 1, value=0.5), ValueError, r"value must be an integer.*got 0\.5"),
        (
            lambda: pad(X.astype("float16"), 1, value=1e6),
            ValueError,
            "value must be a number that x's dtype float16 can",
        ),
        (lambda: unfold(X, 2, strides=2), TypeError, "unfold takes stride=, not strides="),
        (lambda: unfold(X, kernel_size=2), TypeError, "unfold takes window=, not kernel_size="),
        (lambda: unfold(X[0], 2), ValueError, r"window must be \(2,\) where x has one spatial dimension"),
        (lambda: unfold(X, 9), ValueError, "window must fit into the padded input"),
        (lambda: fold(X, (8, 9), 2), ValueError, r"cols must be \(N, 7, 8, 4 C\), as unfold makes of .*\(2, 8, 9, 6\)"),
        (lambda: fold(X, (8, 9), (2, 2), padding=((1, 0),) * 2), ValueError, r"cols must be \(N, 8, 9, 4 C\)"),
        (lambda: fold(X, 8, 2), TypeError, "spatial_shape must be a sequence of ints"),
        (lambda: fold(X, (8, 9), (2,)), ValueError, "window must be an int or one int per spatial dimension"),
        (lambda: pixel_shuffle(X, 2), ValueError, r"r must be such that 4, .* got r \(2, 2\) for 6 channels"),
        (lambda: pixel_shuffle(X, 1.0), TypeError, "r must be an int"),
        (lambda: pixel_shuffle(X[0, 0], 2), ValueError, "x must be"),
        (
            lambda: pixel_unshuffle(X, 2),
            ValueError,
            r"r must divide x's spatial sizes, got r \(2, 2\) for sizes \(8, 9",
        ),
        (lambda: pixel_unshuffle(X, 0), ValueError, "r must be at least 1, got 0"),
        (lambda: channel_shuffle(X, 4), ValueError, "groups must be at least 1 and divide x's channels, got 4"),
        (lambda: channel_shuffle(X, group=2), TypeError, "channel_shuffle takes groups=, not group="),
        (lambda: channel_shuffle(X, 2.0), TypeError, r"groups must be made of ints, got 2\.0"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
