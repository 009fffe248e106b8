"""Which form computes a convolution or one of its gradients: every rule, for each platform.

The first row of a table whose condition holds is taken. The conditions, and the thresholds that they compare with,
stand in `cnnjax.ops.conv.problem`. To change how, say, kernel gradients are computed, change `KERNEL_GRADS_ON_CPU` and
`cnnjax/ops/conv/kernel_grad.py`. `experiments/bench` times what is chosen beside other libraries.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax

from cnnjax.ops.conv import forward, input_grad, kernel_grad
from cnnjax.ops.conv.problem import (
    Problem,
    always,
    block,
    depthwise,
    depthwise_of_few_taps,
    depthwise_on_onednn,
    depthwise_phases,
    even_phases,
    few_channels_back,
    few_channels_forward,
    few_groups,
    kernel_grad_block,
    large_batch,
    narrow_patches,
    not_images,
    on_onednn,
    overlapping_or_pointwise,
    phases,
    pointwise,
    pointwise_to_sample,
    single_window,
    slow_to_compile_on_tpu,
    strided_pointwise,
    unit_stride,
    unit_stride_of_one_group_on_onednn,
    wide_3x3,
    wide_3x3_back,
    wide_kernel,
    wide_phases,
)
from cnnjax.ops.conv.toeplitz import check_matrix_size, toeplitz
from cnnjax.ops.conv.winograd import winograd, winograd4
from cnnjax.ops.geometry import Windows

FORWARD, INPUT_GRAD, KERNEL_GRAD = "forward", "input_grad", "kernel_grad"

# Largest x and y together, in bytes, of which a form may write padded copies; larger batches are worked through in
# chunks.
COPIED_BYTES = 52_000_000
# Largest x and y of one image, in bytes, of which a form may write padded copies: with the chunk itself that is 64 MiB.
COPIED_IMAGE_BYTES = 48_000_000


class Rule(NamedTuple):
    """A row of a table.

    form: computes the result. when: the condition. copies: it writes copies of x or dy, so that large batches are
    worked through in chunks. block: how many neighbours the form takes to a block. correlates: the form calls a
    convolution of stride 1, for which the table of the same platform holds. halves: it may read bfloat16 where
    oneDNN does, and sums in float32; the others are given float32. rounds: it takes `preferred_element_type`, to which
    it rounds its sums itself.
    """

    form: Callable[..., jax.Array]
    when: Callable[[Problem], bool]
    copies: bool = False
    block: Callable[[Problem], int] | None = None
    correlates: bool = False
    halves: bool = False
    rounds: bool = False


Table = dict[str, tuple[Rule, ...]]  # the rows of each derivative


def _each_group(form: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return partial(kernel_grad.by_group, form)


# ---- the tables ----

CONVS_ON_CPU = (
    Rule(forward.im2col, single_window),
    Rule(forward.pointwise, pointwise_to_sample, copies=True),
    Rule(forward.winograd_by_onednn, wide_3x3),
    Rule(forward.by_onednn, on_onednn, halves=True, rounds=True),
    Rule(forward.direct, depthwise_of_few_taps, copies=True),
    Rule(forward.pointwise, pointwise, copies=True),
    Rule(forward.finite_width_blocked, few_channels_forward, copies=True, block=block),
    Rule(forward.lax_conv, always),
)
INPUT_GRADS_ON_CPU = (
    Rule(input_grad.one_product, single_window),
    Rule(input_grad.pointwise, strided_pointwise, copies=True, correlates=True, halves=True),
    Rule(input_grad.width_blocked, few_channels_back, copies=True, block=block),
    Rule(input_grad.winograd_by_onednn, wide_3x3_back),
    Rule(input_grad.by_onednn, unit_stride_of_one_group_on_onednn, halves=True, rounds=True),
    Rule(input_grad.full_correlation, unit_stride, correlates=True, halves=True),
    Rule(input_grad.depthwise_phases, depthwise_phases, copies=True),
    Rule(input_grad.phases_as_channels, even_phases, copies=True, correlates=True, halves=True),
    Rule(input_grad.phase_by_phase, phases, copies=True, correlates=True, halves=True),
    Rule(input_grad.full_correlation, always, copies=True, correlates=True, halves=True),
)
KERNEL_GRADS_ON_CPU = (
    Rule(kernel_grad.one_product, single_window),
    Rule(kernel_grad.batch_as_depth, depthwise_on_onednn, halves=True),
    Rule(kernel_grad.direct_kernel_grad, depthwise_of_few_taps, copies=True),
    Rule(kernel_grad.tap_by_tap, depthwise, copies=True),
    Rule(kernel_grad.lax_kernel_grad, not_images),
    Rule(kernel_grad.pointwise, strided_pointwise, copies=True, halves=True),
    Rule(_each_group(kernel_grad.winograd), wide_kernel, copies=True, halves=True),
    Rule(_each_group(kernel_grad.winograd_of_phases), wide_phases, copies=True, halves=True),
    Rule(
        _each_group(kernel_grad.width_blocked_patches),
        narrow_patches,
        copies=True,
        block=kernel_grad_block,
        halves=True,
    ),
    Rule(_each_group(kernel_grad.batch_as_channels), large_batch, copies=True, halves=True),
    Rule(_each_group(kernel_grad.patches), always, copies=True, halves=True),
)
CPU: Table = {FORWARD: CONVS_ON_CPU, INPUT_GRAD: INPUT_GRADS_ON_CPU, KERNEL_GRAD: KERNEL_GRADS_ON_CPU}

# XLA's own forms: on several CPU devices, over which XLA then shards them; in programs exported for the CPU; where
# memory would not do for another; and what `algorithm="lax"` names.
PLAIN: Table = {
    FORWARD: (Rule(forward.lax_conv, always),),
    INPUT_GRAD: (Rule(input_grad.lax_input_grad, always),),
    KERNEL_GRAD: (Rule(kernel_grad.lax_kernel_grad, always),),
}
# On accelerators XLA knows convolutions better than we do. But it copies x to pad or cut it where that does not stand
# in the convolution itself.
CONVS_ON_GPU = (
    Rule(forward.whole_lax_conv, overlapping_or_pointwise),
    Rule(forward.lax_conv, always),
)
INPUT_GRADS_ON_GPU = (
    Rule(input_grad.whole_lax_input_grad, overlapping_or_pointwise),
    Rule(input_grad.lax_input_grad, always),
)
KERNEL_GRADS_ON_GPU = (
    Rule(kernel_grad.whole_lax_kernel_grad, overlapping_or_pointwise),
    Rule(kernel_grad.lax_kernel_grad, always),
)
GPU: Table = {FORWARD: CONVS_ON_GPU, INPUT_GRAD: INPUT_GRADS_ON_GPU, KERNEL_GRAD: KERNEL_GRADS_ON_GPU}
# The TPU's compiler sets zeros between pixels where these are read, not before a product; and it takes minutes, or does
# not end, for the kernel gradient of few channels and many images.
INPUT_GRADS_ON_TPU = (
    Rule(input_grad.pointwise, strided_pointwise, correlates=True),
    *INPUT_GRADS_ON_GPU,
)
KERNEL_GRADS_ON_TPU = (
    Rule(kernel_grad.im2col_kernel_grad, slow_to_compile_on_tpu),
    *KERNEL_GRADS_ON_GPU,
)
TPU: Table = {FORWARD: CONVS_ON_GPU, INPUT_GRAD: INPUT_GRADS_ON_TPU, KERNEL_GRAD: KERNEL_GRADS_ON_TPU}
TABLES = {"cpu": CPU, "tpu": TPU, "gpu": GPU}

# On several devices XLA's partitioner adds up the kernel gradient of grouped convolutions wrongly where some axis of
# the mesh holds no part of x (seen with jax 0.10 and 0.12).
GROUPED_KERNEL_GRADS_ON_DEVICES = (
    Rule(kernel_grad.lax_group_by_group, few_groups),
    Rule(kernel_grad.tap_by_tap, always),
)


def rule_for(derivative: str, platform: str, p: Problem, *, plain: bool, one_device: bool) -> Rule:
    """Returns the first row that holds for a problem.

    Args:
      derivative: what is computed.
      platform: `"cpu"`, `"tpu"`, or `"gpu"`.
      p: the problem.
      plain: whether to take `PLAIN`.
      one_device: whether the program is for one device.
    """
    if derivative == KERNEL_GRAD and p.groups > 1 and not one_device:
        return next(rule for rule in GROUPED_KERNEL_GRADS_ON_DEVICES if rule.when(p))
    table = PLAIN if plain else TABLES[platform]
    rule = next(rule for rule in table[derivative] if rule.when(p))
    return PLAIN[derivative][0] if rule.copies and p.image_bytes > COPIED_IMAGE_BYTES else rule


# ---- by name ----

# What a user may name as `algorithm` beside "auto" and "lax": plain JAX, differentiated as it stands.
ALGORITHMS = {
    "direct": forward.direct,
    "im2col": forward.im2col,
    "fft": forward.fft,
    "winograd": winograd,
    "winograd4": winograd4,
    "toeplitz": toeplitz,
}
ALGORITHM_NAMES = ("auto", "lax", *ALGORITHMS)


def check_algorithm(name: str, windows: Windows, in_channels: int, out_channels: int, itemsize: int) -> None:
    """Refuses arguments that the algorithm of that name does not take."""
    if name in ("winograd", "winograd4"):
        for argument, value in (("stride", windows.stride), ("dilation", windows.dilation)):
            if set(value) != {1}:
                raise ValueError(f"algorithm={name!r} needs {argument} 1, got {value}")
        if not set(windows.window) <= {3, 5}:
            raise ValueError(f"algorithm={name!r} needs a window of 3 or 5 in each dimension, got {windows.window}")
    if name == "toeplitz":
        check_matrix_size(f"algorithm={name!r}", windows, in_channels, out_channels, itemsize)
