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
from cnnjax.ops.conv_algorithms import band, direct, im2col, in_blocks, lax_conv, transposed
from cnnjax.ops.conv_winograd import (
    conv_of_places,
    kernel_of_places,
    of_tiles,
    pad_to_tiles,
    places_of_kernel,
    winograd_matrices,
)
from cnnjax.ops.geometry import Windows, slide
from cnnjax.ops.patches import MANY_TAPS, columns, map_taps, pad_spatial, taps

OPERANDS = {"y": "xw", "x": "wy", "w": "xy"}
TILES = {3: 4, 5: 3}  # outputs per dimension of Winograd's form, by taps: more lose digits, fewer save less
MOST_PRODUCTS = 2**17  # of channels and features at a time there: 36 sums of this size are 19 MB
PLACES_BYTES = 40_000_000  # of x and y in Winograd's places at a time, forward
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
        images = _images_by_winograd(x, w, windows, groups)
        if not images:
            return conv_onednn.conv(x, w, windows, groups)
        # one that is not finite would reach outputs that do not see it
        by_winograd = partial(_forward_by_winograd, windows=windows, images=images)
        plain = partial(conv_onednn.conv, windows=windows, groups=1)
        return lax.cond(jnp.isfinite(x).all(), by_winograd, plain, x, w)
    if w.shape[-2] == 1 and groups > 1 and math.prod(windows.window) <= MANY_TAPS:
        return direct(x, w, windows, groups, precision)
    return lax_conv(x, w, windows, groups, precision)


def _images_by_winograd(x: jax.Array, w: jax.Array, windows: Windows, groups: int) -> int:
    """How many images at a time F(2 x 2, 3 x 3) should take; 0 where oneDNN's own way is as fast.

    Measured over that: 512 channels 0.51 (64x4x4), 0.77 (32x14x14), 256 to 512 0.80 (64x8x8), 256 to 384 0.91
    (32x13x13), 256 0.87 to 1.17.  It is the more exact too: 8e-7 of the largest output with 512 channels, and 2.9e-6.
    """
    *window, channels, features = w.shape
    if window != [3, 3] or groups > 1 or not set(windows.stride) == set(windows.dilation) == {1}:
        return 0
    if channels * features < 150 * (channels + features):
        return 0
    image_bytes = 4 * 16 * math.prod(-(-count // 2) for count in windows.output) * (channels + features)
    return _largest_divisor(len(x), PLACES_BYTES // image_bytes) if image_bytes <= PLACES_BYTES else 0


def _forward_by_winograd(x: jax.Array, w: jax.Array, windows: Windows, images: int) -> jax.Array:
    w = places_of_kernel(w, 2)
    run = partial(conv_of_places, w=w, windows=windows, outputs=2, product=_matmul)
    if images == len(x):
        return run(x)
    y = lax.map(run, x.reshape(-1, images, *x.shape[1:]))
    return y.reshape(-1, *y.shape[2:])


def _input_gradient(w: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    if _in_blocks(w, y, windows, groups):
        block = 4 if w.shape[-2] <= 2 else 2
        like = jax.ShapeDtypeStruct((y.shape[0], *windows.sizes, w.shape[-2]), y.dtype)
        return jax.linear_transpose(lambda x: im2col(x, w, windows, groups, precision, block), like)(y)[0]
    return transposed(y, w, windows, groups, precision, _forward)


def _in_blocks(w: jax.Array, y: jax.Array, windows: Windows, groups: int) -> bool:
    """Whether channels are too few for whole registers: blocks of neighbours then fill them."""
    *_, channels, features = w.shape
    few = channels <= (2 if conv_onednn.serves(w, y) else 16) and features <= 16
    return few and groups == 1 and set(windows.stride) == set(windows.dilation) == {1}


def _kernel_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """dw[t, c, f] = sum_n sum_o x[n, o * stride + t * dilation, c] y[n, o, f].

    XLA's own computes the whole product between all groups and drops what lies between different ones.
    """
    shape = (*windows.window, x.shape[-1] // groups, y.shape[-1])
    if shape[-2] == 1 and groups > 1 and math.prod(windows.window) <= MANY_TAPS:
        if groups == shape[-1] and max(windows.stride) == 1 and x.ndim == 4 and conv_onednn.serves(x, y):
            return _depthwise_kernel_gradient(x, y, windows)
        like = jax.ShapeDtypeStruct(shape, x.dtype)
        return jax.linear_transpose(lambda w: direct(x, w, windows, groups, precision), like)(y)[0]
    if groups > MANY_TAPS or x.ndim != 4:
        return _plain(x, y, of="w", windows=windows, groups=groups, precision=precision)
    run = _chosen_kernel_gradient(x, y, windows, groups, precision)
    pairs = zip(jnp.split(x, groups, -1), jnp.split(y, groups, -1), strict=True)
    return jnp.concatenate([run(*pair, windows) for pair in pairs], -1)


def _chosen_kernel_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> Any:
    """The form for two dimensions that was measured to be the faster, by shape.

    Time over PyTorch 2.13 on 2 cores, by Winograd / by images / by tiles: TODO
    """
    channels, features = x.shape[-1] // groups, y.shape[-1] // groups
    window, stride, dilation, (height, width) = windows.window, windows.stride, windows.dilation, windows.output
    if precision is None and max(dilation) == 1:
        if max(stride) == 1 and _worth_winograd(windows, channels, features):
            return _kernel_gradient_by_winograd
        phases = _phases(windows)
        if max(stride) > 1 and _worth_winograd(phases, channels * math.prod(stride), features):
            return _kernel_gradient_by_phases
    if channels <= 4 and math.prod(window) > 1 and dilation[1] == stride[1] == 1:
        return _kernel_gradient_by_blocks
    large = x.shape[0] >= 16 and features >= 16 and math.prod(window) > 1 and math.prod(window) * channels >= 128
    if large and conv_onednn.serves(x, y):
        return _kernel_gradient_by_images
    return _kernel_gradient_by_tiles


def _worth_winograd(windows: Windows, channels: int, features: int) -> bool:
    """Whether the products saved are worth the passes over x and y in the places of tiles."""
    if not set(windows.window) <= set(TILES):
        return False
    counts, places = _tiles(windows)
    saved = math.prod(windows.window) * math.prod(windows.output) / (places * math.prod(counts))
    return saved >= 2.5 and channels * features >= 16 * (channels + features)


def _tiles(windows: Windows) -> tuple[tuple[int, ...], int]:
    """Winograd's tiles per dimension, and the places in one."""
    outputs = [TILES[r] for r in windows.window]
    counts = tuple(-(-count // m) for count, m in zip(windows.output, outputs, strict=True))
    return counts, math.prod(m + r - 1 for m, r in zip(outputs, windows.window, strict=True))


def _depthwise_kernel_gradient(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """A depthwise convolution over volumes whose depth are the images, y the kernel as deep as x.

        dw[t, c] = sum_n sum_o x[n, o + t * dilation, c] y[n, o, c]
    """
    x = pad_spatial(x, tuple((min(low, 0), min(high, 0)) for low, high in windows.exact_padding))
    padding = ((0, 0), *((max(low, 0), max(high, 0)) for low, high in windows.exact_padding))
    volume = slide(x.shape[:3], y.shape[:3], stride=(1, *windows.dilation), padding=padding)
    return conv_onednn.conv(x[None], y[:, :, :, None], volume, y.shape[-1])[0, 0][:, :, None]


def _phases(windows: Windows) -> Windows:
    """Windows of stride 1 over the phases of the padded input, side by side in its channels; see below."""
    window = tuple(-(-k // s) for k, s in zip(windows.window, windows.stride, strict=True))
    return slide(tuple(count + k - 1 for count, k in zip(windows.output, window, strict=True)), window)


def _kernel_gradient_by_phases(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The gradient of a convolution of stride 1 over (N, *S / stride, stride * stride C): t = j stride + r."""
    phases, (down, along), channels = _phases(windows), windows.stride, x.shape[-1]
    (height, width), (rows, columns) = phases.sizes, phases.window
    (top, _), (left, _) = windows.padding
    grow = ((top, height * down - x.shape[1] - top), (left, width * along - x.shape[2] - left))
    x = pad_spatial(x, grow).reshape(-1, height, down, width, along, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, down * along * channels)
    dw = _kernel_gradient_by_winograd(x, y, phases)
    dw = dw.reshape(rows, columns, down, along, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return dw.reshape(rows * down, columns * along, channels, -1)[: windows.window[0], : windows.window[1]]


def _kernel_gradient_by_winograd(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The gradient of minimal filtering: for 3x3 a quarter of the products; see :mod:`cnnjax.ops.conv_winograd`."""
    outputs = tuple(TILES[r] for r in windows.window)
    of_input, of_kernel, of_output = zip(*map(winograd_matrices, outputs, windows.window), strict=True)
    (down, along), places = _tiles(windows)
    channels, features = x.shape[-1], y.shape[-1]
    if channels * features > MOST_PRODUCTS and features % 2 == 0:
        halves = [_kernel_gradient_by_winograd(x, half, windows) for half in jnp.split(y, 2, -1)]
        return jnp.concatenate(halves, -1)
    room = max(TILE_BYTES, 4 * places * channels * features) // (4 * places * (channels + features) * along)
    rows = _largest_divisor(down, room)
    images = _largest_divisor(x.shape[0], room // down) if rows == down else 1
    x = pad_to_tiles(x, windows, outputs)
    grow = ((0, down * outputs[0] - y.shape[1]), (0, along * outputs[1] - y.shape[2]))
    x, y = lax.optimization_barrier((x, pad_spatial(y, grow)))

    def part(x: jax.Array, y: jax.Array) -> jax.Array:
        counts = y.shape[1] // outputs[0], along
        xs = of_tiles(x, of_input, outputs, counts)
        ys = of_tiles(y, [matrix.T for matrix in of_output], outputs, counts)
        sums = _matmul(xs.reshape(places, -1, channels), ys.reshape(places, -1, features), transpose_a=True)
        return sums.reshape(*xs.shape[:2], channels, features)

    return kernel_of_places(_sum_over_tiles(part, x, y, windows, images, rows * outputs[0]), of_kernel)


def _kernel_gradient_by_blocks(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """With few channels: the product of :func:`_kernel_gradient_by_tiles` over blocks of neighbours in a row.

    It has fewer and wider rows.  The patches are made as columns, whose runs are as long as a row of blocks.
    """
    channels, features = x.shape[-1], y.shape[-1]
    # Alone, blocks of 2 save a third of the time with 32 features too.  But XLA fuses what makes y with its reshape
    # to blocks, barrier or not, and then takes eight times as long for it (12 ms of a step on 128x32x32x3).
    block = 4 if features <= 16 else 1
    x, blocked = in_blocks(x, windows, block)
    rows, wide = blocked.output
    y = pad_spatial(y, ((0, 0), (0, wide * block - y.shape[2]))).reshape(-1, rows, wide, block * features)

    def part(x: jax.Array, y: jax.Array) -> jax.Array:
        x = lax.optimization_barrier(jnp.moveaxis(x, -1, 0).reshape(-1, *x.shape[1:-1], 1))
        rows = map_taps(lambda shifted: shifted, x, blocked).reshape(-1, math.prod(y.shape[:-1]))
        return _matmul(rows, y.reshape(-1, y.shape[-1]))

    row_bytes = x.dtype.itemsize * math.prod(blocked.window) * x.shape[-1] * rows * wide
    images = _largest_divisor(x.shape[0], 2 * TILE_BYTES // row_bytes)
    total = _sum_over_tiles(part, x, y, blocked, images, rows)
    total = total.reshape(*blocked.window, -1, block * features)
    like = jax.ShapeDtypeStruct((*windows.window, channels, features), x.dtype)
    return jax.linear_transpose(lambda w: band(w, windows, block), like)(total)[0]


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

    images = _largest_divisor(x.shape[0], 32)
    rows = _largest_divisor(windows.output[0], 5_600 // (windows.output[1] * images))
    return _sum_over_tiles(part, pad_spatial(x, windows.exact_padding), y, windows, images, rows)


def _kernel_gradient_by_tiles(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The sum of (patches of x)^T y over tiles, each of whole images or of rows of one."""
    batch, rows, width, features = y.shape
    row_bytes = width * math.prod(windows.window) * x.shape[-1] * x.dtype.itemsize
    tile_rows = _largest_divisor(rows, TILE_BYTES // row_bytes)
    images = _largest_divisor(batch, TILE_BYTES // (row_bytes * rows)) if tile_rows == rows else 1

    def part(x: jax.Array, y: jax.Array) -> jax.Array:
        places = math.prod(y.shape[:-1])
        cols = columns(x, windows._replace(output=y.shape[1:-1])).reshape(places, -1)
        return _matmul(cols, y.reshape(places, features), transpose_a=True)

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


def _matmul(a: jax.Array, b: jax.Array, transpose_a: bool = False) -> jax.Array:
    """a b or a^T b, of matrices or of as many of them."""
    if conv_onednn.is_open() and a.dtype == "float32":
        return conv_onednn.matmul(a, b, transpose_a)
    batch = tuple(range(a.ndim - 2))
    return lax.dot_general(a, b, (((a.ndim - 1 - transpose_a,), (b.ndim - 2,)), (batch, batch)))


def _largest_divisor(n: int, limit: int) -> int:
    return max(d for d in range(1, n + 1) if n % d == 0 and (d <= limit or d == 1))
