"""The ways to compute the gradient of a convolution in its kernel, one function each.

    dw[t, c, f] = sum_n sum_o x[n, o * stride + t * dilation, c] dy[n, o, f]

Each takes x (N, *S, C) and dy (N, *S', F) of one float dtype and the `Windows` of the convolution, and returns
(*K, C // groups, F) in that dtype; those that read bfloat16 (`choose.Rule.halves`) return the float32 of their sums.
`cnnjax.ops.conv.choose` says which one is taken. Most sum over tiles of
two-dimensional images, so that what they write down stays small: the patches of all images would take K times the
memory of x.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops.checks import Precision
from cnnjax.ops.conv import onednn
from cnnjax.ops.conv.blocked import banded_kernel, width_blocked
from cnnjax.ops.conv.chunks import as_bits, from_bits
from cnnjax.ops.conv.forward import direct, im2col, lax_conv, sampled, whole_lax_conv
from cnnjax.ops.conv.winograd import (
    WORD_BYTES,
    inverse_transform_kernel,
    pad_to_tiles,
    transform_tiles,
    winograd_matrices,
)
from cnnjax.ops.geometry import Windows, largest_divisor, slide
from cnnjax.ops.patches import MANY_TAPS, columns, map_taps, pad_spatial, taps

# Winograd's outputs per dimension of a tile, by taps: more lose digits, fewer save less.
WINOGRAD_OUTPUTS = {3: 4, 5: 3}
# Largest channels x features per Winograd tile (36 accumulators of float32, 19 MB).
MOST_WINOGRAD_WEIGHTS = 2**17
# Winograd's tiles of x and dy at a time, in bytes: with smaller ones the loop shows, larger ones save nothing.
WINOGRAD_TILE_BYTES = 14_000_000
# Patches at a time, in bytes: with smaller ones the loop shows, larger ones leave the cache.
PATCHES_TILE_BYTES = 9_500_000
# Stacks of taps at a time: XLA writes up to 8 arrays in one pass, but copies each of 9 first.
TAPS_IN_A_STACK = 8
# Output pixels times images of one convolution in `batch_as_channels`.
BATCH_AS_CHANNELS_PIXELS = 5_600
# Images of one convolution in `batch_as_channels`, which are its channels.
BATCH_AS_CHANNELS_IMAGES = 32

# Computes the gradient of one group: (x, dy, windows) -> dw.
KernelGrad = Callable[..., jax.Array]


def lax_kernel_grad(x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes the transpose of XLA's convolution, on any platform.

    Between groups it computes the whole product and drops what lies between different ones.
    """
    return _transposed(lax_conv, x, dy, windows, groups, precision)


def lax_group_by_group(x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes `lax_kernel_grad` of each group by itself."""
    pairs = zip(jnp.split(x, groups, -1), jnp.split(dy, groups, -1), strict=True)
    return jnp.concatenate([lax_kernel_grad(*pair, windows, 1, precision) for pair in pairs], -1)


def whole_lax_kernel_grad(
    x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision
) -> jax.Array:
    """Computes the transpose of `whole_lax_conv`."""
    return _transposed(whole_lax_conv, x, dy, windows, groups, precision)


def im2col_kernel_grad(x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes the transpose of `im2col`: the product of all patches and dy, where a compiler writes none down."""
    return _transposed(im2col, x, dy, windows, groups, precision)


def direct_kernel_grad(x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes the transpose of `direct`: a sum for each tap, for depthwise kernels of few taps."""
    return _transposed(direct, x, dy, windows, groups, precision)


def _transposed(
    conv: Callable[..., jax.Array], x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision
) -> jax.Array:
    w = jax.ShapeDtypeStruct((*windows.window, x.shape[-1] // groups, dy.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda w: conv(x, w, windows, groups, precision), w)(dy)[0]


def one_product(x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes one matrix product where there is a single window, which is the whole of x."""
    x = pad_spatial(x, windows.exact_padding)
    x = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    dy = dy.reshape(len(dy), groups, -1)
    dw = jnp.einsum("ntgc,ngf->tcgf", x, dy, precision=precision)
    return dw.reshape(*windows.window, x.shape[-1], -1)


def pointwise(x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes the gradient for windows of one: strides only drop pixels of x."""
    x = sampled(x, windows)
    return by_group(patches, x, dy, slide(windows.output, windows.window), groups, precision)


def by_group(
    form: KernelGrad,
    x: jax.Array,
    dy: jax.Array,
    windows: Windows,
    groups: int,
    precision: Precision,
    **parameters: int,
) -> jax.Array:
    """Computes the gradient of each group by itself."""
    del precision  # the products are those of the operands' dtype, in full
    pairs = zip(jnp.split(x, groups, -1), jnp.split(dy, groups, -1), strict=True)
    return jnp.concatenate([form(*pair, windows, **parameters) for pair in pairs], -1)


def batch_as_depth(x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes a depthwise convolution over volumes whose depth is the batch, dy being the kernel as deep as x.

    dw[t, c] = sum_n sum_o x[n, o + t * dilation, c] dy[n, o, c]
    """
    del groups, precision
    x = pad_spatial(x, tuple((min(low, 0), min(high, 0)) for low, high in windows.exact_padding))
    padding = ((0, 0), *((max(low, 0), max(high, 0)) for low, high in windows.exact_padding))
    volume = slide(x.shape[:3], dy.shape[:3], stride=(1, *windows.dilation), padding=padding)
    return onednn.conv(x[None], dy[:, :, :, None], volume, dy.shape[-1], "float32")[0, 0][:, :, None]


def tap_by_tap(x: jax.Array, dy: jax.Array, windows: Windows, groups: int, precision: Precision) -> jax.Array:
    """Computes the gradient of one tap after the other: for depthwise kernels of many taps, and on several devices."""
    x = lax.optimization_barrier(pad_spatial(x, windows.exact_padding))
    dy_groups = dy.reshape(*dy.shape[:-1], groups, -1)

    def at_one_tap(shifted: jax.Array) -> jax.Array:
        x_groups = shifted.reshape(*shifted.shape[:-1], groups, -1)
        return jnp.einsum("n...gc,n...gf->cgf", x_groups, dy_groups, precision=precision)

    return map_taps(at_one_tap, x, windows).reshape(*windows.window, x.shape[-1] // groups, dy.shape[-1])


def winograd_windows(windows: Windows) -> tuple[tuple[int, ...], int]:
    """Returns Winograd's tiles per dimension, and the elements of one."""
    outputs = [WINOGRAD_OUTPUTS[r] for r in windows.window]
    counts = tuple(-(-count // m) for count, m in zip(windows.output, outputs, strict=True))
    return counts, math.prod(m + r - 1 for m, r in zip(outputs, windows.window, strict=True))


def winograd(x: jax.Array, dy: jax.Array, windows: Windows) -> jax.Array:
    """Computes the gradient of minimal filtering: for 3x3 a quarter of the products; see `cnnjax.ops.conv.winograd`."""
    outputs = tuple(WINOGRAD_OUTPUTS[r] for r in windows.window)
    of_input, of_kernel, of_output = zip(*map(winograd_matrices, outputs, windows.window), strict=True)
    (down, along), elements = winograd_windows(windows)
    channels, features = x.shape[-1], dy.shape[-1]
    if channels * features > MOST_WINOGRAD_WEIGHTS and features % 2 == 0:
        halves = [winograd(x, half, windows) for half in jnp.split(dy, 2, -1)]
        return jnp.concatenate(halves, -1)

    tile_bytes = WORD_BYTES * elements
    room = max(WINOGRAD_TILE_BYTES, tile_bytes * channels * features) // (tile_bytes * (channels + features) * along)
    rows = largest_divisor(down, room)
    images = largest_divisor(x.shape[0], room // down) if rows == down else 1
    x = pad_to_tiles(x, windows, outputs)
    grow = ((0, down * outputs[0] - dy.shape[1]), (0, along * outputs[1] - dy.shape[2]))
    x, dy = lax.optimization_barrier((x, pad_spatial(dy, grow)))

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        counts = dy.shape[1] // outputs[0], along
        # Tiles of bfloat16 would lose digits that their products do not bring back.
        x, dy = x.astype("float32"), dy.astype("float32")
        xs = transform_tiles(x, of_input, outputs, counts)
        dys = transform_tiles(dy, [matrix.T for matrix in of_output], outputs, counts)
        flat = xs.reshape(elements, -1, channels), dys.reshape(elements, -1, features)
        return onednn.matmul(*flat, transpose_a=True).reshape(*xs.shape[:2], channels, features)

    return inverse_transform_kernel(_sum_over_tiles(part, x, dy, windows, images, rows * outputs[0]), of_kernel)


def phase_windows(windows: Windows) -> Windows:
    """Returns windows of stride 1 over the phases of the padded input, which stand side by side in its channels."""
    window = tuple(-(-k // s) for k, s in zip(windows.window, windows.stride, strict=True))
    return slide(tuple(count + k - 1 for count, k in zip(windows.output, window, strict=True)), window)


def winograd_of_phases(x: jax.Array, dy: jax.Array, windows: Windows) -> jax.Array:
    """Computes `winograd` of a convolution of stride 1 over (N, *S / stride, stride * stride C): t = j stride + r."""
    phases, (down, along), channels = phase_windows(windows), windows.stride, x.shape[-1]
    (height, width), (rows, cols) = phases.sizes, phases.window
    (top, _), (left, _) = windows.padding
    grow = ((top, height * down - x.shape[1] - top), (left, width * along - x.shape[2] - left))
    x = pad_spatial(x, grow).reshape(-1, height, down, width, along, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height, width, down * along * channels)
    dw = winograd(x, dy, phases)
    dw = dw.reshape(rows, cols, down, along, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    return dw.reshape(rows * down, cols * along, channels, -1)[: windows.window[0], : windows.window[1]]


def width_blocked_patches(x: jax.Array, dy: jax.Array, windows: Windows, block: int) -> jax.Array:
    """Computes the product of `patches` over blocks of neighbours in a row, for few channels.

    It has fewer and wider rows. The patches are made as columns, whose runs are as long as a row of blocks.
    """
    channels, features = x.shape[-1], dy.shape[-1]
    x, blocked = width_blocked(x, windows, block)
    rows, wide = blocked.output
    dy = pad_spatial(dy, ((0, 0), (0, wide * block - dy.shape[2]))).reshape(-1, rows, wide, block * features)

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        tile = blocked._replace(output=dy.shape[1:-1])
        x = lax.optimization_barrier(jnp.moveaxis(x, -1, 0).reshape(-1, *x.shape[1:-1], 1))
        dy = dy.reshape(-1, dy.shape[-1])
        if math.prod(blocked.window) > MANY_TAPS:
            return _matmul(map_taps(lambda shifted: shifted, x, tile).reshape(-1, len(dy)), dy)
        all_taps = [shifted for _, shifted in taps(x, tile)]
        count = -(-len(all_taps) // TAPS_IN_A_STACK)
        size = -(-len(all_taps) // count)
        stacks = [jnp.stack(all_taps[i : i + size]).reshape(-1, len(dy)) for i in range(0, len(all_taps), size)]
        return jnp.concatenate([_matmul(stack, dy) for stack in stacks])

    row_bytes = x.dtype.itemsize * math.prod(blocked.window) * x.shape[-1] * wide
    images, tile_rows = _tile(dy.shape, row_bytes, 2 * PATCHES_TILE_BYTES)
    total = _sum_over_tiles(part, x, dy, blocked, images, tile_rows)
    total = total.reshape(*blocked.window, -1, block * features)
    w = jax.ShapeDtypeStruct((*windows.window, channels, features), total.dtype)
    return jax.linear_transpose(lambda w: banded_kernel(w, windows, block), w)(total)[0]


def batch_as_channels(x: jax.Array, dy: jax.Array, windows: Windows) -> jax.Array:
    """Sums over tiles convolutions in which dy is the kernel, images are channels and channels a spatial dimension.

    dw[t, c, f] = sum_o sum_n x[o * stride + t * dilation, c, n] dy[o, n, f]

    So oneDNN multiplies blocks of (channels, images) (images, features), and no patches are written down.
    """

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        x = jnp.transpose(x, (1, 2, 3, 0))[None]  # (1, H, W, C, N)
        dy = jnp.transpose(dy, (1, 2, 0, 3))[:, :, None]  # (H', W', 1, N, F)
        tile = Windows(x.shape[1:4], dy.shape[:3], (*windows.dilation, 1), (*windows.stride, 1), ((0, 0),) * 3,
                       (*windows.window, x.shape[3]))  # fmt: skip
        return onednn.conv(x, dy, tile, 1, "float32")[0]

    images = largest_divisor(x.shape[0], BATCH_AS_CHANNELS_IMAGES)
    rows = largest_divisor(windows.output[0], BATCH_AS_CHANNELS_PIXELS // (windows.output[1] * images))
    return _sum_over_tiles(part, pad_spatial(x, windows.exact_padding), dy, windows, images, rows)


def patches(x: jax.Array, dy: jax.Array, windows: Windows) -> jax.Array:
    """Sums (patches of x)^T dy over tiles, each of whole images or of rows of one."""
    if x.shape[1] == 1 and windows.window[0] == 1:  # a sequence: its tiles are of columns, so let them be rows
        upright = Windows(*(pair[::-1] for pair in windows))  # type: ignore[arg-type]
        return patches(x.swapaxes(1, 2), dy.swapaxes(1, 2), upright).swapaxes(0, 1)
    row_bytes = dy.shape[2] * math.prod(windows.window) * x.shape[-1] * x.dtype.itemsize
    images, rows = _tile(dy.shape, row_bytes, PATCHES_TILE_BYTES)

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        pixels = math.prod(dy.shape[:-1])
        cols = columns(x, windows._replace(output=dy.shape[1:-1])).reshape(pixels, -1)
        return _matmul(cols, dy.reshape(pixels, dy.shape[-1]), transpose_a=True)

    total = _sum_over_tiles(part, pad_spatial(x, windows.exact_padding), dy, windows, images, rows)
    return total.reshape(*windows.window, x.shape[-1], dy.shape[-1])


def patches_of_each(x: jax.Array, dy: jax.Array, windows: Windows) -> jax.Array:
    """Computes the gradients of many small problems, x (P, N, *S, C) and dy (P, N, *S', F): a product of many matrices.

    So each problem takes the time of its product, and not of the calls that make it.
    """
    many, images = x.shape[:2]
    pixels = images * math.prod(windows.output)

    def part(x: jax.Array, dy: jax.Array) -> jax.Array:
        x = pad_spatial(x.reshape(len(dy) * images, *x.shape[2:]), windows.exact_padding)
        cols = columns(x, windows).reshape(len(dy), pixels, -1)
        return _matmul(cols, dy.reshape(len(dy), pixels, dy.shape[-1]), transpose_a=True)

    size = largest_divisor(many, 3 * PATCHES_TILE_BYTES // patches_bytes(x, windows))
    tiles = [array.reshape(many // size, size, *array.shape[1:]) for array in (x, dy)]
    dw = part(x, dy) if size == many else lax.map(lambda tile: part(*tile), tiles)
    return dw.reshape(many, *windows.window, x.shape[-1], dy.shape[-1])


def patches_bytes(x: jax.Array, windows: Windows) -> int:
    """Returns the bytes of the patches of one problem of `patches_of_each`."""
    return x.dtype.itemsize * x.shape[1] * math.prod(windows.output) * math.prod(windows.window) * x.shape[-1]


def _tile(shape: tuple[int, ...], row_bytes: int, most_bytes: int) -> tuple[int, int]:
    """Returns how many images, and rows of one, of dy (N, H', W', F) make a tile of at most so many bytes."""
    batch, height = shape[:2]
    if height * row_bytes <= most_bytes:
        return largest_divisor(batch, most_bytes // (row_bytes * height)), height
    return 1, max(most_bytes // row_bytes, 1)


def _sum_over_tiles(
    part: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    dy: jax.Array,
    windows: Windows,
    images: int,
    rows: int,
) -> jax.Array:
    """Sums part(x', dy') over tiles of dy of so many images and rows; x', of the padded x, is what they read.

    The rows that are left over, where `rows` does not divide their number, make a smaller tile of each image.
    """
    if (images, rows) == dy.shape[:2]:  # one tile: no loop
        return part(x, dy)
    bits = lax.optimization_barrier((as_bits(x), as_bits(dy)))
    whole = dy.shape[1] // rows

    def of_tile(image: jax.Array, row: jax.Array, height: int) -> jax.Array:
        step, read = windows.stride[0], (height - 1) * windows.stride[0] + windows.extents[0]
        zero = jnp.int32(0)
        xs = lax.dynamic_slice(bits[0], (image, row * jnp.int32(step), zero, zero), (images, read, *x.shape[2:]))
        dys = lax.dynamic_slice(bits[1], (image, row, zero, zero), (images, height, *dy.shape[2:]))
        return part(from_bits(xs, x.dtype), from_bits(dys, dy.dtype))

    def step(i: jax.Array, total: jax.Array) -> jax.Array:
        image, row = i // jnp.int32(whole) * jnp.int32(images), i % jnp.int32(whole) * jnp.int32(rows)
        return total + of_tile(image, row, rows)

    first = jax.eval_shape(functools.partial(of_tile, height=rows), jnp.int32(0), jnp.int32(0))
    total = jnp.zeros(first.shape, first.dtype)
    total = lax.fori_loop(jnp.int32(0), jnp.int32(len(dy) // images * whole), step, total)
    left = dy.shape[1] % rows
    if not left:
        return total

    def last(i: jax.Array, total: jax.Array) -> jax.Array:
        return total + of_tile(i * jnp.int32(images), jnp.int32(whole * rows), left)

    return lax.fori_loop(jnp.int32(0), jnp.int32(len(dy) // images), last, total)


def _matmul(a: jax.Array, b: jax.Array, transpose_a: bool = False) -> jax.Array:
    """Multiplies matrices, a b or a^T b, or as many pairs of them."""
    if onednn.takes((a.dtype, b.dtype)):
        return onednn.matmul(a, b, transpose_a)
    batch = tuple(range(a.ndim - 2))
    return lax.dot_general(a, b, (((a.ndim - 1 - transpose_a,), (b.ndim - 2,)), (batch, batch)))
