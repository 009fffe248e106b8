"""torch.nn.functional on top of cnnjax.ops: the same signatures, channels first."""

import functools
import math

import jax
import jax.numpy as jnp

from cnnjax import ops


def last(x):
    return jnp.moveaxis(x, 1, -1)


def first(y):
    return jnp.moveaxis(y, -1, 1)


def turned(weight):
    """torch's (F, C // groups, *K) as (*K, C // groups, F); conv_transpose's (C_in, C_out // groups, *K) alike."""
    return weight.transpose(*range(2, weight.ndim), 1, 0)


def spread(value, rank):
    """torch's int, or list of one or of rank, as rank entries; a name in capitals."""
    if isinstance(value, str):
        return value.upper()
    value = tuple(value) if hasattr(value, "__len__") else (value,)
    return value * rank if len(value) == 1 else value


def batched(rank, op, x, *args, **kwargs):
    """op on channels-last, with a batch axis where x has none."""
    alone = x.ndim == rank + 1
    y = op(last(x[None] if alone else x), *args, **kwargs)
    return jax.tree.map(lambda y: first(y)[0] if alone else first(y), y)


def conv(rank, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, **more):
    stride, padding, dilation = (spread(value, rank) for value in (stride, padding, dilation))
    keywords = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return batched(rank, ops.conv, input, turned(weight), bias, **keywords, **more)


def conv_transpose(rank, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    stride, padding, dilation = (spread(value, rank) for value in (stride, padding, dilation))
    keywords = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    output_padding = spread(output_padding, rank)
    return batched(rank, ops.conv_transpose, input, turned(weight), bias, output_padding=output_padding, **keywords)


def max_pool(rank, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    stride = None if stride in (None, (), []) else spread(stride, rank)
    keywords = {"padding": spread(padding, rank), "dilation": spread(dilation, rank), "ceil_mode": ceil_mode}
    keywords |= {"stride": stride, "return_indices": return_indices}
    return batched(rank, ops.max_pool, input, spread(kernel_size, rank), **keywords)


def avg_pool(
    rank, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    stride = None if stride in (None, (), []) else spread(stride, rank)
    keywords = {"padding": spread(padding, rank), "stride": stride, "ceil_mode": ceil_mode}
    keywords |= {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    return batched(rank, ops.avg_pool, input, spread(kernel_size, rank), **keywords)


def lp_pool(rank, input, norm_type, kernel_size, stride=None, ceil_mode=False):
    stride = None if stride is None else spread(stride, rank)
    keywords = {"p": norm_type, "stride": stride, "padding": 0, "ceil_mode": ceil_mode}
    return batched(rank, ops.lp_pool, input, spread(kernel_size, rank), **keywords)


def adaptive_avg_pool(rank, input, output_size):
    return batched(rank, ops.adaptive_avg_pool, input, spread(output_size, rank))


def adaptive_max_pool(rank, input, output_size, return_indices=False):
    return batched(rank, ops.adaptive_max_pool, input, spread(output_size, rank), return_indices=return_indices)


def fractional_max_pool(
    rank, input, kernel_size, output_size=None, output_ratio=None, return_indices=False, _random_samples=None
):
    if output_size is None:
        ratio = spread(output_ratio, rank)
        output_size = [int(size * part) for size, part in zip(input.shape[-rank:], ratio, strict=True)]
    # ours are in axis order; torch's of two dimensions have the column before the row, of three the axis order
    samples = jax.lax.stop_gradient(_random_samples[..., ::-1] if rank == 2 else _random_samples)
    keywords = {"output_size": spread(output_size, rank), "samples": samples, "return_indices": return_indices}
    return batched(rank, ops.fractional_max_pool, input, spread(kernel_size, rank), **keywords)


def max_unpool(rank, input, indices, kernel_size, stride=None, padding=0, output_size=None):
    kernel_size = spread(kernel_size, rank)
    stride = kernel_size if stride is None else spread(stride, rank)
    if output_size is None:
        parts = zip(input.shape[-rank:], stride, spread(padding, rank), kernel_size, strict=True)
        output_size = [(size - 1) * s - 2 * p + k for size, s, p, k in parts]
    alone = input.ndim == rank + 1
    indices = last(indices[None] if alone else indices)
    return batched(rank, ops.max_unpool, input, indices, tuple(output_size)[-rank:])


def unfold(input, kernel_size, dilation=1, padding=0, stride=1):
    x = input[None] if input.ndim == 3 else input
    window, keywords = spread(kernel_size, 2), {"stride": spread(stride, 2), "padding": spread(padding, 2)}
    cols = ops.unfold(last(x), window, dilation=spread(dilation, 2), **keywords)
    # ours are ordered tap, channel; torch's channel, tap, and the places last
    places, taps = math.prod(cols.shape[1:-1]), math.prod(window)
    cols = cols.reshape(x.shape[0], places, taps, x.shape[1]).transpose(0, 3, 2, 1)
    cols = cols.reshape(x.shape[0], x.shape[1] * taps, places)
    return cols[0] if input.ndim == 3 else cols


def fold(input, output_size, kernel_size, dilation=1, padding=0, stride=1):
    cols = input[None] if input.ndim == 2 else input
    rank = len(spread(output_size, 2))
    sizes, window = spread(output_size, rank), spread(kernel_size, rank)
    keywords = {"stride": spread(stride, rank), "padding": spread(padding, rank), "dilation": spread(dilation, rank)}
    taps = math.prod(window)
    n, _, places = cols.shape
    cols = cols.reshape(n, -1 if n else cols.shape[1] // taps, taps, places).transpose(0, 3, 2, 1)
    cols = cols.reshape(n, *ops.output_shape(sizes, window, **keywords), math.prod(cols.shape[2:]))
    x = first(ops.fold(cols, sizes, window, **keywords))
    return x[0] if input.ndim == 2 else x


def pad(input, pad, mode="constant", value=None):
    """The padded axes as the spatial ones of one channel; all before them as the batch."""
    pairs = tuple(zip(pad[::2], pad[1::2], strict=True))[::-1]
    rank = len(pairs)
    before, sizes = input.shape[: input.ndim - rank], input.shape[input.ndim - rank :]
    keywords = {"mode": "zeros", "value": value or 0.0} if mode == "constant" else {"mode": mode}
    y = ops.pad(input.reshape(math.prod(before), *sizes, 1), pairs, **keywords)
    return y.reshape(*before, *y.shape[1:-1])


def local_response_norm(input, size, alpha=1e-4, beta=0.75, k=1.0):
    # torch divides alpha by size, the paper and ours do not
    return first(ops.local_response_norm(last(input), size=size, alpha=alpha / size, beta=beta, k=k))


def shuffled(op, input, factor):
    """torch's pixel shuffles take any number of axes before (C, H, W)."""
    x = input.reshape(math.prod(input.shape[:-3]), *input.shape[-3:])
    y = first(op(last(x), factor))
    return y.reshape(*input.shape[:-3], *y.shape[1:])


FUNCTIONAL = {
    **{
        f"{op.__name__}{rank}d": functools.partial(op, rank)
        for op in (
            *(conv, conv_transpose, max_pool, avg_pool, lp_pool, adaptive_avg_pool),
            *(adaptive_max_pool, fractional_max_pool, max_unpool),
        )
        for rank in (1, 2, 3)
    },
    "unfold": unfold,
    "fold": fold,
    "pad": pad,
    "local_response_norm": local_response_norm,
    "pixel_shuffle": lambda input, upscale_factor: shuffled(ops.pixel_shuffle, input, upscale_factor),
    "pixel_unshuffle": lambda input, downscale_factor: shuffled(ops.pixel_unshuffle, input, downscale_factor),
    "channel_shuffle": lambda input, groups: first(ops.channel_shuffle(last(input), groups)),
}


def prelu(input, weight):
    x = input if input.ndim < 2 else last(input)  # torch's channels are axis 1
    y = ops.prelu(x, weight)
    return y if input.ndim < 2 else first(y)


OTHERS = set(FUNCTIONAL)
FUNCTIONAL |= {
    name: functools.partial(lambda op, input, **keywords: op(input, **keywords), getattr(ops, name))
    for name in (
        *("celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "logsigmoid"),
        *("mish", "relu", "relu6", "selu", "sigmoid", "silu", "softshrink", "softsign", "tanh", "tanhshrink"),
    )
}
FUNCTIONAL |= {
    "exp": ops.exponential,
    "glu": lambda input, dim=-1: ops.glu(input, axis=dim),
    "log_softmax": lambda input, dim, dtype=None: ops.log_softmax(input, axis=dim),
    "prelu": prelu,
    "rrelu": lambda input, lower=1 / 8, upper=1 / 3, training=False: ops.rrelu(input, lower, upper),
    "softmax": lambda input, dim, dtype=None: ops.softmax(input, axis=dim),
    "softmin": lambda input, dim, dtype=None: ops.softmin(input, axis=dim),
    "softplus": lambda input, beta=1, threshold=20: ops.softplus(input, beta, threshold),
    "threshold": lambda input, threshold, value: ops.threshold(input, threshold, value),
}

ACTIVATIONS = set(FUNCTIONAL) - OTHERS
