"""Convolution and its two gradients as one primitive, so that each can be computed in the way that is fastest for it.

The form T(x, w, y) = <conv(x, w), y> is linear in x, in w and in y.  Its derivative in one of the three is a function
of the other two: in y the convolution itself, in x the gradient of the input, in w the gradient of the kernel.  They
are each other's transposes:

    d T / d y  (x, w)  =  conv(x, w)                        (N, *S', F)
    d T / d x  (w, y)  =  conv_transpose(y, w)              (N, *S, C)
    d T / d w  (x, y)  =  conv_kernel_grad(x, y)            (*K, C // groups, F)

so that derivatives of all orders, forward and reverse, come back to these three.  Off the CPU, and on several
devices, each is what XLA makes of ``lax.conv_general_dilated``.  On the CPU XLA takes 2 to 7 times longer than
oneDNN, and inside loops 4 to 12 times longer still; there each has a form of its own below.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cnnjax.ops import conv_onednn
from cnnjax.ops.arguments import is_local
from cnnjax.ops.conv_algorithms import direct, im2col, lax_conv, transposed
from cnnjax.ops.conv_winograd import kernel_of_places, of_tiles, pad_to_tiles, tile_counts, winograd_matrices
from cnnjax.ops.geometry import Windows, slide
from cnnjax.ops.patches import MANY_TAPS, columns, pad_spatial, taps

OPERANDS = {"y": "xw", "x": "wy", "w": "xy"}
TILE = 4  # outputs per dimension of Winograd's form: more lose digits, fewer save less
MOST_PRODUCTS = 2**17  # of channels and features at a time there: 36 sums of this size are 19 MB
TILE_BYTES = 9_500_000  # of patches at a time (measured: 2 MB cost a fifth more, 18 MB up to twice as much)


def conv_by_platform(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """The convolution; see :mod:`cnnjax.ops.conv_algorithms` for the arguments."""
    if not is_local(x, w):
        return lax_conv(x, w, windows, groups, precision)
    if x.ndim == 3:
        return conv_by_platform(x[:, None], w[None], _as_images(windows), groups, precision)[:, 0]
    if math.prod(windows.window) == 1 and max(windows.stride) > 1:  # what no window meets need not be multiplied
        ((_, x),) = taps(pad_spatial(x, windows.exact_padding), windows)
        windows = slide(windows.output, windows.window)
    return derivative_p.bind(x, w, of="y", windows=windows, groups=groups, precision=precision)


def transposed_by_platform(y: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """The adjoint of the convolution in x."""
    if not is_local(y, w):
        return transposed(y, w, windows, groups, precision)
    if y.ndim == 3:
        return transposed_by_platform(y[:, None], w[None], _as_images(windows), groups, precision)[:, 0]
    # a convolution of these sizes may have more outputs than y; of x without what no window of y meets it has not
    beyond = tuple((0, max(-high, 0)) for _, high in windows.exact_padding)
    met = windows._replace(
        sizes=tuple(size - more for size, (_, more) in zip(windows.sizes, beyond, strict=True)),
        padding=tuple((low, max(high, 0)) for low, high in windows.exact_padding),
    )
    x = derivative_p.bind(w, y, of="x", windows=met, groups=groups, precision=precision)
    return pad_spatial(x, beyond)


def _as_images(windows: Windows) -> Windows:
    """Windows over sequences as those over images of one row."""
    return Windows((1, *windows.sizes), (1, *windows.window), (1, *windows.stride), (1, *windows.dilation),
                   ((0, 0), *windows.padding), (1, *windows.output))  # fmt: skip


# ---- the primitive: shapes, derivatives, batching ----

derivative_p = Primitive("cnnjax_conv_derivative")


def _bind(of: str, arrays: dict[str, jax.Array], **static: Any) -> jax.Array:
    return derivative_p.bind(*(arrays[name] for name in OPERANDS[of]), of=of, **static)


@derivative_p.def_abstract_eval
def _shape(a: Any, b: Any, *, of: str, windows: Windows, groups: int, precision: Any) -> Any:
    arrays = dict(zip(OPERANDS[of], (a.shape, b.shape), strict=True))
    if of == "y":
        shape = (arrays["x"][0], *windows.output, arrays["w"][-1])
    elif of == "x":
        shape = (arrays["y"][0], *windows.sizes, arrays["w"][-2] * groups)
    else:
        shape = (*windows.window, arrays["x"][-1] // groups, arrays["y"][-1])
    return jax.core.ShapedArray(shape, a.dtype)


def _transpose_rule(position: int) -> Any:
    """The cotangent of one operand: the derivative in that operand, of the cotangent and the other one."""

    def rule(cotangent: jax.Array, a: Any, b: Any, *, of: str, **static: Any) -> jax.Array:
        wanted, other = OPERANDS[of][position], OPERANDS[of][1 - position]
        return _bind(wanted, {of: cotangent, other: (a, b)[1 - position]}, **static)

    return rule


ad.defbilinear(derivative_p, _transpose_rule(0), _transpose_rule(1))


def _batch_rule(arguments: Any, axes: Any, *, of: str, **static: Any) -> tuple[jax.Array, int]:
    mapped = dict(zip(OPERANDS[of], axes, strict=True))
    if of != "w" and mapped["w"] is None:  # one kernel for all: the mapped axis joins the batch
        arrays = dict(zip(OPERANDS[of], arguments, strict=True))
        (name,) = set(OPERANDS[of]) - {"w"}
        many = jnp.moveaxis(arrays[name], mapped[name], 0)
        result = _bind(of, {"w": arrays["w"], name: many.reshape(-1, *many.shape[2:])}, **static)
        return result.reshape(*many.shape[:2], *result.shape[1:]), 0
    return jax.vmap(partial(_plain, of=of, **static), axes)(*arguments), 0


batching.primitive_batchers[derivative_p] = _batch_rule


derivative_p.def_impl(jax.jit(derivative_p.bind, static_argnames=("of", "windows", "groups", "precision")))


# ---- XLA's own ----


def _plain(a: jax.Array, b: jax.Array, *, of: str, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if of == "y":
        return lax_conv(a, b, windows, groups, precision)
    shape = _shape(a, b, of=of, windows=windows, groups=groups, precision=precision)
    like = jax.ShapeDtypeStruct(shape.shape, shape.dtype)
    if of == "x":
        (w, y), run = (a, b), lambda x: lax_conv(x, w, windows, groups, precision)
    else:
        (x, y), run = (a, b), lambda w: lax_conv(x, w, windows, groups, precision)
    return jax.linear_transpose(run, like)(y)[0]


mlir.register_lowering(derivative_p, mlir.lower_fun(_plain, multiple_results=False))


# ---- on one CPU ----


def _on_cpu(a: jax.Array, b: jax.Array, *, of: str, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if of == "y":
        return _forward(a, b, windows, groups, precision)
    if of == "x":
        return _input_gradient(a, b, windows, groups, precision)
    return _kernel_gradient(a, b, windows, groups, precision)


def _lower_on_cpu(ctx: Any, a: Any, b: Any, **static: Any) -> Any:
    devices = getattr(ctx.module_context.axis_context, "num_devices", None)
    run = _on_cpu if devices == 1 else _plain  # XLA cannot share out a custom call or a loop over the batch
    return mlir.lower_fun(run, multiple_results=False)(ctx, a, b, **static)


mlir.register_lowering(derivative_p, _lower_on_cpu, platform="cpu")


def _forward(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if conv_onednn.serves(x, w):
        return conv_onednn.conv(x, w, windows, groups)
    if w.shape[-2] == 1 and groups > 1 and math.prod(windows.window) <= MANY_TAPS:
        return direct(x, w, windows, groups, precision)
    return lax_conv(x, w, windows, groups, precision)


def _input_gradient(w: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if _few_channels(w.shape, windows, groups):
        like = jax.ShapeDtypeStruct((y.shape[0], *windows.sizes, w.shape[-2]), y.dtype)
        return jax.linear_transpose(lambda x: _by_blocks(x, w, windows, groups, precision), like)(y)[0]
    return transposed(y, w, windows, groups, precision, _forward)


def _few_channels(shape: tuple[int, ...], windows: Windows, groups: int) -> bool:
    """Whether channels (those of LeNet-5) are too few for whole registers: blocks of neighbours then fill them."""
    *_, per_group, features = shape
    return max(per_group, features) <= 16 and groups == 1 and set(windows.stride) == set(windows.dilation) == {1}


def _by_blocks(x: jax.Array, w: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    return im2col(x, w, windows, groups, precision, block=4 if w.shape[-2] <= 2 else 2)


def _kernel_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """dw[t, c, f] = sum_n sum_o x[n, o * stride + t * dilation, c] y[n, o, f].

    XLA's own computes the whole product between all groups and drops what lies between different ones.
    """
    shape = (*windows.window, x.shape[-1] // groups, y.shape[-1])
    if shape[-2] == 1 and groups > 1 and math.prod(windows.window) <= MANY_TAPS:
        like = jax.ShapeDtypeStruct(shape, x.dtype)
        return jax.linear_transpose(lambda w: direct(x, w, windows, groups, precision), like)(y)[0]
    run = _chosen_kernel_gradient(x, y, windows, groups, precision)
    if run is _kernel_gradient_by_tiles and _few_channels(shape, windows, groups):
        like = jax.ShapeDtypeStruct(shape, x.dtype)
        return jax.linear_transpose(lambda w: _by_blocks(x, w, windows, groups, precision), like)(y)[0]
    if groups > MANY_TAPS or x.ndim != 4:
        return _plain(x, y, of="w", windows=windows, groups=groups, precision=precision)
    pairs = zip(jnp.split(x, groups, -1), jnp.split(y, groups, -1), strict=True)
    return jnp.concatenate([run(*pair, windows) for pair in pairs], -1)


def _chosen_kernel_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> Any:
    """The form for two dimensions that was measured to be the faster, by shape.

    Time over PyTorch 2.13 on 2 cores, by Winograd / by images / by tiles: TODO
    """
    per_group, features, taps = x.shape[-1] // groups, y.shape[-1] // groups, math.prod(windows.window)
    tiles = math.prod(tile_counts(windows, TILE))
    plain = windows.window == (3, 3) and set(windows.stride) == set(windows.dilation) == {1} and precision is None
    if plain and per_group * features >= 16 * (per_group + features) and 36 * tiles <= 4 * math.prod(windows.output):
        return _kernel_gradient_by_winograd
    large = x.shape[0] >= 16 and features >= 16 and taps > 1 and taps * per_group >= 128
    if large and conv_onednn.serves(x, y):
        return _kernel_gradient_by_images
    return _kernel_gradient_by_tiles


def _kernel_gradient_by_winograd(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The gradient of F(4 x 4, 3 x 3): a quarter of the products; see :mod:`cnnjax.ops.conv_winograd`."""
    of_input, of_kernel, of_output = winograd_matrices(TILE, 3)
    places, channels, features = of_input.shape[0] ** 2, x.shape[-1], y.shape[-1]
    if channels * features > MOST_PRODUCTS and features % 2 == 0:
        halves = [_kernel_gradient_by_winograd(x, half, windows) for half in jnp.split(y, 2, -1)]
        return jnp.concatenate(halves, -1)
    down, along = tile_counts(windows, TILE)
    room = max(TILE_BYTES, 4 * places * channels * features) // (4 * places * (channels + features) * along)
    rows = _largest_divisor(down, room)
    images = _largest_divisor(x.shape[0], room // down) if rows == down else 1
    x = lax.optimization_barrier(pad_to_tiles(x, windows, TILE))
    grow = tuple((0, count * TILE - size) for count, size in zip((down, along), windows.output, strict=True))
    y = lax.optimization_barrier(pad_spatial(y, grow))
    product = conv_onednn.transposed_matmul if conv_onednn.serves(x, y) else _transposed_matmul

    def part(x: jax.Array, y: jax.Array) -> jax.Array:
        counts = y.shape[1] // TILE, along
        xs, ys = of_tiles(x, (of_input,) * 2, TILE, counts), of_tiles(y, (of_output.T,) * 2, TILE, counts)
        return product(xs.reshape(places, -1, channels), ys.reshape(places, -1, features))

    total = _sum_over_tiles(part, x, y, windows, images, rows * TILE)
    return kernel_of_places(total.reshape(*of_input.shape[:1] * 2, channels, features), (of_kernel,) * 2)


def _kernel_gradient_by_images(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The sum over tiles of convolutions in which y is the kernel, images are channels and channels places.

        dw[t, c, f] = sum_o sum_n x[o * stride + t * dilation, c, n] y[o, n, f]

    So oneDNN multiplies blocks of (channels, images) (images, features), and no patches are written down.
    """
    def part(x: jax.Array, y: jax.Array) -> jax.Array:
        x = jnp.transpose(x, (1, 2, 3, 0))[None]  # (1, H, W, C, N)
        y = jnp.transpose(y, (1, 2, 0, 3))[:, :, None]  # (H', W', 1, N, F)
        tile = Windows(x.shape[1:4], y.shape[:3], (*windows.dilation, 1), (*windows.stride, 1), ((0, 0),) * 3,
                       (*windows.window, x.shape[3]))  # fmt: skip
        return conv_onednn.conv(x, y, tile, 1)[0]

    rows = windows.output[0] if windows.output[0] <= 16 else _largest_divisor(windows.output[0], 8)
    images = _largest_divisor(x.shape[0], 32)
    return _sum_over_tiles(part, pad_spatial(x, windows.exact_padding), y, windows, images, rows)


def _kernel_gradient_by_tiles(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The sum of (patches of x)^T y over tiles, each of whole images or of rows of one."""
    batch, rows, width, features = y.shape
    row_bytes = width * math.prod(windows.window) * x.shape[-1] * x.dtype.itemsize
    tile_rows = _largest_divisor(rows, TILE_BYTES // row_bytes)
    images = _largest_divisor(batch, TILE_BYTES // (row_bytes * rows)) if tile_rows == rows else 1
    product = conv_onednn.transposed_matmul if conv_onednn.serves(x, y) else _transposed_matmul

    def part(x: jax.Array, y: jax.Array) -> jax.Array:
        places = math.prod(y.shape[:-1])
        cols = columns(x, windows._replace(output=y.shape[1:-1])).reshape(places, -1)
        return product(cols, y.reshape(places, features))

    total = _sum_over_tiles(part, pad_spatial(x, windows.exact_padding), y, windows, images, tile_rows)
    return total.reshape(*windows.window, x.shape[-1], features)


def _sum_over_tiles(part: Any, x: jax.Array, y: jax.Array, windows: Windows, images: int, rows: int) -> jax.Array:
    """The sum of part(x', y') over tiles of y of so many images and rows; x', of the padded x, is what they see."""
    if (images, rows) == y.shape[:2]:  # one tile: no loop
        return part(x, y)
    x, y = lax.optimization_barrier((x, y))
    step, seen = windows.stride[0] * rows, (rows - 1) * windows.stride[0] + windows.extents[0]
    zero = np.int32(0)

    def of_tile(place: jax.Array) -> jax.Array:
        image, row = place * images % y.shape[0], place * images // y.shape[0]
        xs = lax.dynamic_slice(x, (image, row * step, zero, zero), (images, seen, *x.shape[2:]))
        return part(xs, lax.dynamic_slice(y, (image, row * rows, zero, zero), (images, rows, *y.shape[2:])))

    count = y.shape[0] // images * (y.shape[1] // rows)
    first = jax.eval_shape(of_tile, zero)
    total, _ = lax.scan(
        lambda total, place: (total + of_tile(place), None),
        jnp.zeros(first.shape, first.dtype),
        jnp.arange(count, dtype=np.int32),
    )
    return total


def _transposed_matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    batch = tuple(range(a.ndim - 2))
    return lax.dot_general(a, b, (((a.ndim - 2,), (b.ndim - 2,)), (batch, batch)))


def _largest_divisor(n: int, limit: int) -> int:
    return max(d for d in range(1, n + 1) if n % d == 0 and (d <= limit or d == 1))
