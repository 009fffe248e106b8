"""Receptive fields, carried along the equations of a jaxpr: one rule for each way in which a primitive moves elements.

A value is a `Constant`, which does not depend on the image, or for each spatial dimension of the image the `Span` of
its elements, None where it is unknown. A primitive without a rule leaves all unknown: never a wrong field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax.extend.core import JaxprEqn

from cnnjax.inspect.spans import Shape, Span, join_all
from cnnjax.layers.geometry import WindowGeometry
from cnnjax.ops.geometry import Windows


class Constant(NamedTuple):
    """A value that does not depend on the image.

    dense: made of parameters alone, so that a product with it reads all elements of the axis it sums over; a matrix
    that is built of indices, as those of interpolations are, may be mostly zeros.
    """

    dense: bool


Spans = tuple[Span | None, ...]
Value = Constant | Spans
Rule = Callable[[JaxprEqn, list[Value], Shape], Sequence[Value]]

#: Primitives whose elements see what the elements of their operands at the same indices see.
ELEMENTWISE = frozenset(
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e bitcast_convert_type cbrt ceil "  # noqa: SIM905
    "clamp clz complex conj convert_element_type copy copy_p cos cosh device_put digamma div eq erf erf_inv erfc exp "
    "exp2 expm1 floor ge gt igamma igammac imag integer_pow is_finite layout_constraint le lgamma log log1p log2 "
    "logistic lt max min mul name ne neg nextafter not one_minus_square or polygamma population_count pow pvary real "
    "reduce_precision rem reshard round rsqrt select_n sharding_constraint shift_left shift_right_arithmetic "
    "shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta".split()
)
#: Beside these, those of which a dense constant stays one.
KEEPS_DENSE = ELEMENTWISE | {"broadcast_in_dim", "reshape", "squeeze", "transpose", "dot_general"}


def carry(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    """Returns the values of an equation's results.

    Args:
      equation: without inner jaxprs of its own.
      values: of its operands.
      image: the spatial sizes of the image.
    """
    name = equation.primitive.name
    if all(isinstance(value, Constant) for value in values):
        dense = name in KEEPS_DENSE and all(value.dense for value in values if isinstance(value, Constant))
        return [Constant(dense)] * len(equation.outvars)
    if name in ELEMENTWISE:
        return _elementwise(equation, values, image)
    if name in RULES:
        return RULES[name](equation, values, image)
    if "windows" in equation.params:
        return _own_windows(equation, values, image)
    return unknown(equation, image)


def unknown(equation: JaxprEqn, image: Shape) -> Sequence[Value]:
    """Returns results of which nothing is known."""
    return [(None,) * len(image)] * len(equation.outvars)


def joined(values: Sequence[Value], image: Shape) -> Value:
    """Returns what an element sees that reads one of each value."""
    spans = [value for value in values if not isinstance(value, Constant)]
    if not spans:
        return Constant(all(value.dense for value in values if isinstance(value, Constant)))
    return tuple(join_all(column, size) for column, size in zip(zip(*spans, strict=True), image, strict=True))


def each(value: Value, move: Callable[[Span], Span | None]) -> Value:
    """Returns a value whose known spans are moved."""
    return value if isinstance(value, Constant) else tuple(None if span is None else move(span) for span in value)


def slide(spans: Spans, geometry: WindowGeometry, shapes: tuple[Shape, Shape], firsts: tuple[int, int]) -> Value:
    """Returns what windows see that slide over axes of an array.

    Args:
      spans: of the array.
      geometry: of the windows, per axis.
      shapes: of the array and of the result.
      firsts: the first of these axes, in the array and in the result; those behind follow.
    """
    return each(spans, lambda span: _slide_span(span, geometry, shapes, firsts))


def _slide_span(
    span: Span, geometry: WindowGeometry, shapes: tuple[Shape, Shape], firsts: tuple[int, int]
) -> Span | None:
    old, new = shapes
    shift = firsts[1] - firsts[0]
    result = span.moved(lambda axis: axis + shift) if shift else span
    for i, (window, stride, dilation, low) in enumerate(zip(*geometry, strict=True)):
        if result is not None:
            at = firsts[1] + i
            size, count = old[firsts[0] + i], new[at]
            result = result.windowed(at, size, count, window=window, stride=stride, dilation=dilation, low=low)
    return result


def shape_of(variable: Any) -> Shape:
    """Returns the shape of a variable of a program."""
    return variable.aval.shape


def _elementwise(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    shape = shape_of(equation.outvars[0])
    aligned: list[Value] = []
    for value, variable in zip(values, equation.invars, strict=True):
        own = shape_of(variable)
        if not isinstance(value, Constant):  # axes of size 1 are repeated

            def axis_of(axis: int, own: Shape = own) -> int | None:
                return axis if own[axis] == shape[axis] else None

            aligned.append(each(value, lambda span, axis_of=axis_of: span.moved(axis_of)))  # type: ignore[misc]
    return [joined(aligned, image)] * len(equation.outvars)


def _reduce(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    params = equation.params
    axes = params["axes"] if "axes" in params else params["dimensions"]
    kept = [axis for axis in range(len(shape_of(equation.invars[0]))) if axis not in axes]
    value = each(joined(values, image), lambda span: span.widened(axes).moved(kept.index))
    return [value] * len(equation.outvars)


def _over_plane(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    """A maximum over the second axis, which stays with size 1."""
    return [each(joined(values, image), lambda span: span.widened([1]))]


def _accumulate(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    """Cumulative sums and sorting: the last element sees all."""
    params = equation.params
    axis = params.get("axis", params.get("dimension"))
    if axis is None or "operand" in params:
        axis = len(shape_of(equation.invars[0])) - 1
    return [each(joined(values, image), lambda span: span.widened([axis]))] * len(equation.outvars)


def _broadcast(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    to = equation.params["broadcast_dimensions"]
    old, new = shape_of(equation.invars[0]), shape_of(equation.outvars[0])

    def axis_of(axis: int) -> int | None:
        return to[axis] if old[axis] == new[to[axis]] else None

    return [each(values[0], lambda span: span.moved(axis_of))]


def _reshape(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    old, new = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    if equation.params.get("dimensions") is not None:
        return unknown(equation, image)
    return [each(values[0], lambda span: span.reshaped(old, new))]


def _squeeze(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    gone = equation.params["dimensions"]
    kept = [axis for axis in range(len(shape_of(equation.invars[0]))) if axis not in gone]
    return [each(values[0], lambda span: span.moved(lambda axis: kept.index(axis) if axis in kept else None))]


def _transpose(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    return [each(values[0], lambda span: span.moved(equation.params["permutation"].index))]


def _reverse(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    turned = equation.params["dimensions"]
    return [each(values[0], lambda span: None if any(span.along(axis) for axis in turned) else span)]


def _slice(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    params = equation.params
    steps = params["strides"] or (1,) * len(params["start_indices"])
    return [_resliced(values[0], equation, params["start_indices"], steps)]


def _resliced(value: Value, equation: JaxprEqn, starts: Sequence[int], steps: Sequence[int]) -> Value:
    old, new = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    for axis, (start, step) in enumerate(zip(starts, steps, strict=True)):
        value = each(value, lambda span, a=axis, i=start, s=step: span.windowed(a, old[a], new[a], stride=s, low=-i))  # type: ignore[misc]
    return value


def _dynamic_slice(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    if not all(isinstance(value, Constant) for value in values[1:]):
        return unknown(equation, image)
    old, new = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    cut = [axis for axis in range(len(old)) if old[axis] != new[axis]]
    return [each(values[0], lambda span: None if any(span.along(axis) for axis in cut) else span)]


def _pad(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    padding = equation.params["padding_config"]
    if not isinstance(values[1], Constant):
        return unknown(equation, image)
    holes = [axis for axis, (_, _, hole) in enumerate(padding) if hole]
    value = each(values[0], lambda span: None if any(span.along(axis) for axis in holes) else span)
    return [_resliced(value, equation, [-low for low, _, _ in padding], [1] * len(padding))]


def _concatenate(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    axis = equation.params["dimension"]
    dependent = [i for i, value in enumerate(values) if not isinstance(value, Constant)]
    if len(dependent) == 1:  # padding by a constant
        before = sum(shape_of(var)[axis] for var in equation.invars[: dependent[0]])
        size, count = shape_of(equation.invars[dependent[0]])[axis], shape_of(equation.outvars[0])[axis]
        return [each(values[dependent[0]], lambda span: span.windowed(axis, size, count, low=before))]
    along = [each(values[i], lambda span: None if span.along(axis) else span) for i in dependent]
    return [joined(along, image)]


def _split(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    axis, results, start = equation.params["axis"], [], 0
    size = shape_of(equation.invars[0])[axis]
    for count in equation.params["sizes"]:
        results.append(each(values[0], lambda span, i=start, n=count: span.windowed(axis, size, n, low=-i)))  # type: ignore[misc]
        start += count
    return results


def _dot(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    contracted, batch = equation.params["dimension_numbers"]
    seen: list[Value] = []
    free = len(batch[0])
    for side in (0, 1):
        rank = len(shape_of(equation.invars[side]))
        rest = [axis for axis in range(rank) if axis not in (*contracted[side], *batch[side])]
        order = {axis: i for i, axis in enumerate(batch[side])} | {axis: free + i for i, axis in enumerate(rest)}
        free += len(rest)
        other = values[1 - side]
        sparse = isinstance(other, Constant) and not other.dense

        def read(span: Span, axes: Any = contracted[side], order: Any = order, sparse: bool = sparse) -> Span | None:
            if sparse and any(term.length > 1 for axis in axes for term in span.along(axis)):
                return None
            return span.widened(axes).moved(order.get)

        seen.append(each(values[side], read))
    return [joined(seen, image)]


def _convolution(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    params = equation.params
    numbers = params["dimension_numbers"]
    if not isinstance(values[1], Constant) or isinstance(values[0], Constant):
        return unknown(equation, image)
    old, new = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    taps = shape_of(equation.invars[1])
    geometry = WindowGeometry(
        tuple(taps[axis] for axis in numbers.rhs_spec[2:]),
        tuple(params["window_strides"]),
        tuple(params["rhs_dilation"]),
        tuple(low for low, _ in params["padding"]),
    ).over_holes(params["lhs_dilation"])
    mixes_all = params["feature_group_count"] == params["batch_group_count"] == 1
    batch, channels, *axes = numbers.lhs_spec
    to_batch, _, *to = numbers.out_spec

    def read(span: Span) -> Span | None:
        if not mixes_all and (span.along(channels) or span.along(batch)):
            return None
        order = {batch: to_batch, **dict(zip(axes, to, strict=True))}
        result = span.widened([channels]).moved(order.get)
        for axis, at, window, stride, dilation, low in zip(axes, to, *geometry, strict=True):
            if result is not None:
                size, count = old[axis], new[at]
                result = result.windowed(at, size, count, window=window, stride=stride, dilation=dilation, low=low)
        return result

    return [each(values[0], read)]


def _window_reduction(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    params = equation.params
    geometry = WindowGeometry(
        tuple(params["window_dimensions"]),
        tuple(params["window_strides"]),
        tuple(params["window_dilation"]),
        tuple(low for low, _ in params["padding"]),
    ).over_holes(params["base_dilation"])
    value = joined(values, image)
    shapes = shape_of(equation.invars[0]), shape_of(equation.outvars[0])
    result = value if isinstance(value, Constant) else slide(value, geometry, shapes, (0, 0))
    return [result] * len(equation.outvars)


def _gather(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    operand, indices = values
    rank = len(shape_of(equation.outvars[0]))
    if isinstance(operand, Constant):  # an embedding: the axes of the ids
        places = [axis for axis in range(rank) if axis not in numbers.offset_dims]
        return [each(indices, lambda span: span.moved(lambda axis: places[axis] if axis < len(places) else None))]
    if not isinstance(indices, Constant):
        return unknown(equation, image)
    old = shape_of(equation.invars[0])
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(old)) if axis not in gone]
    to = {axis: at for axis, at in zip(kept, numbers.offset_dims, strict=True) if sizes[axis] == old[axis]}
    return [each(operand, lambda span: span.moved(to.get))]


def _own_windows(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    """Primitives of `cnnjax.ops`: one array `(N, *S, C)` is read through windows, the others are weights."""
    found = window_of_primitive(equation)
    dependent = [i for i, value in enumerate(values) if not isinstance(value, Constant)]
    if found is None or dependent != [found[0]]:
        return unknown(equation, image)
    at, geometry = found
    shapes = shape_of(equation.invars[at]), shape_of(equation.outvars[0])
    last = len(shapes[0]) - 1
    value = each(values[at], lambda span: None if span.along(last) else span)
    return [value if isinstance(value, Constant) else slide(value, geometry, shapes, (1, 1))]


def window_of_primitive(equation: JaxprEqn) -> tuple[int, WindowGeometry] | None:
    """Returns which operand a primitive of `cnnjax.ops` reads through windows, and how; None where none does.

    Its parameter `windows` is a `cnnjax.ops.geometry.Windows`. It computes what windows give, y, or as its transpose
    does, what they read, x: a pool says so by its parameter `of`, a convolution by `derivative`.
    """
    windows, of = equation.params["windows"], equation.params.get("of", "y")
    if "derivative" in equation.params:
        of = {"forward": "y", "input_grad": "x"}.get(equation.params["derivative"])
    if not isinstance(windows, Windows) or of not in ("x", "y"):
        return None
    given, result = (windows.sizes, windows.output) if of == "y" else (windows.output, windows.sizes)
    if any(shape_of(variable)[1:-1] != result for variable in equation.outvars):
        return None
    low = tuple(low for low, _ in windows.padding)
    geometry = WindowGeometry(windows.window, windows.stride, windows.dilation, low)
    for at, operand in enumerate(equation.invars):
        if shape_of(operand)[1:-1] == given and len(shape_of(operand)) == len(given) + 2:
            return at, geometry if of == "y" else geometry.transposed()
    return None


def _barrier(equation: JaxprEqn, values: list[Value], image: Shape) -> Sequence[Value]:
    return values


RULES: dict[str, Rule] = {
    **dict.fromkeys(("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or"), _reduce),
    **dict.fromkeys(("reduce_xor", "reduce", "argmax", "argmin"), _reduce),
    **dict.fromkeys(("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "sort", "top_k"), _accumulate),
    **dict.fromkeys(("reduce_window", "reduce_window_sum", "reduce_window_max"), _window_reduction),
    "reduce_window_min": _window_reduction,
    "broadcast_in_dim": _broadcast,
    "cnnjax_max_over_plane": _over_plane,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "optimization_barrier": _barrier,
    "pad": _pad,
    "reshape": _reshape,
    "rev": _reverse,
    "slice": _slice,
    "split": _split,
    "squeeze": _squeeze,
    "transpose": _transpose,
}
