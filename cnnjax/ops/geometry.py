"""Where windows fall, in plain integers: paddings, output shapes, receptive fields, and what a layer costs.

Nothing here touches an array.  Every argument that says how a window slides is normalised once, by
:func:`slide`, into a :class:`Windows`; the ops read their sizes off that and never off the raw arguments.

Along one dimension, tap ``t`` of window ``o`` reads the padded input at ``o * stride + t * dilation``,
which is the input itself at ``o * stride + t * dilation - low``.
"""

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# What a caller may write; NumPy's ints and arrays of ints count as ints and sequences of ints.
Ints = int | Sequence[int]
Padding = str | int | Sequence[int | tuple[int, int]]

# The same in full, one entry per spatial dimension.
Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

PADDING_NAMES = ("VALID", "SAME", "SAME_LOWER", "FULL", "CAUSAL")


class Windows(NamedTuple):
    """How a window slides over an input, one entry per spatial dimension.

    ``padding`` is what was asked for; with ``ceil_mode`` the last window may reach beyond it.
    """

    sizes: Sizes
    window: Sizes
    stride: Sizes
    dilation: Sizes
    padding: Pads
    output: Sizes

    @property
    def extents(self) -> Sizes:
        """The sizes of the dilated window, holes included."""
        return tuple(map(dilated, self.window, self.dilation))

    @property
    def exact_padding(self) -> Pads:
        """The padding that ends where the last window ends; negative where the input goes on."""
        return tuple(
            (low, (count - 1) * stride + extent - size - low)
            for size, extent, stride, (low, _), count in zip(
                self.sizes, self.extents, self.stride, self.padding, self.output, strict=True
            )
        )


def output_shape(
    spatial_shape: Sequence[int],
    window: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: Any = "VALID",
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Sizes:
    """The spatial shape that a convolution or a pooling gives.

    Per dimension, with k' = dilation (k - 1) + 1:

        S' = floor((S + low + high - k') / stride) + 1

    Args:
        spatial_shape: S, the spatial sizes of the input.
        window: K, one int for all dimensions or one per dimension.
        stride: one int, or one per dimension.
        padding: one entry per dimension, each an int or a ``(low, high)`` pair (negative crops), or one int
            for all, or ``"VALID" | "SAME" | "SAME_LOWER" | "FULL" | "CAUSAL"``.
        dilation: one int, or one per dimension.
        ceil_mode: round up instead of down, but only to windows that start inside the input or the low
            padding; needs padding in numbers.

    Returns:
        S', one int per dimension.

    Raises:
        TypeError: an argument is not made of ints.
        ValueError: an argument has the wrong length or sign, or the window is larger than the padded input.

    >>> output_shape((32, 32), 5)
    (28, 28)
    >>> output_shape((224, 224), 7, stride=2, padding=3)
    (112, 112)
    >>> output_shape((5,), 2, stride=2, padding=0, ceil_mode=True)
    (3,)

    References:
        Dumoulin and Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
    """
    windows = slide(spatial_shape, window, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    return windows.output


def receptive_field(layers: Iterable[Any]) -> int | Sizes:
    """How many input positions one output of a stack of layers sees.

        r = 1 + sum over layers l of  dilation_l (k_l - 1) prod_{i < l} stride_i

    Args:
        layers: first layer first.  Each is a window, or ``(window, stride)``, or
            ``(window, stride, dilation)``, or a mapping with those names; stride and dilation default to 1.
            Each of the three is an int or one int per dimension (a window alone must then be written
            ``((3, 5),)``).

    Returns:
        An int where all layers are given by ints, else one int per dimension.

    Raises:
        TypeError, ValueError: a layer is none of these.

    >>> receptive_field([(5, 1), (2, 2), (5, 1), (2, 2), (5, 1)])  # LeNet-5: C5 sees the whole image
    32
    >>> receptive_field([((3, 5), 2), (3, 1)])
    (7, 9)

    References:
        Araujo, Norris and Sim, Computing receptive fields of convolutional neural networks, Distill 2019.
    """
    described = [_layer(index, layer) for index, layer in enumerate(layers)]
    ranks = {len(value) for layer in described for value in layer if not isinstance(value, int)}
    if len(ranks) > 1:
        raise ValueError(f"layers must agree on the number of spatial dimensions, got {sorted(ranks)}")
    rank = ranks.pop() if ranks else 1
    field, jump = [1] * rank, [1] * rank
    for index, layer in enumerate(described):
        window, stride, dilation = (
            per_dimension(f"layers[{index}]: {name}", value, rank)
            for name, value in zip(("window", "stride", "dilation"), layer, strict=True)
        )
        for axis in range(rank):
            field[axis] += (window[axis] - 1) * dilation[axis] * jump[axis]
            jump[axis] *= stride[axis]
    all_ints = all(isinstance(value, int) for layer in described for value in layer)
    return field[0] if all_ints else tuple(field)


def _layer(index: int, layer: Any) -> tuple[Any, Any, Any]:
    """One layer of :func:`receptive_field` as (window, stride, dilation)."""
    if isinstance(layer, Mapping):
        unknown = set(layer) - {"window", "stride", "dilation", "padding"}
        if unknown or "window" not in layer:
            raise ValueError(f"layers[{index}] must have the keys window, stride and dilation, got {sorted(layer)}")
        return layer["window"], layer.get("stride", 1), layer.get("dilation", 1)
    if isinstance(layer, Sequence) and not isinstance(layer, str):
        if not 1 <= len(layer) <= 3:
            raise ValueError(f"layers[{index}] must be (window, stride, dilation), got {layer!r}")
        return (*layer, 1, 1)[:3]
    return as_int(f"layers[{index}]", layer), 1, 1


class Counts(NamedTuple):
    """What a layer costs for one example: trainable parameters, connections, multiply-accumulates."""

    params: int
    connections: int
    macs: int


def conv_counts(
    output: Sequence[int],
    window: Sequence[int],
    in_channels: int,
    out_channels: int,
    *,
    groups: int = 1,
    links: int | None = None,
    bias: bool = True,
) -> Counts:
    """Parameters, connections and multiply-accumulates of a convolution, as the LeNet-5 paper counts them.

    A connection is one use of one weight or bias, so a bias counts once per output.  A dense layer is the
    case without spatial dimensions: ``conv_counts((), (), n, m)``.

    Args:
        output: S', the spatial sizes of the output.
        window: K, the spatial sizes of the kernel.
        in_channels: C.
        out_channels: F.
        groups: the channels are linked within groups only.
        links: the number of linked (input, output) channel pairs, where a table says so; excludes groups.
        bias: whether there is one bias per output channel.

    Returns:
        Counts(params, connections, macs).

    Raises:
        ValueError: both groups and links are given.

    >>> conv_counts((28, 28), (5, 5), 1, 6)  # LeNet-5's C1
    Counts(params=156, connections=122304, macs=117600)
    >>> conv_counts((10, 10), (5, 5), 6, 16, links=60)  # C3
    Counts(params=1516, connections=151600, macs=150000)
    """
    if links is None:
        links = in_channels // groups * out_channels
    elif groups != 1:
        raise ValueError(f"groups must be 1 where links is given, got groups={groups}, links={links}")
    weights = math.prod(window) * links
    biases = out_channels if bias else 0
    positions = math.prod(output)
    return Counts(weights + biases, positions * (weights + biases), positions * weights)


def subsample_counts(output: Sequence[int], window: Sequence[int], channels: int) -> Counts:
    """Parameters, connections and multiply-accumulates of LeNet-5's subsampling.

    Per map one trained factor for the sum of the window, and one bias.

    >>> subsample_counts((14, 14), (2, 2), 6)  # LeNet-5's S2
    Counts(params=12, connections=5880, macs=1176)
    """
    outputs = math.prod(output) * channels
    return Counts(2 * channels, outputs * (math.prod(window) + 1), outputs)


def slide(
    sizes: Sequence[int],
    window: Any,
    *,
    stride: Any = 1,
    padding: Any = "VALID",
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Windows:
    """Normalise the arguments of :func:`output_shape`, and place the windows."""
    sizes = positive_sizes("spatial_shape", sizes)
    rank = len(sizes)
    window = per_dimension("window", window, rank)
    stride = per_dimension("stride", stride, rank)
    dilation = per_dimension("dilation", dilation, rank)
    if not isinstance(ceil_mode, bool):
        raise TypeError(f"ceil_mode must be True or False, got {ceil_mode!r}")
    if ceil_mode and isinstance(padding, str):
        raise ValueError(f"ceil_mode=True needs padding in numbers (0 for none), got padding={padding!r}")
    pads = resolve_padding(padding, sizes, window, stride, dilation)
    output = []
    for axis, (size, (low, high)) in enumerate(zip(sizes, pads, strict=True)):
        cropped = max(-low, 0) + max(-high, 0)
        if cropped >= size:
            raise ValueError(
                f"padding must leave something of the input: {(low, high)} crops all {size} of spatial dimension {axis}"
            )
        room = size + low + high - dilated(window[axis], dilation[axis])
        if room < 0:
            raise ValueError(
                f"window must fit into the padded input: in spatial dimension {axis} window {window[axis]} "
                f"with dilation {dilation[axis]} spans {dilated(window[axis], dilation[axis])}, input {size} "
                f"with padding {(low, high)} has {size + low + high} (spatial shape {tuple(sizes)}; arrays "
                "are channels-last, (N, *S, C))"
            )
        count = room // stride[axis] + 1
        if ceil_mode:
            count = -(-room // stride[axis]) + 1
            if (count - 1) * stride[axis] >= size + low:
                count -= 1
        output.append(count)
    return Windows(sizes, window, stride, dilation, pads, tuple(output))


def resolve_padding(padding: Any, sizes: Sizes, window: Sizes, stride: Sizes, dilation: Sizes) -> Pads:
    """The padding argument as one (low, high) pair per spatial dimension."""
    rank = len(sizes)
    padding = _plain(padding)
    if isinstance(padding, str):
        return tuple(
            _named_padding(padding, rank, size, dilated(k, d), s)
            for size, k, s, d in zip(sizes, window, stride, dilation, strict=True)
        )
    if hasattr(padding, "__index__"):
        both = as_int("padding", padding)
        return ((both, both),) * rank
    if not isinstance(padding, Sequence):
        raise TypeError(f"padding must be {_padding_kinds(rank)}, got {padding!r}")
    entries = list(padding)
    if len(entries) != rank:
        hint = f"; write (({entries[0]}, {entries[1]}),)" if rank == 1 and len(entries) == 2 else ""
        raise ValueError(f"padding must be {_padding_kinds(rank)}, got {padding!r}{hint}")
    return tuple(_padding_entry(entry, padding, rank) for entry in entries)


def _padding_entry(entry: Any, padding: Any, rank: int) -> tuple[int, int]:
    entry = _plain(entry)
    if hasattr(entry, "__index__"):
        both = as_int("padding", entry)
        return both, both
    try:
        low, high = entry
    except (TypeError, ValueError):
        raise ValueError(f"padding must be {_padding_kinds(rank)}, got {padding!r}") from None
    return as_int("padding", low), as_int("padding", high)


def _padding_kinds(rank: int) -> str:
    named = ", ".join(f'"{name}"' for name in PADDING_NAMES)
    return f"an int, or {rank} entries (each an int or a (low, high) pair), or one of {named}"


def _named_padding(name: str, rank: int, size: int, extent: int, stride: int) -> tuple[int, int]:
    if name == "VALID":
        return 0, 0
    if name == "FULL":
        return extent - 1, extent - 1
    if name == "CAUSAL":
        if rank != 1:
            raise ValueError(f'padding="CAUSAL" is for one spatial dimension, got {rank}')
        return extent - 1, 0
    if name in ("SAME", "SAME_LOWER"):
        # ceil(size / stride) outputs; the odd pixel goes to the high side, or to the low side by SAME_LOWER
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if name == "SAME" else (more, less)
    known = {other.lower().replace("_", ""): other for other in PADDING_NAMES} | {"sameupper": "SAME"}
    meant = known.get(name.lower().replace("_", ""))
    hint = f' (did you mean "{meant}"?)' if meant else ""
    raise ValueError(f"padding must be {_padding_kinds(rank)}, got {name!r}{hint}")


def real_taps(windows: Windows, axis: int, *, padded: bool = False) -> list[int]:
    """Per window along one dimension, how many of its taps read the input (``padded``: input or padding)."""
    size, k = windows.sizes[axis], windows.window[axis]
    stride, dilation = windows.stride[axis], windows.dilation[axis]
    low, high = windows.padding[axis]
    first, stop = (0, size + low + high) if padded else (max(low, 0), low + size - max(-high, 0))
    if first <= 0 and stop >= (windows.output[axis] - 1) * stride + dilated(k, dilation):
        return [k] * windows.output[axis]
    counts = []
    for start in range(0, windows.output[axis] * stride, stride):
        from_tap = min(max(-((start - first) // dilation), 0), k)
        to_tap = min(max(-((start - stop) // dilation), 0), k)
        counts.append(max(to_tap - from_tap, 0))
    return counts


def require_real_taps(windows: Windows) -> None:
    """Refuse windows that lie wholly in the padding: a maximum or a mean of nothing has no value."""
    for axis in range(len(windows.sizes)):
        counts = real_taps(windows, axis)
        if 0 in counts:
            raise ValueError(
                f"padding must leave every window something of the input: window {counts.index(0)} of "
                f"spatial dimension {axis} lies wholly in the padding (input {windows.sizes[axis]}, padding "
                f"{windows.padding[axis]}, window {windows.window[axis]}, stride {windows.stride[axis]}, "
                f"dilation {windows.dilation[axis]})"
            )


def dilated(size: int, dilation: int) -> int:
    """The extent of ``size`` elements set ``dilation`` apart."""
    return (size - 1) * dilation + 1


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of n that is not above the limit; 1 where that is below 1."""
    return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(limit, 1))


def per_dimension(name: str, value: Any, rank: int, minimum: int = 1) -> Sizes:
    """An int for all dimensions, or one int for each, as a tuple of ints not below ``minimum``."""
    value = _plain(value)
    if hasattr(value, "__index__"):
        values = (as_int(name, value),) * rank
    elif isinstance(value, Sequence) and not isinstance(value, str):
        values = tuple(as_int(name, entry) for entry in value)
    else:
        raise TypeError(f"{name} must be an int or {rank} ints, got {value!r}")
    if len(values) != rank:
        raise ValueError(f"{name} must be an int or one int per spatial dimension ({rank}), got {value!r}")
    if min(values) < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return values


def positive_sizes(name: str, sizes: Any) -> Sizes:
    """A sequence of ints, each at least 1, as a tuple."""
    sizes = _plain(sizes)
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise TypeError(f"{name} must be a sequence of ints, one per spatial dimension, got {sizes!r}")
    result = tuple(as_int(name, size) for size in sizes)
    if not result or min(result) < 1:
        raise ValueError(f"{name} must have at least one dimension and no empty one, got {result}")
    return result


def as_int(name: str, value: Any) -> int:
    """An int of any kind as Python's own; a bool or a float is not one."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be made of ints, got {value!r}")
    return operator.index(value)


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's ints and lists; the rest as it is."""
    return value.tolist() if hasattr(value, "tolist") else value
