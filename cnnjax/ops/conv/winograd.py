"""Winograd's minimal filtering: m outputs of r taps by m + r - 1 products, nested over the dimensions.

    y = A^T [ (G w) * (B^T x) ]   on each tile of m + r - 1 inputs, per dimension

With channels, the product of one tile element over all tiles is a matrix product. The form is trilinear, so the
gradient of the kernel takes the same three matrices, transposed:

    dw = G^T [ sum over tiles of (B^T x)^T (A dy) ]

References:
  Winograd, Arithmetic complexity of computations, SIAM 1980.
  Lavin and Gray, Fast algorithms for convolutional neural networks, arXiv:1509.09308.
"""

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.checks import Precision
from cnnjax.ops.geometry import Windows
from cnnjax.ops.patches import pad_spatial

# Bytes of a float32, in which minimal filtering is worth its passes over memory.
WORD_BYTES = 4


def winograd(
    x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision, outputs: int = 2
) -> jax.Array:
    """Computes the convolution by tiles of `outputs` per dimension, in plain JAX.

    Needs stride and dilation 1. F(4, r) multiplies less than F(2, r) and loses more digits.
    """
    w = transform_kernel(w, outputs)
    if groups == 1:  # an einsum over the one group would copy its operands
        return conv_of_tiles(x, w, windows, outputs, partial(jnp.matmul, precision=precision))

    def product(x: jax.Array, w: jax.Array) -> jax.Array:
        x, w = x.reshape(*x.shape[:-1], groups, -1), w.reshape(*w.shape[:-1], groups, -1)
        return jnp.einsum("pngc,pcgf->pngf", x, w, precision=precision).reshape(*x.shape[:2], -1)

    return conv_of_tiles(x, w, windows, outputs, product)


def winograd4(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes `winograd` with four outputs to a tile."""
    return winograd(x, w, windows, groups, precision, outputs=4)


def conv_of_tiles(
    x: jax.Array, w: jax.Array, windows: Windows, outputs: int, product: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """Convolves x (N, *S, C) with a kernel of `transform_kernel`, by a matrix product (P, M, C) (P, C, F)."""
    rank = len(windows.window)
    of_input, _, of_output = zip(*(winograd_matrices(outputs, r) for r in windows.window), strict=True)
    counts = tuple(-(-count // outputs) for count in windows.output)
    x = lax.optimization_barrier(pad_to_tiles(x, windows, (outputs,) * rank))
    x = transform_tiles(x, of_input, (outputs,) * rank, counts)
    y = product(x.reshape(math.prod(x.shape[:rank]), -1, x.shape[-1]), w.reshape(-1, *w.shape[-2:]))
    y = y.reshape(*x.shape[:-1], y.shape[-1])
    for axis, matrix in enumerate(of_output):  # to (N, *(tiles, m), F)
        y = _along(matrix, y, rank - axis - 1, to=rank + axis + 1)
    y = y.reshape(y.shape[0], *(count * outputs for count in counts), y.shape[-1])
    return lax.slice(y, (0,) * y.ndim, (y.shape[0], *windows.output, y.shape[-1]))


def transform_kernel(w: jax.Array, outputs: int) -> jax.Array:
    """Transforms the kernel (*K, C, F) to tile elements (*P, C, F), those of the last dimension first."""
    for axis, r in enumerate(w.shape[:-2]):
        _, of_kernel, _ = winograd_matrices(outputs, r)
        w = _along(of_kernel, w, axis, to=0)
    return w


def inverse_transform_kernel(products: jax.Array, matrices: Sequence[np.ndarray]) -> jax.Array:
    """Transforms sums over tiles (*P, C, F) to the gradient of the kernel (*K, C, F), by the G of each dimension."""
    rank = len(matrices)
    for axis, matrix in enumerate(matrices):
        products = _along(matrix.T, products, rank - axis - 1, to=rank - 1)
    return products


def pad_to_tiles(x: jax.Array, windows: Windows, outputs: Sequence[int]) -> jax.Array:
    """Pads x (N, *S, C), also up to whole tiles of so many outputs per dimension."""
    grow = [
        (low, -(-count // m) * m + r - 1 - size - low)
        for size, (low, _), count, m, r in zip(
            windows.sizes, windows.padding, windows.output, outputs, windows.window, strict=True
        )
    ]
    return pad_spatial(x, tuple(grow))


def transform_tiles(
    x: jax.Array, matrices: Sequence[np.ndarray], steps: Sequence[int], counts: Sequence[int]
) -> jax.Array:
    """Transforms x (N, *S, C) to (*P, N, *tiles, C): a matrix along each dimension of tiles that begin `steps` apart.

    P are the elements of a tile, those of the last dimension first.
    """
    for axis, (matrix, step, count) in enumerate(zip(matrices, steps, counts, strict=True)):
        at = 2 * axis + 1  # the tile elements of the dimensions before it stand in front
        last = (count - 1) * step + 1
        shifted = [lax.slice_in_dim(x, i, i + last, step, at) for i in range(matrix.shape[1])]
        x = _combinations(matrix, shifted, 0)
    return x


def _along(matrix: np.ndarray, x: jax.Array, axis: int, to: int) -> jax.Array:
    """Multiplies the matrix with x along an axis, which then stands at `to`."""
    return _combinations(matrix, [lax.index_in_dim(x, i, axis, False) for i in range(x.shape[axis])], to)


def _combinations(matrix: np.ndarray, arrays: Sequence[jax.Array], axis: int) -> jax.Array:
    """Stacks, for each row of the matrix, the sum of its entries times the arrays."""
    rows = [[(c, a) for c, a in zip(row.tolist(), arrays, strict=True) if c] for row in matrix]
    sums = [functools.reduce(jnp.add, (a if c == 1 else c * a for c, a in row)) for row in rows]
    # The barrier keeps XLA from computing these again for each combination of the next dimension.
    return lax.optimization_barrier(jnp.stack(sums, axis))


@functools.cache
def winograd_matrices(m: int, r: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns B^T, G and A^T of F(m, r), by Cook and Toom.

    The product of polynomials of degree m - 1 and r - 1 is known by its values at m + r - 2 points and its
    leading coefficient.  V_k evaluates k coefficients there: the product is V_n^-1 [V_r g * V_m h], n = m + r - 1,
    and correlation is the transpose of that in h: y = V_m^T [V_r g * V_n^-T d].
    """
    n = m + r - 1
    # small, and with few reciprocals: of six sets tried the least error in float32
    points = [Fraction(p) for p in (0, 1, -1, 2, "-1/2", -2, "1/2")][: n - 1]

    def values(count: int) -> list[list[Fraction]]:
        return [[p**power for power in range(count)] for p in points] + [[Fraction(0)] * (count - 1) + [Fraction(1)]]

    # Row i of V_n^-T is Lagrange's polynomial, prod (z - p_j) / prod (p_i - p_j); the divisor goes to G.
    lagrange, kernel = [], []
    for p, row in zip([*points, None], values(r), strict=True):
        others = [q for q in points if q != p]
        divisor = Fraction(1) if p is None else math.prod((p - q for q in others), start=Fraction(1))
        coefficients = [Fraction(1)]
        for q in others:  # times (z - q), lowest power first
            shifted, scaled = [Fraction(0), *coefficients], [*(q * c for c in coefficients), Fraction(0)]
            coefficients = [a - b for a, b in zip(shifted, scaled, strict=True)]
        lagrange.append(coefficients + [Fraction(0)] * (n - len(coefficients)))
        kernel.append([value / divisor for value in row])
    return np.array(lagrange, float), np.array(kernel, float), np.array(values(m), float).T
