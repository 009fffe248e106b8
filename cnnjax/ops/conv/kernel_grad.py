"""The gradient of the kernel on one CPU, in the form that was measured to be the fastest for a shape.

    dw[t, c, f] = sum_n sum_o x[n, o * stride + t * dilation, c] y[n, o, f]

with y the cotangent of the output.  All take two-dimensional images; :mod:`cnnjax.ops.conv.primitive` is the door.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops.conv import onednn
from cnnjax.ops.conv.forward import band, direct, in_blocks, lax_conv
from cnnjax.ops.conv.winograd import kernel_of_places, of_tiles, pad_to_tiles, winograd_matrices
from cnnjax.ops.geometry import Windows, largest_divisor, slide
from cnnjax.ops.patches import MANY_TAPS, columns, map_taps, pad_spatial, taps

TILES = {3: 4, 5: 3}  # outputs per dimension of Winograd's form, by taps: more lose digits, fewer save less
MOST_PRODUCTS = 2**17  # of channels and features at a time there: 36 sums of this size are 19 MB
PLACES_BYTES = 14_000_000  # of x and y in its places (measured: 3 MB cost a fifth more, 30 MB save nothing)
TILE_BYTES = 9_500_000  # of patches at a time (measured: 2 MB cost a fifth more, 18 MB up to twice as much)


def kernel_gradient(x: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> jax.Array:
    """The gradient (*K, C // groups, F) of the kernel, of x (N, *S, C) and y (N, *S', F).

    XLA's own computes the whole product between all groups and drops what lies between different ones.
    """
    channels, features = x.shape[-1] // groups, y.shape[-1]
    of_direct = channels == 1 and groups > 1 and math.prod(windows.window) <= MANY_TAPS
    if of_direct and groups == features and max(windows.stride) == 1 and x.ndim == 4 and onednn.serves(x, y):
        return _depthwise(x, y, windows)
    if of_direct or groups > MANY_TAPS or x.ndim != 4:
        conv = direct if of_direct else lax_conv
        like = jax.ShapeDtypeStruct((*windows.window, channels, features), x.dtype)
        return jax.linear_transpose(lambda w: conv(x, w, windows, groups, precision), like)(y)[0]
    run = _chosen(x, y, windows, groups, precision)
    pairs = zip(jnp.split(x, groups, -1), jnp.split(y, groups, -1), strict=True)
    return jnp.concatenate([run(*pair, windows) for pair in pairs], -1)


def _chosen(x: jax.Array, y: jax.Array, windows: Windows, groups: int, precision: Any) -> Any:
    """The form for two dimensions that was measured to be the faster, by shape.

    ms by tiles / by images / by this one / PyTorch 2.13, on 2 cores: Winograd 128x16x16x64 -> 128 33 / 31 / 18 / 17,
    8x56x56x128 -> 128 56 / - / 21 / 25, 32x14x14x512 -> 512 - / 127 / 92 / 98, 5x5 of 32x27x27x96 -> 256
    - / 141 / 65 / 83; phases of 32x227x227x3 -> 96 65 / - / 43 / 29; blocks of 128x32x32x1 -> 6 3.8 / - / 1.1 / 0.8.
    Largest error over the largest weight: Winograd 5e-6, 5x5 2e-5; images 3e-6; else 1e-6.
    """
    channels, features = x.shape[-1] // groups, y.shape[-1] // groups
    window, stride, dilation, served = windows.window, windows.stride, windows.dilation, onednn.serves(x, y)
    if served and precision is None and max(dilation) == 1:
        if max(stride) == 1 and _worth_winograd(windows, channels, features):
            return by_winograd
        if max(stride) > 1 and _worth_winograd(_phases(windows), channels * math.prod(stride), features):
            return by_phases
    count = math.prod(window)
    if count > 1 and channels <= 4 and dilation[1] == stride[1] == 1:
        return by_blocks
    if served and count > 1 and x.shape[0] >= 16 and features >= 16 and count * channels >= 128:
        return by_images
    return by_tiles


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


def _depthwise(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """A depthwise convolution over volumes whose depth are the images, y the kernel as deep as x.

    dw[t, c] = sum_n sum_o x[n, o + t * dilation, c] y[n, o, c]
    """
    x = pad_spatial(x, tuple((min(low, 0), min(high, 0)) for low, high in windows.exact_padding))
    padding = ((0, 0), *((max(low, 0), max(high, 0)) for low, high in windows.exact_padding))
    volume = slide(x.shape[:3], y.shape[:3], stride=(1, *windows.dilation), padding=padding)
    return onednn.conv(x[None], y[:, :, :, None], volume, y.shape[-1])[0, 0][:, :, None]


def _phases(windows: Windows) -> Windows:
    """Windows of stride 1 over the phases of the padded input, side by side in its channels; see below."""
    window = tuple(-(-k // s) for k, s in zip(windows.window, windows.stride, strict=True))
    return slide(tuple(count + k - 1 for count, k in zip(windows.output, window, strict=True)), window)


def by_phases(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The gradient of a convolution of stride 1 over (N, *S / stride, stride * stride C): t = j stride + r."""
    phases, (down, along), channels = _phases(windows), windows.stride, x.shape[-1]
    (height, width), (rows, cols) = phases.sizes, phases.window
    (top, _), (left, _) = windows.padding
    grow = ((top, height * down - x.shape[1] - top), (left, width * along - x.shape[2] - left))
    x = pad_spatial(x, grow).reshape(-1, height, down, width, along, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, down * along * channels)
    dw = by_winograd(x, y, phases)
    dw = dw.reshape(rows, cols, down, along, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return dw.reshape(rows * down, cols * along, channels, -1)[: windows.window[0], : windows.window[1]]


def by_winograd(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The gradient of minimal filtering: for 3x3 a quarter of the products; see :mod:`cnnjax.ops.conv.winograd`."""
    outputs = tuple(TILES[r] for r in windows.window)
    of_input, of_kernel, of_output = zip(*map(winograd_matrices, outputs, windows.window), strict=True)
    (down, along), places = _tiles(windows)
    channels, features = x.shape[-1], y.shape[-1]
    if channels * features > MOST_PRODUCTS and features % 2 == 0:
        halves = [by_winograd(x, half, windows) for half in jnp.split(y, 2, -1)]
        return jnp.concatenate(halves, -1)
    room = max(PLACES_BYTES, 4 * places * channels * features) // (4 * places * (channels + features) * along)
    rows = largest_divisor(down, room)
    images = largest_divisor(x.shape[0], room // down) if rows == down else 1
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


def by_blocks(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """With few channels: the product of :func:`by_tiles` over blocks of neighbours in a row.

    It has fewer and wider rows.  The patches are made as columns, whose runs are as long as a row of blocks.
    """
    channels, features = x.shape[-1], y.shape[-1]
    # Alone, blocks of 2 save a fifth of the time with 32 features too.  But XLA fuses what makes y with its reshape
    # to blocks, barrier or not, and then takes eight times as long for it (12 ms of a step on 128x32x32x3).
    block = 4 if features <= 16 else 1
    x, blocked = in_blocks(x, windows, block)
    rows, wide = blocked.output
    y = pad_spatial(y, ((0, 0), (0, wide * block - y.shape[2]))).reshape(-1, rows, wide, block * features)

    def part(x: jax.Array, y: jax.Array) -> jax.Array:
        x = lax.optimization_barrier(jnp.moveaxis(x, -1, 0).reshape(-1, *x.shape[1:-1], 1))
        y = y.reshape(-1, y.shape[-1])
        if math.prod(blocked.window) > MANY_TAPS:
            return _matmul(map_taps(lambda met: met, x, blocked).reshape(-1, len(y)), y)
        met = [shifted for _, shifted in taps(x, blocked)]
        # XLA writes a stack of up to 8 arrays in one pass, but copies each of 9 first: 1.0 and 2.9 ms, of 1.6 MB each
        count = -(-len(met) // 8)
        at_once = -(-len(met) // count)
        stacks = [jnp.stack(met[i : i + at_once]).reshape(-1, len(y)) for i in range(0, len(met), at_once)]
        return jnp.concatenate([_matmul(stack, y) for stack in stacks])

    row_bytes = x.dtype.itemsize * math.prod(blocked.window) * x.shape[-1] * rows * wide
    images = largest_divisor(x.shape[0], 2 * TILE_BYTES // row_bytes)
    total = _sum_over_tiles(part, x, y, blocked, images, rows)
    total = total.reshape(*blocked.window, -1, block * features)
    like = jax.ShapeDtypeStruct((*windows.window, channels, features), x.dtype)
    return jax.linear_transpose(lambda w: band(w, windows, block), like)(total)[0]


def by_images(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The sum over tiles of convolutions in which y is the kernel, images are channels and channels places.

    dw[t, c, f] = sum_o sum_n x[o * stride + t * dilation, c, n] y[o, n, f]

    So oneDNN multiplies blocks of (channels, images) (images, features), and no patches are written down.
    """

    def part(x: jax.Array, y: jax.Array) -> jax.Array:
        x = jnp.transpose(x, (1, 2, 3, 0))[None]  # (1, H, W, C, N)
        y = jnp.transpose(y, (1, 2, 0, 3))[:, :, None]  # (H', W', 1, N, F)
        tile = Windows(x.shape[1:4], y.shape[:3], (*windows.dilation, 1), (*windows.stride, 1), ((0, 0),) * 3,
                       (*windows.window, x.shape[3]))  # fmt: skip
        return onednn.conv(x, y, tile, 1)[0]

    images = largest_divisor(x.shape[0], 32)
    rows = largest_divisor(windows.output[0], 5_600 // (windows.output[1] * images))
    return _sum_over_tiles(part, pad_spatial(x, windows.exact_padding), y, windows, images, rows)


def by_tiles(x: jax.Array, y: jax.Array, windows: Windows) -> jax.Array:
    """The sum of (patches of x)^T y over tiles, each of whole images or of rows of one."""
    batch, rows, width, features = y.shape
    row_bytes = width * math.prod(windows.window) * x.shape[-1] * x.dtype.itemsize
    tile_rows = largest_divisor(rows, TILE_BYTES // row_bytes)
    images = largest_divisor(batch, TILE_BYTES // (row_bytes * rows)) if tile_rows == rows else 1

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
    if onednn.is_open() and a.dtype == "float32":
        return onednn.matmul(a, b, transpose_a)
    batch = tuple(range(a.ndim - 2))
    return lax.dot_general(a, b, (((a.ndim - 1 - transpose_a,), (b.ndim - 2,)), (batch, batch)))
