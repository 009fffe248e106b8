"""How exact the sums are: every op in every dtype, against the same numbers in NumPy's longest floats.

The inputs are rounded to the dtype first, so what is measured is the op's own error.  They are once all positive,
where a sum in half precision soon stands still (4,096 bfloat16 ones would give 256), and once of both signs.
Convolution's own bounds, algorithm by algorithm, are in test_conv.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from cnnjax import ops
from tests.cases import array
from tests.oracles import correlate, windows

#: Largest error over largest output, for values and gradients, as the docstring of cnnjax.ops has it.
BOUNDS = {"float64": 1e-14, "float32": 5e-6, "float16": 1e-3, "bfloat16": 8e-3}


def spread(y, w):
    """The adjoint of correlate in x, two spatial dimensions."""
    x = np.zeros((len(y), *np.add(y.shape[1:3], w.shape[:2]) - 1, w.shape[2]), y.dtype)
    for i, j in np.ndindex(*w.shape[:2]):
        x[:, i : i + y.shape[1], j : j + y.shape[2]] += y @ w[i, j].T
    return x


def kernel_grad(x, dy):
    seen = windows(x, *dy.shape[1:3])  # (N, *K, C, *S')
    return np.einsum("nklcij,nijf->klcf", seen, dy)


def overlap(cols, k):
    """fold of square windows of one channel, stride 1."""
    x = np.zeros((len(cols), *np.add(cols.shape[1:3], k) - 1, 1), cols.dtype)
    for tap, (i, j) in enumerate(np.ndindex(k, k)):
        x[:, i : i + cols.shape[1], j : j + cols.shape[2], 0] += cols[..., tap]
    return x


def energy(x, size):
    wide = np.pad(x**2, ((0, 0), (0, 0), (size // 2, (size - 1) // 2)))
    return sliding_window_view(wide, size, 2).sum(-1)


def normalize(x, scale, bias):
    axes = tuple(range(x.ndim - 1))
    return scale * (x - x.mean(axes)) / np.sqrt(x.var(axes) + np.longdouble(1e-5)) + bias


def quarter_shift(x):
    """Linear sampling a quarter of a pixel further along both axes, zeros outside."""
    for axis in (1, 2):
        end = [(0, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        x = (3 * x + np.delete(np.pad(x, end), 0, axis)) / 4
    return x


TABLE = np.arange(64 * 8).reshape(64, 8) % 3 > 0
PLANE = (1, 64, 64, 2)

#: Per op: cnnjax's, NumPy's, and the shapes of their arguments.
ROWS = {
    "conv": (ops.conv, correlate, (1, 10, 10, 64), (8, 8, 64, 4)),
    "true_conv": (ops.true_conv, lambda x, w: correlate(x, w[::-1, ::-1]), (1, 10, 10, 64), (8, 8, 64, 4)),
    "conv_transpose": (ops.conv_transpose, spread, (1, 9, 9, 64), (8, 8, 2, 64)),
    "conv_input_grad": (lambda y, w: ops.conv_input_grad(y, w, (1, 16, 16, 2)), spread, (1, 9, 9, 64), (8, 8, 2, 64)),
    "conv_kernel_grad": (
        lambda x, dy: ops.conv_kernel_grad(x, dy, (2, 2, 2, 3)),
        kernel_grad,
        (1, 65, 65, 2),
        (1, 64, 64, 3),
    ),
    "depthwise_conv": (
        ops.depthwise_conv,
        lambda x, w: np.einsum("nijckl,klcm->nijcm", windows(x, *w.shape[:2]), w).reshape(1, 3, 3, -1),
        (1, 6, 6, 2),
        (4, 4, 2, 2),
    ),
    "separable_conv": (
        ops.separable_conv,
        lambda x, w, p: correlate(x, np.einsum("klcm,cmf->klcf", w, p.reshape(*w.shape[2:], -1))),
        (1, 6, 6, 256),
        (4, 4, 256, 2),
        (512, 4),
    ),
    "local_conv": (
        lambda x, w: ops.local_conv(x, w, window=2),
        lambda x, w: np.einsum("nijp,ijpf->nijf", np.moveaxis(windows(x, 2, 2), 3, -1).reshape(1, 3, 3, -1), w),
        (1, 4, 4, 1024),
        (3, 3, 4096, 2),
    ),
    "connected_conv": (
        lambda x, w: ops.connected_conv(x, w, TABLE),
        lambda x, w: correlate(x, w * TABLE),
        (1, 10, 10, 64),
        (8, 8, 64, 8),
    ),
    "toeplitz_matrix": (
        lambda x, w: (ops.toeplitz_matrix(w, x.shape[1:3]) @ x.ravel().astype(x.dtype)).reshape(1, 3, 3, -1),
        correlate,
        (1, 6, 6, 16),
        (4, 4, 16, 2),
    ),
    "fold": (lambda x: ops.fold(x, (12, 12), 6), lambda x: overlap(x, 6), (1, 7, 7, 36)),
    "unfold": (
        lambda x: ops.unfold(x, 4),
        lambda x: np.moveaxis(windows(x, 4, 4), 3, -1).reshape(1, 7, 7, -1),
        (1, 10, 10, 1),
    ),
    "max_pool": (lambda x: ops.max_pool(x, 4, stride=1), lambda x: windows(x, 4, 4).max((-2, -1)), (1, 9, 9, 1)),
    "max_pool of few": (
        lambda x: ops.max_pool(x, (1, 8), stride=1),
        lambda x: windows(x, 1, 8).max((-2, -1)),
        (1, 3, 19, 1),
    ),
    "pool": (lambda x: ops.pool(x, (1, 8), jnp.max, stride=1), lambda x: windows(x, 1, 8).max((-2, -1)), (1, 3, 19, 1)),
    "avg_pool": (lambda x: ops.avg_pool(x, 3, stride=2), lambda x: windows(x, 3, 3)[:, ::2, ::2].mean((-2, -1)), PLANE),
    "avg_pool large": (lambda x: ops.avg_pool(x, 64), lambda x: x.mean((1, 2), keepdims=True), PLANE),
    "lp_pool": (lambda x: ops.lp_pool(x, 64), lambda x: np.sqrt((x**2).sum((1, 2), keepdims=True)), PLANE),
    "lp_pool sum": (lambda x: ops.lp_pool(x, 64, p=1), lambda x: abs(x).sum((1, 2), keepdims=True), PLANE),
    "lp_pool cubic": (
        lambda x: ops.lp_pool(x, (1, 20), p=3),
        lambda x: (abs(x) ** 3).sum((1, 2), keepdims=True) ** (np.longdouble(1) / 3),
        (1, 1, 20, 2),
    ),
    "pool logsumexp": (
        lambda x: ops.pool(x, (1, 20), jax.nn.logsumexp),
        lambda x: np.log(np.exp(x).sum((1, 2), keepdims=True)),
        (1, 1, 20, 2),
    ),
    "adaptive_avg_pool": (
        lambda x: ops.adaptive_avg_pool(x, 2),
        lambda x: np.stack([[x[:, i : i + 50, j : j + 50].mean((1, 2)) for j in (0, 49)] for i in (0, 49)]).transpose(
            2, 0, 1, 3
        ),
        (1, 99, 99, 2),
    ),
    "global_avg_pool": (ops.global_avg_pool, lambda x: x.mean((1, 2)), PLANE),
    "stochastic_pool mean": (
        lambda x: ops.stochastic_pool(abs(x), (1, 20), key=None, deterministic=True),
        lambda x: (x**2).sum((1, 2), keepdims=True) / abs(x).sum((1, 2), keepdims=True),
        (1, 1, 20, 2),
    ),
    "local_response_norm": (
        lambda x: ops.local_response_norm(x, size=999, alpha=0.1),
        lambda x: x / (2 + np.longdouble(0.1) * energy(x, 999)) ** np.longdouble(0.75),
        (1, 4, 1000),
    ),
    "batch_norm": (lambda *arrays: ops.batch_norm(*arrays)[0], normalize, (4, 32, 32, 2), (2,), (2,)),
    "batch_norm_max_pool": (  # windows of one: what is normalised, not what is selected
        lambda *arrays: ops.batch_norm_max_pool(*arrays, 1)[0],
        normalize,
        *((4, 32, 32, 2), (2,), (2,)),
    ),
    "deform_conv": (
        lambda x, w: ops.deform_conv(x, w, jnp.full((1, 3, 3, 128), 0.25, x.dtype)),
        lambda x, w: correlate(quarter_shift(x), w),
        (1, 10, 10, 64),
        (8, 8, 64, 4),
    ),
}


def inputs(shapes, dtype, low):
    rng = np.random.default_rng(0)
    args = [array(rng.uniform(low, 1.5, shape), dtype) for shape in shapes]
    return args, rng


def largest_error(got, expected):
    """Over the largest output."""
    assert got.shape == expected.shape
    error = np.abs(np.asarray(got).astype(np.longdouble) - np.asarray(expected)).max()
    return error / np.abs(expected).max()


#: Variants, whose names go on after a space, are slow.
EVERYDAY = [pytest.param(name, marks=[pytest.mark.slow] if " " in name else []) for name in ROWS]
LOWS = (0.5, -1.5)


@pytest.mark.parametrize("name", EVERYDAY)
def test_error_bounds(name):
    op, exact, *shapes = ROWS[name]
    in_every_dtype = jax.jit(lambda arrays: {dtype: op(*args) for dtype, args in arrays.items()})  # one program
    with jax.enable_x64(True):
        for low in LOWS:
            arrays = {dtype: inputs(shapes, dtype, low)[0] for dtype in BOUNDS}
            for dtype, y in in_every_dtype(arrays).items():
                assert y.dtype == dtype
                error = largest_error(y, exact(*(np.asarray(a).astype(np.longdouble) for a in arrays[dtype])))
                assert error <= BOUNDS[dtype], (dtype, low, float(error))


@pytest.mark.parametrize("name", EVERYDAY)
def test_error_bounds_of_gradients(name):
    """Those of bfloat16 against those in float64."""
    op, _, *shapes = ROWS[name]

    @jax.jit
    def gradients(weights, args):
        gradient = jax.grad(
            lambda *args: (op(*args).astype("float64") * weights.astype("float64")).sum(), tuple(range(len(args)))
        )
        return gradient(*args), gradient(*(a.astype("float64") for a in args))

    with jax.enable_x64(True):
        for low in LOWS:
            args, rng = inputs(shapes, "bfloat16", low)
            shape = jax.eval_shape(op, *args).shape
            weights = array(rng.uniform(0.5, 1.5, shape), "bfloat16")  # ones would add up exactly
            for got, expected in zip(*gradients(weights, args), strict=True):
                assert got.dtype == "bfloat16"
                error = largest_error(got, expected)
                assert error <= BOUNDS["bfloat16"], (low, float(error))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_an_element_in_400_windows(dtype):
    """400 ones: in halves a sum of them one by one stands still at 256 in bfloat16."""
    row = jnp.zeros((1, 1200, 1), dtype).at[0, 600].set(1)
    plane = jnp.zeros((1, 60, 60, 1), dtype).at[0, 30, 30].set(1)
    ops_of = {
        "max": (lambda x: ops.max_pool(x, (400,), stride=1), row),
        "max, 2-D": (lambda x: ops.max_pool(x, 20, stride=1), plane),
        "unfold": (lambda x: ops.unfold(x, (400,)), row),
        "unfold, 2-D": (lambda x: ops.unfold(x, 20), plane),
        "pool": (lambda x: ops.pool(x, (400,), jnp.sum, stride=1), row),
        "adaptive": (lambda x: ops.adaptive_max_pool(x, (400,)), row[:, 600:601]),
    }

    @jax.jit
    def gradients():
        total = {name: lambda x, op=op: op(x).astype("float32").sum() for name, (op, _) in ops_of.items()}
        return {name: jax.grad(total[name])(x).max() for name, (_, x) in ops_of.items()}

    for name, largest in gradients().items():
        assert largest == 400, name


def test_max_unpool_and_the_other_selections_are_exact():
    """No sums: what comes out went in."""
    selections = (
        lambda x: ops.max_pool(x, 3, stride=1, padding=1),
        lambda x: ops.min_pool(x, 2),
        lambda x: ops.adaptive_max_pool(x, (4, 3)),
        lambda x: ops.fractional_max_pool(x, 2, output_size=(5, 4), key=jax.random.key(0)),
        lambda x: ops.lp_pool(x, 2, p=float("inf")),
        lambda x: ops.max_unpool(*ops.max_pool(x, 2, return_indices=True), (9, 7)),
        lambda x: ops.pad(x, 2, mode="reflect"),
        lambda x: ops.pixel_shuffle(x, (2, 1)),
        lambda x: ops.pixel_unshuffle(x, (3, 1)),
        lambda x: ops.channel_shuffle(x, 2),
        ops.global_max_pool,
    )
    together = jax.jit(lambda x: [(op(x), op(x.astype("float64"))) for op in selections])
    with jax.enable_x64(True):
        for dtype in BOUNDS:
            for y, wide in together(array(np.random.default_rng(0).normal(size=(1, 9, 7, 2)), dtype)):
                assert y.dtype == dtype
                np.testing.assert_array_equal(np.asarray(y).astype("float64"), wide)


IMAGE = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 4), "uint8")


def test_integer_images_are_refused_where_there_is_arithmetic():
    w = np.ones((3, 3, 4, 2), "float32")
    for call in (
        lambda x: ops.conv(x, w),
        lambda x: ops.true_conv(x, w),
        lambda x: ops.conv_transpose(x, w[..., :1]),
        lambda x: ops.conv_input_grad(x, w, (1, 8, 8, 4)),
        lambda x: ops.conv_kernel_grad(x, w, (3, 3, 4, 2)),
        lambda x: ops.depthwise_conv(x, w),
        lambda x: ops.separable_conv(x, w, w),
        lambda x: ops.local_conv(x, w),
        lambda x: ops.connected_conv(x, w, np.ones((4, 2), bool)),
        lambda x: ops.avg_pool(x, 2),
        lambda x: ops.lp_pool(x, 2),
        lambda x: ops.adaptive_avg_pool(x, 2),
        lambda x: ops.stochastic_pool(x, 2, key=jax.random.key(0)),
        ops.global_avg_pool,
        ops.local_response_norm,
        ops.gelu,
    ):
        with pytest.raises(TypeError, match=r"got uint8: convert it first, as by \w+\.astype\(jnp\.float32\) / 255"):
            call(IMAGE)


def test_integer_images_are_exact_where_there_is_none():
    tiles = IMAGE.reshape(1, 3, 2, 3, 2, 4)
    for y, expected in (
        (ops.max_pool(IMAGE, 2), tiles.max((2, 4))),
        (ops.min_pool(IMAGE, 2), tiles.min((2, 4))),
        (ops.adaptive_max_pool(IMAGE, 3), tiles.max((2, 4))),
        (ops.global_max_pool(IMAGE), IMAGE.max((1, 2))),
        (ops.pad(IMAGE, 1), np.pad(IMAGE, ((0, 0), (1, 1), (1, 1), (0, 0)))),
        (ops.unfold(IMAGE, (6, 6)), IMAGE.reshape(1, 1, 1, -1)),
    ):
        assert y.dtype == "uint8"
        np.testing.assert_array_equal(y, expected)
