"""How exact the sums are: every op in every dtype, against the same numbers in NumPy's longest floats.

The inputs are rounded to the dtype first, so what is measured is the op's own error.  They are once all positive,
where a sum in half precision soon stands still (4,096 bfloat16 ones would give 256), and once of both signs.
Convolution's own bounds, algorithm by algorithm, are in test_conv.py.
"""

import jax
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cnnjax import ops

#: Largest error over largest output, for values and gradients, as the docstring of cnnjax.ops has it.
BOUNDS = {"float64": 1e-14, "float32": 5e-6, "float16": 1e-3, "bfloat16": 8e-3}


def windows(x, *window):
    """(N, *S', C, *K): what each window sees."""
    return sliding_window_view(x, window, tuple(range(1, 1 + len(window))))


def correlate(x, w):
    seen = windows(x, *w.shape[:-2])
    rank = w.ndim - 2
    return np.tensordot(seen, w, ((rank + 1, *range(rank + 2, 2 * rank + 2)), (rank, *range(rank))))


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
        (1, 7, 7, 2),
        (5, 5, 2, 2),
    ),
    "separable_conv": (
        ops.separable_conv,
        lambda x, w, p: correlate(x, np.einsum("klcm,cmf->klcf", w, p.reshape(*w.shape[2:], -1))),
        (1, 7, 7, 256),
        (5, 5, 256, 2),
        (512, 4),
    ),
    "local_conv": (
        lambda x, w: ops.local_conv(x, w, window=8),
        lambda x, w: np.einsum("nijp,ijpf->nijf", np.moveaxis(windows(x, 8, 8), 3, -1).reshape(1, *w.shape[:2], -1), w),
        (1, 10, 10, 64),
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
        lambda x: ops.unfold(x, 6),
        lambda x: np.moveaxis(windows(x, 6, 6), 3, -1).reshape(1, 7, 7, -1),
        (1, 12, 12, 1),
    ),
    "avg_pool": (lambda x: ops.avg_pool(x, 3, stride=2), lambda x: windows(x, 3, 3)[:, ::2, ::2].mean((-2, -1)), PLANE),
    "avg_pool large": (lambda x: ops.avg_pool(x, 64), lambda x: x.mean((1, 2), keepdims=True), PLANE),
    "lp_pool": (lambda x: ops.lp_pool(x, 64), lambda x: np.sqrt((x**2).sum((1, 2), keepdims=True)), PLANE),
    "lp_pool sum": (lambda x: ops.lp_pool(x, 64, p=1), lambda x: abs(x).sum((1, 2), keepdims=True), PLANE),
    "lp_pool cubic": (
        lambda x: ops.lp_pool(x, 64, p=3),
        lambda x: (abs(x) ** 3).sum((1, 2), keepdims=True) ** (np.longdouble(1) / 3),
        PLANE,
    ),
    "pool logsumexp": (
        lambda x: ops.pool(x, 64, jax.nn.logsumexp),
        lambda x: np.log(np.exp(x).sum((1, 2), keepdims=True)),
        PLANE,
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
        lambda x: ops.stochastic_pool(abs(x), 64, key=None, deterministic=True),
        lambda x: (x**2).sum((1, 2), keepdims=True) / abs(x).sum((1, 2), keepdims=True),
        PLANE,
    ),
    "local_response_norm": (
        lambda x: ops.local_response_norm(x, size=999, alpha=0.1),
        lambda x: x / (2 + np.longdouble(0.1) * energy(x, 999)) ** np.longdouble(0.75),
        (1, 4, 1000),
    ),
}
