"""Where windows lie, in plain ints: paddings, output shapes and receptive fields.

Nothing here touches an array. `slide` normalises every argument that says how a window slides, once, into a
`Windows`; the ops read their sizes off that and never off the raw arguments.

Along one dimension, tap `t` of window `o` reads element `o * stride + t * dilation` of the padded input, which is
element `o * stride + t * dilation - low` of the input itself.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

# What a caller may write. At run time NumPy's ints and arrays of ints do as well.
Ints = int | Sequence[int] | np.ndarray
Padding = str | int | Sequence[int | tuple[int, int]] | np.ndarray
Layer = int | Sequence[Ints] | Mapping[str, Ints]

# The same normalised: one entry per spatial dimension.
Sizes = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]

PADDING_NAMES = ("VALID", "SAME", "SAME_LOWER", "FULL", "CAUSAL")


class Windows(NamedTuple):
    """How a window slides over an input, one entry per spatial dimension.

    With `ceil_mode` the last window may reach beyond `padding`; `exact_padding` says how far.

    Attributes:
      sizes: of the input, without padding.
      window: of the window, without the gaps of its dilation.
      stride: from one window to the next.
      dilation: from one tap to the next.
      padding: as asked for, `(low, high)`.
      output: the number of windows.
    """

    sizes: Sizes
    window: Sizes
    stride: Sizes
    dilation: Sizes
    padding: Pads
    output: Sizes

    @property
    def extents(self) -> Sizes:
        """Sizes of the dilated window, gaps included."""
        return tuple(map(dilated, self.window, self.dilation))

    @property
    def exact_padding(self) -> Pads:
        """Padding that ends with the last window; negative where the input goes on behind it."""
        return tuple(
            (low, (count - 1) * stride + extent - size - low)
            for size, extent, stride, (low, _), count in zip(
                self.sizes, self.extents, self.stride, self.padding, self.output, strict=True
            )
        )


def output_shape(
    spatial_shape: Sequence[int],
    window: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Sizes:
    """Returns the spatial shape of the output of a convolution or a pooling.

    Per dimension, with `k' = dilation (k - 1) + 1`:

        S' = floor((S + low + high - k') / stride) + 1

    Args:
      spatial_shape: `S`, the spatial sizes of the input.
      window: `K`, an int, or one per spatial dimension.
      stride: an int, or one per spatial dimension.
      padding: one entry per spatial dimension, each an int or a `(low, high)` pair (negative crops), or one int
        for all, or `"VALID" | "SAME" | "SAME_LOWER" | "FULL" | "CAUSAL"`.
      dilation: an int, or one per spatial dimension.
      ceil_mode: rounds up instead of down, but only to windows that start inside the input or the low
        padding; the padding must be in numbers.

    Returns:
      `S'`, one int per spatial dimension.

    Raises:
      TypeError: an argument is not made of ints.
      ValueError: an argument has the wrong length or sign, or the window is larger than the padded input.

    Example:
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


def receptive_field(layers: Iterable[Layer]) -> int | Sizes:
    """Returns the size of the input region that one output of a stack of layers depends on.

        r = 1 + sum over layers l of  dilation_l (k_l - 1) prod_{i < l} stride_i

    Args:
      layers: from input to output. Each is a window, or `(window, stride)`, or `(window, stride, dilation)`, or a
        mapping with these names as keys; stride and dilation default to 1. Each of the three is an int or one per
        spatial dimension (then write a window alone as `((3, 5),)`).

    Returns:
      An int where all layers are given by ints, else one int per spatial dimension.

    Raises:
      TypeError: a layer is not made of ints.
      ValueError: a layer has the wrong length or keys, or layers disagree on the number of dimensions.

    Example:
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


def _layer(index: int, layer: Layer) -> tuple[Ints, Ints, Ints]:
    """Returns a layer of `receptive_field` as (window, stride, dilation)."""
    layer = _plain(layer)
    if isinstance(layer, Mapping):
        unknown = set(layer) - {"window", "stride", "dilation", "padding"}
        if unknown or "window" not in layer:
            raise ValueError(f"layers[{index}] must have the keys window, stride and dilation, got {sorted(layer)}")
        return _plain(layer["window"]), _plain(layer.get("stride", 1)), _plain(layer.get("dilation", 1))
    if isinstance(layer, Sequence) and not isinstance(layer, str):
        if not 1 <= len(layer) <= 3:
            raise ValueError(f"layers[{index}] must be (window, stride, dilation), got {layer!r}")
        window, stride, dilation = (*map(_plain, layer), 1, 1)[:3]
        return window, stride, dilation
    return as_int(f"layers[{index}]", layer), 1, 1


def slide(
    sizes: Sequence[int],
    window: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = "VALID",
    dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Windows:
    """Checks and normalises the arguments of `output_shape`."""
    sizes = positive_sizes("spatial_shape", sizes)
    rank = len(sizes)
    window = per_dimension("window", window, rank)
    stride = per_dimension("stride", stride, rank)
    dilation = per_dimension("dilation", dilation, rank)
    if not isinstance(ceil_mode, bool | np.bool_):
        raise TypeError(f"ceil_mode must be True or False, got {ceil_mode!r}")
    if ceil_mode and isinstance(padding, str):
        raise ValueError(f"ceil_mode=True needs padding in numbers (0 for none), got padding={padding!r}")
    pads = resolve_padding(padding, sizes, window, stride, dilation)
    windows = Windows(sizes, window, stride, dilation, pads, output=())
    return windows._replace(output=tuple(_count(windows, axis, ceil_mode) for axis in range(rank)))


def _count(windows: Windows, axis: int, ceil_mode: bool) -> int:
    """Returns the number of windows along one dimension."""
    size, window = windows.sizes[axis], windows.window[axis]
    stride, dilation, (low, high) = windows.stride[axis], windows.dilation[axis], windows.padding[axis]
    if max(-low, 0) + max(-high, 0) >= size:
        raise ValueError(
            f"padding must leave something of the input: {(low, high)} crops all {size} of spatial dimension {axis}"
        )
    room = size + low + high - dilated(window, dilation)
    if room < 0:
        raise ValueError(
            f"window must fit into the padded input: in spatial dimension {axis} window {window} "
            f"with dilation {dilation} spans {dilated(window, dilation)}, input {size} "
            f"with padding {(low, high)} has {size + low + high} (spatial shape {windows.sizes}; arrays "
            "are channels-last, (N, *S, C))"
        )
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    starts_in_high_padding = (count - 1) * stride >= size + low
    return count - 1 if starts_in_high_padding else count


def resolve_padding(padding: Padding, sizes: Sizes, window: Sizes, stride: Sizes, dilation: Sizes) -> Pads:
    """Returns the padding argument as one `(low, high)` pair per spatial dimension."""
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
        # ceil(size / stride) outputs; an odd pixel goes to the high side, with SAME_LOWER to the low side
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if name == "SAME" else (more, less)
    known = {other.lower().replace("_", ""): other for other in PADDING_NAMES} | {"sameupper": "SAME"}
    meant = known.get(name.lower().replace("_", ""))
    hint = f' (did you mean "{meant}"?)' if meant else ""
    raise ValueError(f"padding must be {_padding_kinds(rank)}, got {name!r}{hint}")


def real_taps(windows: Windows, axis: int, *, padded: bool = False) -> list[int]:
    """Counts, per window along one dimension, the taps that read the input, or with `padded` input or padding."""
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
    """Refuses windows that lie wholly in the padding: a maximum or a mean of nothing has no value."""
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
    """Returns the extent of `size` elements set `dilation` apart."""
    return (size - 1) * dilation + 1


def largest_divisor(n: int, limit: int) -> int:
    """Returns the largest divisor of n up to the limit, at least 1."""
    return max(d for d in range(1, n + 1) if n % d == 0 and d <= max(limit, 1))


def per_dimension(name: str, value: Ints, rank: int, minimum: int = 1) -> Sizes:
    """Returns an int for all dimensions, or one int for each, as a tuple; checks that none is below `minimum`."""
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


def positive_sizes(name: str, sizes: Sequence[int]) -> Sizes:
    """Returns a sequence of ints, each at least 1, as a tuple."""
    sizes = _plain(sizes)
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise TypeError(f"{name} must be a sequence of ints, one per spatial dimension, got {sizes!r}")
    result = tuple(as_int(name, size) for size in sizes)
    if not result or min(result) < 1:
        raise ValueError(f"{name} must have at least one dimension and no empty one, got {result}")
    return result


def as_int(name: str, value: SupportsIndex) -> int:
    """Returns an int of any kind as Python's own; refuses a bool and a float."""
    value = _plain(value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be made of ints, got {value!r}")
    return operator.index(value)


def _plain(value: Any) -> Any:
    """Turns NumPy's scalars and arrays into Python's ints and lists; leaves other values unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value
