"""What a choice between forms looks at: a problem, the conditions that a row of a table may set, and their limits.

The tables stand in `cnnjax.ops.conv.choose`.
"""

import math
from typing import NamedTuple

import jax

from cnnjax.ops.checks import Precision
from cnnjax.ops.conv import forward, kernel_grad, onednn
from cnnjax.ops.conv.winograd import WORD_BYTES
from cnnjax.ops.geometry import Windows
from cnnjax.ops.patches import MANY_TAPS

# ---- limits ----

# Channels of x (and features) up to which a product leaves most of a vector register empty.
FEW_CHANNELS, FEW_FEATURES = 16, 32
# Channels up to which blocks of four neighbours pay, not of two.
VERY_FEW_CHANNELS = 2
# Channels up to which the patches of a kernel gradient are made for blocks of neighbours; and on a TPU at all.
FEW_CHANNELS_OF_PATCHES = 4
# Multiplications below which XLA's own convolution is as fast, and compiles faster.
SMALL_PRODUCT = 2**14
# Groups up to which the kernel gradient of each is computed by itself.
MOST_GROUPS = MANY_TAPS
# Groups up to which a program for several devices computes the kernel gradient of each by itself.
FEW_GROUPS = 8
# Images, features, and products per output pixel from which `batch_as_channels` fills oneDNN's blocks.
LEAST_IMAGES, LEAST_FEATURES, LEAST_PRODUCTS = 16, 16, 128
# Harmonic size C F / (C + F) of channels and features from which F(2x2, 3x3) saves more products than it adds passes;
# and where XLA must multiply its tiles, see `onednn.matmul`.
WIDE_FORWARD, WIDE_FORWARD_BY_XLA = 30, 150
# The same for the kernel gradient, whose larger tiles also must save this factor of the products.
WIDE_KERNEL_GRAD, LEAST_SAVING = 16, 2.5
# Tiles of all images from which F(2x2, 3x3) saves more than the transform of its kernel takes; those times channels and
# features from which it saves more than its calls take; and the factor of the products that it must save, which is 2.25
# where tiles of 2x2 cover the output exactly.
LEAST_TILES, LEAST_TILE_PRODUCTS, LEAST_FORWARD_SAVING = 256, 2**22, 1.7
# Bytes of one image's tiles, of x and y, up to which F(2x2, 3x3) works through whole images.
WINOGRAD_IMAGE_BYTES = 40_000_000
# Taps up to which the TPU's compiler is quick with the kernel gradient of few channels.
TPU_FAST_TAPS = 9
# Patches of one problem, in bytes, up to which calls take longer than products.
SMALL_PATCHES_BYTES = 2**18
# Product of strides above which the phases of an input gradient are computed together.
MANY_PHASES = 8


class Problem(NamedTuple):
    """What a choice looks at. Channels and features are those of one group."""

    batch: int
    windows: Windows
    channels: int
    features: int
    groups: int
    itemsize: int
    precision: Precision
    onednn: bool

    @property
    def taps(self) -> int:
        """The taps of the window."""
        return math.prod(self.windows.window)

    @property
    def unit(self) -> bool:
        """True where stride and dilation are 1."""
        return set(self.windows.stride) == set(self.windows.dilation) == {1}

    @property
    def image_bytes(self) -> int:
        """The bytes of x and y of one image, x padded; XLA widens halves to float32 on the way."""
        sizes = [size + sum(pair) for size, pair in zip(self.windows.sizes, self.windows.padding, strict=True)]
        pixels = math.prod(sizes) * self.channels + math.prod(self.windows.output) * self.features
        return max(self.itemsize, WORD_BYTES) * self.groups * pixels


# ---- conditions ----


def always(p: Problem) -> bool:
    """Holds where no row before it does."""
    return True


def single_window(p: Problem) -> bool:
    """True where one window is the whole of x."""
    return math.prod(p.windows.output) == 1 and set(p.windows.dilation) == {1}


def pointwise(p: Problem) -> bool:
    """True for windows of one."""
    return p.taps == 1


def strided_pointwise(p: Problem) -> bool:
    """True for windows of one with strides, which skip pixels."""
    return pointwise(p) and max(p.windows.stride) > 1


def pointwise_to_sample(p: Problem) -> bool:
    """True for `strided_pointwise` but where oneDNN's kernels skip the pixels themselves as fast."""
    return strided_pointwise(p) and not (p.onednn and onednn.has_avx512())


def depthwise_of_few_taps(p: Problem) -> bool:
    """True for groups of one channel whose taps are few enough to be written out one by one."""
    return p.channels == 1 and p.groups > 1 and p.taps <= MANY_TAPS


def depthwise(p: Problem) -> bool:
    """True for groups of one channel."""
    return p.channels == 1 and p.groups > 1


def by_amx(p: Problem) -> bool:
    """True where oneDNN multiplies bfloat16 by AMX."""
    return p.itemsize < WORD_BYTES and onednn.has_amx()


def on_onednn(p: Problem) -> bool:
    """True where oneDNN may compute it, and does so rightly."""
    return p.onednn and not (by_amx(p) and onednn.is_wrong_by_amx(p.windows, p.channels))


def wide_3x3(p: Problem) -> bool:
    """True for 3x3 with so many channels that F(2x2, 3x3) is faster than oneDNN's direct sums, and about as exact."""
    if not p.onednn or p.itemsize != WORD_BYTES or p.windows.window != (3, 3) or p.groups != 1 or not p.unit:
        return False
    least = WIDE_FORWARD if onednn.has_avx512() else WIDE_FORWARD_BY_XLA
    wide = p.channels * p.features >= least * (p.channels + p.features)
    tiles = math.prod(-(-count // 2) for count in p.windows.output)
    many = p.batch * tiles >= max(LEAST_TILES, LEAST_TILE_PRODUCTS / (p.channels * p.features))
    saves = 9 * math.prod(p.windows.output) >= LEAST_FORWARD_SAVING * 16 * tiles
    fits = forward.winograd_image_bytes(p.windows, p.channels, p.features) <= WINOGRAD_IMAGE_BYTES
    return wide and many and saves and fits


def wide_3x3_back(p: Problem) -> bool:
    """True where `wide_3x3` holds for the full correlation."""
    return wide_3x3(p._replace(windows=p.windows._replace(output=p.windows.sizes)))


def unit_stride_of_one_group_on_onednn(p: Problem) -> bool:
    """True where oneDNN may compute an input gradient as a convolution of one group."""
    wrong = by_amx(p) and onednn.is_wrong_by_amx(p.windows, p.features)
    return p.onednn and unit_stride(p) and p.groups == 1 and not wrong


def few_channels(p: Problem, channels: int, features: int) -> bool:
    """True where blocks of neighbours fill the registers, and the patches of one image are not too large."""
    few = p.groups == 1 and p.unit and p.taps <= MANY_TAPS and p.channels <= channels and p.features <= features
    return few and _patches_fit(p)


def _patches_fit(p: Problem) -> bool:
    image = forward.blocked_image_bytes(p.windows, p.channels, block(p), p.itemsize)
    return image <= forward.PATCHES_BYTES


def few_channels_forward(p: Problem) -> bool:
    """True where a convolution has few channels, and is not too small to be worth it."""
    products = p.batch * math.prod(p.windows.output) * p.taps * p.channels * p.features
    return products >= SMALL_PRODUCT and few_channels(p, FEW_CHANNELS, FEW_FEATURES)


def few_channels_back(p: Problem) -> bool:
    """True where an input gradient has few channels; oneDNN is slow with very few only."""
    return few_channels(p, VERY_FEW_CHANNELS if p.onednn else FEW_CHANNELS, FEW_CHANNELS)


def unit_stride(p: Problem) -> bool:
    """True without strides."""
    return max(p.windows.stride) == 1


def few_groups(p: Problem) -> bool:
    """True where a program with a piece for each group stays short."""
    return p.groups <= FEW_GROUPS


def overlapping_or_pointwise(p: Problem) -> bool:
    """True where each window reaches into the next, and for windows of one."""
    reach = zip(p.windows.extents, p.windows.stride, strict=True)
    return pointwise(p) or all(extent > stride for extent, stride in reach)


def slow_to_compile_on_tpu(p: Problem) -> bool:
    """True for kernels of many taps that read few channels, without strides; if not too many for one product."""
    few = p.channels <= FEW_CHANNELS_OF_PATCHES and p.groups == 1
    return few and p.unit and TPU_FAST_TAPS < p.taps <= MANY_TAPS


def phases(p: Problem) -> bool:
    """True where an input gradient falls apart into one for each phase of the strides."""
    w = p.windows
    return max(w.stride) > 1 and all(1 in pair for pair in zip(w.stride, w.dilation, strict=True))


def even_phases(p: Problem) -> bool:
    """True where the phases together multiply by few zeros, or are too many or too narrow for a product each."""
    w = p.windows
    whole = all(k % stride == 0 for k, stride in zip(w.window, w.stride, strict=True))
    return phases(p) and (whole or math.prod(w.stride) > MANY_PHASES or p.channels == 1)


def depthwise_phases(p: Problem) -> bool:
    """True for `even_phases` of groups of one channel."""
    taps_of_phase = math.prod(-(-k // s) for k, s in zip(p.windows.window, p.windows.stride, strict=True))
    return even_phases(p) and p.features == 1 and p.groups > 1 and taps_of_phase <= MANY_TAPS


def depthwise_on_onednn(p: Problem) -> bool:
    """True for images of one channel to a group, without strides."""
    return depthwise(p) and p.onednn and p.features == 1 and max(p.windows.stride) == 1 and len(p.windows.window) == 2


def not_images(p: Problem) -> bool:
    """True for volumes, and for more groups than can be computed one by one."""
    return len(p.windows.window) != 2 or p.groups > MOST_GROUPS


def _saves_by_winograd(windows: Windows, channels: int, features: int) -> bool:
    if not set(windows.window) <= set(kernel_grad.WINOGRAD_OUTPUTS):
        return False
    counts, elements = kernel_grad.winograd_windows(windows)
    saving = math.prod(windows.window) * math.prod(windows.output) / (elements * math.prod(counts))
    return saving >= LEAST_SAVING and channels * features >= WIDE_KERNEL_GRAD * (channels + features)


def winograd_pays(p: Problem) -> bool:
    """True where no precision was asked for, and AMX does not multiply bfloat16 faster: these tiles are of float32."""
    return p.onednn and p.precision is None and not (by_amx(p) and large_batch(p))


def wide_kernel(p: Problem) -> bool:
    """True for wide kernels of 3 and 5."""
    return winograd_pays(p) and p.unit and _saves_by_winograd(p.windows, p.channels, p.features)


def wide_phases(p: Problem) -> bool:
    """True where the phases of a strided convolution, as channels, make a wide kernel."""
    stride, dilation = p.windows.stride, p.windows.dilation
    if not winograd_pays(p) or max(dilation) > 1 or max(stride) == 1:
        return False
    return _saves_by_winograd(kernel_grad.phase_windows(p.windows), p.channels * math.prod(stride), p.features)


def narrow_patches(p: Problem) -> bool:
    """True where a patch has so few elements that blocks of neighbours fill the registers better."""
    in_a_row = p.windows.dilation[-1] == p.windows.stride[-1] == 1
    row_bytes = p.itemsize * p.taps * p.channels * p.windows.output[-1]
    fits = row_bytes <= kernel_grad.PATCHES_TILE_BYTES
    return p.taps > 1 and p.channels <= FEW_CHANNELS_OF_PATCHES and in_a_row and fits


def large_batch(p: Problem) -> bool:
    """True where oneDNN's blocks of images are full."""
    enough = p.batch >= LEAST_IMAGES and p.features >= LEAST_FEATURES and p.taps * p.channels >= LEAST_PRODUCTS
    return p.onednn and p.taps > 1 and enough


def small_patches(x: jax.Array, windows: Windows) -> bool:
    """True where problems x (P, N, *S, C) are so small that their patches are better written down for many at once."""
    return (
        x.size > 0
        and kernel_grad.patches_bytes(x, windows) <= SMALL_PATCHES_BYTES
        and math.prod(windows.window) <= MANY_TAPS
    )


# ---- parameters of forms that depend on the problem ----


def block(p: Problem) -> int:
    """Neighbours to a block: four with very few channels."""
    return 4 if p.channels <= VERY_FEW_CHANNELS and p.features <= FEW_CHANNELS else 2


def kernel_grad_block(p: Problem) -> int:
    """Neighbours to a block of a kernel gradient."""
    # With more features blocks of two would be faster alone. But XLA fuses what makes dy with its reshape to blocks,
    # barrier or not, and then takes much longer for that.
    return 4 if p.features <= FEW_CHANNELS else 1
