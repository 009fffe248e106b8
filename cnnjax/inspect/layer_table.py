"""The layers of a model as they are called: their table, their outputs, and what of the image they see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Var

from cnnjax import layers
from cnnjax.ops.counts import Counts, conv_counts, subsample_counts
from cnnjax.ops.geometry import dilated, per_dimension, resolve_padding

Shape = tuple[int, ...]


class Row(NamedTuple):
    """One layer, for one example.

    layer: its path in the model and its class. output: its shape, without the batch axis. params: trained numbers.
    connections: as LeNet-5's paper counts them, each use of a weight or bias, and what a pool's windows read.
    macs: multiply-accumulates. receptive_field: how many pixels of the input one output sees, per dimension,
    padding included; () for an input without spatial dimensions; None where something that is no layer, like a
    pooling called as a function, has changed the spatial sizes on the way.
    """

    layer: str
    output: Shape
    params: int
    connections: int
    macs: int
    receptive_field: Shape | None


class Table(list[Row]):
    """The rows of a model; ``str`` of it is the table, with the totals, and ``total`` the sums."""

    @property
    def total(self) -> Counts:
        """Trained parameters, connections and multiply-accumulates of the whole model."""
        return Counts(*(sum(getattr(row, name) for row in self) for name in Counts._fields))

    def __str__(self) -> str:
        def line(name: str, output: str, counts: Sequence[int], field: str) -> list[str]:
            return [name, output, *(f"{count:,}" for count in counts), field]

        lines = [["layer", "output", "params", "connections", "MACs", "receptive field"]]
        for row in self:
            seen = ("?",) if row.receptive_field is None else row.receptive_field
            shape, field = (" x ".join(map(str, sizes)) for sizes in (row.output, seen))
            lines.append(line(row.layer, shape, row[2:5], field))
        lines.append(line("total", "", self.total, ""))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        numbers = range(2, 5)
        rows = [
            "  ".join(
                cell.rjust(width) if i in numbers else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in lines
        ]
        return "\n".join(rows)


def describe(model: nnx.Module, input_shape: Sequence[int], *, dtype: Any = "float32") -> Table:
    """Print the layer table of a model, and return it.

    The model is traced in evaluation mode, not run; it is left as it was.

    Args:
      model: called as ``model(x)``. Layers of `cnnjax.layers` and of nnx become rows, in the order of their calls;
        a layer that is called twice is two rows, the second without parameters.
      input_shape: of one example, (*S, C), or of a batch, (N, *S, C); of ids of words (L,) or (N, L).
      dtype: of the input.

    Returns:
      A `Table`, a list of `Row`.

    Raises:
      TypeError, ValueError: the model is not a module, or does not take that shape.

    >>> from flax import nnx
    >>> table = describe(layers.Conv(1, 6, (5, 5), rngs=nnx.Rngs(0)), (32, 32, 1))
    layer  output       params  connections     MACs  receptive field
    Conv   28 x 28 x 6     156      122,304  117,600  5 x 5
    total                  156      122,304  117,600
    >>> table[0].params
    156
    """
    model = _for_evaluation(model)
    table = Table(_rows(model, *_trace_either(model, input_shape, dtype)))
    print(table)
    return table


class Activation(NamedTuple):
    """A layer's path in the model and its class, the layer, and what it gave: (N, *S, C)."""

    name: str
    layer: nnx.Module
    output: jax.Array


def activations(model: nnx.Module, x: jax.Array) -> list[Activation]:
    """What each layer gives for a batch, in the order of their calls.

    The layers are those that `describe` knows, and the outputs their own: an activation function called between two
    layers comes after the one and before the other. The model runs in evaluation mode; it is left as it was.

    Args:
      model: called as ``model(x)``, and not jitted within.
      x: (N, *S, C).

    >>> from flax import nnx
    >>> model = nnx.Sequential(layers.Conv(1, 6, (5, 5), rngs=nnx.Rngs(0)), jax.nn.relu, layers.MaxPool(2))
    >>> [(name, output.shape) for name, _, output in activations(model, np.ones((1, 32, 32, 1), np.float32))]
    [('layers.0 (Conv)', (1, 28, 28, 6)), ('layers.2 (MaxPool)', (1, 14, 14, 6))]
    """
    model = _for_evaluation(model)
    called: list[_Call] = []
    outputs: list[jax.Array] = []
    with _recorded(model, called, outputs):
        model(x)
    return [Activation(call.name, call.layer, y) for call, y in zip(called, outputs, strict=True)]


class Sight(NamedTuple):
    """What one unit of a layer sees.

    name: the layer's path in the model and its class. unit: the place of the unit in the layer's output. pixels: of the
    input, (first, past the last) per dimension; in the padding they are below 0 or beyond the size.
    """

    name: str
    unit: Shape
    pixels: tuple[tuple[int, int], ...]


def sights(model: nnx.Module, input_shape: Sequence[int], *, dtype: Any = "float32") -> list[Sight]:
    """What the centre unit of each convolution and pooling sees of the input: its receptive field, and where it lies.

    Left out are layers behind something that is no layer and has changed the spatial sizes. Behind a layer whose
    windows lie unevenly, a ConvTranspose with stride or an adaptive pooling, the place may be off by less than one of
    its steps. The arguments and errors are those of `describe`.

    >>> from flax import nnx
    >>> model = nnx.Sequential(layers.Conv(1, 6, (5, 5), padding=2, rngs=nnx.Rngs(0)), layers.MaxPool(2))
    >>> for sight in sights(model, (28, 28, 1)):
    ...     print(sight.name, sight.unit, sight.pixels)
    layers.0 (Conv) (14, 14) ((12, 17), (12, 17))
    layers.1 (MaxPool) (7, 7) ((12, 18), (12, 18))
    """
    jaxpr, called = _trace_either(_for_evaluation(model), input_shape, dtype)
    found = []
    for call, field in _fields(jaxpr, called):
        if _geometry(call) is not None and math.inf not in field.field:
            unit = tuple(size // 2 for size in field.sizes)
            places = zip(field.start, field.jump, field.field, unit, strict=True)
            spans = [(math.ceil(start + u * jump), math.ceil(width)) for start, jump, width, u in places]
            found.append(Sight(call.name, unit, tuple((first, first + width) for first, width in spans)))
    return found


def _for_evaluation(model: nnx.Module) -> nnx.Module:
    """A copy in evaluation mode."""
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be an nnx.Module, got {type(model).__name__}")
    model = nnx.clone(model)
    model.eval()
    return model


class _Call(NamedTuple):
    """One call of a layer: its place in the model and its shapes, with the batch axis."""

    path: tuple[Any, ...]
    layer: nnx.Module
    input: Shape
    output: Shape

    @property
    def name(self) -> str:
        return _name(self.path, self.layer)


def _trace_either(model: nnx.Module, input_shape: Sequence[int], dtype: Any) -> tuple[Any, list[_Call]]:
    """`_trace` for the shape of one example, or of a batch."""
    shape = tuple(per_dimension("input_shape", input_shape, len(tuple(input_shape))))
    try:
        return _trace(model, (1, *shape), dtype)
    except (TypeError, ValueError) as error:
        try:
            return _trace(model, shape, dtype)
        except (TypeError, ValueError):
            raise ValueError(f"input_shape must be one that the model takes, got {shape}: {error}") from error


def _trace(model: nnx.Module, shape: Shape, dtype: Any) -> tuple[Any, list[_Call]]:
    """The model as a jaxpr in which what goes into and comes out of a layer is tagged, and the calls of layers."""
    called: list[_Call] = []

    def run(x: jax.Array) -> Any:
        copy = nnx.clone(model)  # of this trace, so that it may count its random numbers
        with _recorded(copy, called):
            return copy(x)

    return jax.make_jaxpr(run)(jax.ShapeDtypeStruct(shape, dtype)).jaxpr, called


@contextmanager
def _recorded(model: nnx.Module, called: list[_Call], outputs: list[jax.Array] | None = None) -> Iterator[None]:
    """Note each call of a layer of the model, and tag its input "into i" and its output "out of i".

    The outputs themselves go into `outputs`, if given.
    """
    paths = {id(module): path for path, module in nnx.iter_modules(model) if isinstance(module, LAYERS)}
    inside = False

    def recording(original: Any) -> Any:
        def call(layer: nnx.Module, x: jax.Array, *arguments: Any, **keywords: Any) -> Any:
            nonlocal inside
            if inside or id(layer) not in paths:
                return original(layer, x, *arguments, **keywords)
            if isinstance(layer, nnx.Conv) and x.ndim != layer.kernel.ndim:
                raise ValueError(f"x must have exactly one batch axis, got {x.shape}")  # nnx.Conv takes more
            inside, number = True, len(called)
            try:
                y = original(layer, checkpoint_name(x, f"into {number}"), *arguments, **keywords)
            finally:
                inside = False
            first, *rest = jax.tree.leaves(y)
            called.append(_Call(paths[id(layer)], layer, x.shape, first.shape))
            if outputs is not None:
                outputs.append(first)
            return jax.tree.unflatten(jax.tree.structure(y), [checkpoint_name(first, f"out of {number}"), *rest])

        return call

    with ExitStack() as stack:
        for kind in {type(module) for _, module in nnx.iter_modules(model) if id(module) in paths}:
            stack.enter_context(mock.patch.object(kind, "__call__", recording(kind.__call__)))
        yield


def _rows(model: nnx.Module, jaxpr: Any, called: Sequence[_Call]) -> Iterator[Row]:
    """One row per call; then what no layer owns."""
    originals = {path: module for path, module in nnx.iter_modules(model)}
    counted: set[Any] = set()
    for call, field in _fields(jaxpr, called):
        params, connections, macs = _counts(call, originals[call.path])
        params = 0 if call.path in counted else params
        counted.add(call.path)
        seen = None if math.inf in field.field else tuple(map(math.ceil, field.field))
        yield Row(call.name, call.output[1:], params, connections, macs, seen)
    for path, module in originals.items():
        own = sum(p.size for p in vars(module).values() if isinstance(p, nnx.Param))
        if own and not any(path[: len(done)] == done for done in counted):
            yield Row(_name(path, module), (), own, 0, 0, ())


def _fields(jaxpr: Any, called: Sequence[_Call]) -> Iterator[tuple[_Call, _Field]]:
    """Each call with the receptive field of its output, carried along the equations."""
    (x,) = jaxpr.invars
    words = len(x.aval.shape) == 2 and jnp.issubdtype(x.aval.dtype, jnp.integer)  # ids (N, L), without channels
    rank = 1 if words else max(len(x.aval.shape) - 2, 0)
    ones, zeros = (Fraction(1),) * rank, (Fraction(0),) * rank
    fields = {x: _Field(ones, ones, x.aval.shape[1 : 1 + rank], zeros)}
    into: dict[str, _Field] = {}
    for equation in jaxpr.eqns:
        known = [fields[var] for var in equation.invars if isinstance(var, Var) and var in fields]
        if not known:
            continue
        field, shape = max(known), equation.outvars[0].aval.shape
        tag, _, number = str(equation.params.get("name", "")).rpartition(" ")
        if tag == "into":
            into[number] = field
        elif tag == "out of":
            call = called[int(number)]
            geometry = _geometry(call)
            field = into[number] if geometry is None else into[number].through(*geometry, shape[1:-1])
        elif len(shape) == len(field.sizes) + 2 and shape[1:-1] != field.sizes:
            field = field.unknown(shape[1:-1])
        still_words = (
            words and shape == x.aval.shape and not jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
        )
        if len(shape) - 2 < len(field.sizes) and not still_words:  # flattened or reduced: every place is seen
            field = field.whole()
        fields.update(dict.fromkeys(equation.outvars, field))
        if tag == "out of":
            yield called[int(number)], field


class _Field(NamedTuple):
    """How much of the input one place sees, how far off its neighbour's is, the sizes, and where the first's begins."""

    field: tuple[Fraction | float, ...]
    jump: tuple[Fraction, ...]
    sizes: Shape
    start: tuple[Fraction, ...]

    def through(
        self,
        window: Sequence[int],
        stride: Sequence[Any],
        dilation: Sequence[int],
        low: Sequence[Any],
        sizes: Shape,
    ) -> _Field:
        """What a place sees through a window: the formula of `cnnjax.ops.receptive_field`."""
        steps = zip(self.field, self.jump, window, dilation, strict=True)
        field = tuple(r + (k - 1) * d * jump for r, jump, k, d in steps)
        start = tuple(s - pad * jump for s, pad, jump in zip(self.start, low, self.jump, strict=True))
        return _Field(field, tuple(jump * s for jump, s in zip(self.jump, stride, strict=True)), sizes, start)

    def unknown(self, sizes: Shape) -> _Field:
        """What is seen after a change of sizes by something that is no layer."""
        return self._replace(field=(math.inf,) * len(sizes), sizes=sizes)

    def whole(self) -> _Field:
        """What is seen by something that reads every place."""
        ones, zeros = (1,) * len(self.sizes), (0,) * len(self.sizes)
        return self.through(self.sizes, ones, ones, zeros, ())


POOLS = (
    layers.MaxPool,
    layers.MinPool,
    layers.AvgPool,
    layers.LpPool,
    layers.Pool,
    layers.StochasticPool,
    layers.Subsample,
)
CONVS = (layers.Weighted, nnx.Conv)
NORMS = (nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm)
#: What becomes a row.
LAYERS = (*POOLS, *CONVS, *NORMS, layers.Op, layers.RBF, layers.Embedding, nnx.Linear, nnx.Dropout)


#: The keywords of an op that decide where its windows lie, and their defaults.
PLACING = (("stride", 1), ("dilation", 1), ("padding", "VALID"))


class _Windows(NamedTuple):
    """How a layer sees its input, per dimension; low: how far before it the first window begins."""

    window: Sequence[int]
    stride: Sequence[Any]
    dilation: Sequence[int]
    low: Sequence[Any]


def _geometry(call: _Call) -> _Windows | None:
    """The windows by which a layer sees its input; None: each place sees itself, or all."""
    layer, (_, *sizes, _) = call.layer, call.input
    rank = len(sizes)

    def each(value: Any) -> Shape:
        return per_dimension("window", value, rank)

    def windows(window: Any, stride: Any, dilation: Any = 1, padding: Any = "VALID") -> _Windows:
        places = each(window), each(stride), each(dilation)
        return _Windows(*places, [low for low, _ in resolve_padding(padding, tuple(sizes), *places)])

    match layer:
        case layers.ConvTranspose():  # the windows by which its adjoint sees the output, turned round
            stride, dilation = each(layer.keywords.get("stride", 1)), each(layer.keywords.get("dilation", 1))
            window = layer.kernel.shape[:-2]
            pads = resolve_padding(layer.keywords.get("padding", "VALID"), call.output[1:-1], window, stride, dilation)
            extents = list(map(dilated, window, dilation))
            reach = [-(-extent // s) for extent, s in zip(extents, stride, strict=True)]
            low = [Fraction(extent - 1 - pad, s) for extent, (pad, _), s in zip(extents, pads, stride, strict=True)]
            return _Windows(reach, [Fraction(1, s) for s in stride], (1,) * rank, low)
        case layers.Weighted():
            holes = each(layer.keywords.get("input_dilation", 1))
            sizes = list(map(dilated, sizes, holes))
            window = layer.keywords.get("window", layer.kernel.shape[:-2])
            seen = windows(window, *(layer.keywords.get(*one) for one in PLACING))
            if max(holes) == 1:
                return seen
            reach = [-(-extent // hole) for extent, hole in zip(map(dilated, *seen[0::2]), holes, strict=True)]
            steps, low = ([Fraction(n, hole) for n, hole in zip(ns, holes, strict=True)] for ns in seen[1::2])
            return _Windows(reach, steps, (1,) * rank, low)
        case nnx.Conv():
            padding = "SAME" if layer.padding in ("CIRCULAR", "REFLECT") else layer.padding
            return windows(layer.kernel_size, layer.strides or 1, layer.kernel_dilation or 1, padding)
        case layers.StochasticPool():
            padding = layer.keywords.get("padding", "VALID")
            return windows(layer.window, layer.keywords.get("stride") or layer.window, padding=padding)
        case layers.Subsample():
            return windows(layer.window, layer.window)
        case layers.AdaptiveAvgPool() | layers.AdaptiveMaxPool() | layers.FractionalMaxPool():
            steps = [Fraction(size, count) for size, count in zip(sizes, call.output[1:-1], strict=True)]
            return _Windows([math.ceil(step) for step in steps], steps, (1,) * rank, (0,) * rank)
        case layers.Op() if type(layer) in POOLS:
            window = layer.given["window"]
            others = (layer.given.get(*one) for one in PLACING[1:])
            return windows(window, layer.given.get("stride") or window, *others)
    return None


def _counts(call: _Call, layer: nnx.Module) -> Counts:
    """What a layer costs for one example."""
    *places, features = call.output[1:]
    outputs = math.prod(call.output[1:])
    own = sum(value.size for value in vars(layer).values() if isinstance(value, nnx.Param))
    match layer:
        case layers.Subsample():
            return subsample_counts(places, layer.window, features)
        case layers.ConnectedConv():
            links = int(np.asarray(layer.table[...]).sum())
            window = layer.kernel.shape[:-2]
            return conv_counts(places, window, call.input[-1], features, links=links, bias=layer.bias is not None)
        case layers.LocalConv():  # each weight is used once
            return Counts(own, own, layer.kernel.size)
        case layers.DepthwiseConv():
            groups = call.input[-1]
            window = layer.kernel.shape[:-2]
            return conv_counts(places, window, groups, features, groups=groups, bias=layer.bias is not None)
        case layers.ConvTranspose():  # each input uses each weight of its group
            uses = math.prod(call.input[1:-1]) * layer.kernel.size
            return Counts(own, uses + (outputs if layer.bias is not None else 0), uses)
        case layers.Weighted() | nnx.Conv() | nnx.Linear():
            per_place = layer.kernel.size
            uses = math.prod(places) * per_place
            return Counts(own, uses + (outputs if layer.bias is not None else 0), uses)
        case layers.RBF():
            return Counts(0, layer.centres.size, layer.centres.size)
        case _ if isinstance(layer, NORMS):
            return Counts(own, outputs * (own // features), outputs)
        case _ if isinstance(layer, POOLS):
            geometry = _geometry(call)
            assert geometry is not None
            return Counts(0, outputs * math.prod(geometry.window), 0)
    return Counts(own, 0, 0)


def _name(path: tuple[Any, ...], module: nnx.Module) -> str:
    kind = type(module).__name__
    return f"{'.'.join(map(str, path))} ({kind})" if path else kind
