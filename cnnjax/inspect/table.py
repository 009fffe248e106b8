"""The layer table: outputs, parameters, connections, multiply-accumulates and receptive fields."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from flax import nnx
from jax.typing import DTypeLike

from cnnjax.inspect.spans import Shape
from cnnjax.inspect.trace import for_evaluation, trace
from cnnjax.inspect.walk import Visit, walk
from cnnjax.layers.base import params_of
from cnnjax.ops.counts import Counts


class Row(NamedTuple):
    """One layer, for one example.

    Attributes:
      layer: its path in the model and its class.
      output: its shape, without the batch axis.
      params: trained numbers, which no row before has counted.
      connections: as LeNet-5's paper counts them, each use of a weight or bias, and what a pool's windows read.
      macs: multiply-accumulates.
      receptive_field: how many pixels of the input one output sees, per dimension, padding included; () for an input
        without spatial dimensions; None where a function on the way leaves it unknown.
    """

    layer: str
    output: Shape
    params: int
    connections: int
    macs: int
    receptive_field: Shape | None


class Table(list[Row]):
    """The rows of a model; `str` of it is the table, with the totals, and `total` the sums.

    Attributes:
      inputs: for each row the shape of what its layer reads, without the batch axis; () for parameters of no layer.
    """

    def __init__(self, rows: Sequence[Row] = (), inputs: Sequence[Shape] = ()):
        super().__init__(rows)
        self.inputs = list(inputs)

    @property
    def total(self) -> Counts:
        """Trained parameters, connections and multiply-accumulates of the whole model."""
        return Counts(*(sum(getattr(row, name) for row in self) for name in Counts._fields))

    def __repr__(self) -> str:
        """Returns one line: a prompt that shows what `describe` returned shall not print the table again."""
        return f"<Table of {len(self)} rows, {self.total.params:,} parameters>"

    def __str__(self) -> str:
        lines = [["layer", "output", "params", "connections", "MACs", "receptive field"]]
        for row in self:
            field = ("?",) if row.receptive_field is None else row.receptive_field
            lines.append([row.layer, _by(row.output), *map(_grouped, row[2:5]), _by(field)])
        lines.append(["total", "", *map(_grouped, self.total), ""])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(_aligned(cells, widths) for cells in lines)


def describe(model: nnx.Module, input_shape: Sequence[int], *, dtype: DTypeLike = "float32") -> Table:
    """Prints the layer table of a model, and returns it.

    The model is traced in evaluation mode, not run; it is left as it was. Layers are found wherever they are called,
    in `jit`, `jax.checkpoint`, `scan` and `vmap` too. A layer in a `scan` of n steps is one row, whose connections and
    MACs are those of n calls, and whose receptive field is that of the last.

    Args:
      model: called as `model(x)`. Layers of `cnnjax.layers` and of nnx become rows, in the order in which their calls
        begin; a layer that is called twice is two rows, the second without parameters. Parameters of modules that are
        no layers stand at the end.
      input_shape: of one example, `(*S, C)`, or of a batch, `(N, *S, C)`; of ids of words `(L,)` or `(N, L)`.
      dtype: of the input.

    Returns:
      A `Table`, a list of `Row`.

    Raises:
      TypeError: the model is not a module, or input_shape is not made of ints.
      ValueError: the model does not take that shape.

    Example:
      >>> from cnnjax.layers import Conv
      >>> table = describe(Conv(1, 6, (5, 5), rngs=nnx.Rngs(0)), (32, 32, 1))
      layer  output       params  connections     MACs  receptive field
      Conv   28 x 28 x 6     156      122,304  117,600  5 x 5
      total                  156      122,304  117,600
      >>> table[0].params
      156
    """
    table = layer_table(model, input_shape, dtype=dtype)
    print(table)
    return table


def layer_table(model: nnx.Module, input_shape: Sequence[int], *, dtype: DTypeLike = "float32") -> Table:
    """Returns the layer table of a model, as `describe` does, and prints nothing."""
    model = for_evaluation(model)
    traced = trace(model, input_shape, dtype)
    visits = walk(traced)
    rows = list(_rows(model, visits, traced.batch))
    inputs = [visit.call.input[min(visit.call.batch, 1) :] for visit in visits]
    return Table(rows, inputs + [()] * (len(rows) - len(inputs)))


def name_of(path: Sequence[Any], module: nnx.Module) -> str:
    """Returns how a row calls a layer: its path in the model and its class."""
    kind = type(module).__name__
    return f"{'.'.join(map(str, path))} ({kind})" if path else kind


def _rows(model: nnx.Module, visits: Sequence[Visit], batch: int) -> Iterator[Row]:
    """Yields a row per visit; then one for each module whose parameters no row has counted."""
    modules = dict(nnx.iter_modules(model))
    counted: set[int] = set()
    for visit in visits:
        call, module = visit.call, modules[visit.call.path]
        leading = math.prod(visit.mapped) * math.prod(call.output[: call.batch])
        times = Fraction(visit.times * leading, batch)
        share = Fraction(call.counts.params, call.params or 1)  # kernels with a table of links are not used whole
        connections, macs = (math.ceil(count * times) for count in call.counts[1:])
        sizes = [None if span is None else math.ceil(span.pixels) for span in visit.spans]
        known = tuple(size for size in sizes if size is not None)
        yield Row(
            name_of(call.path, module),
            _example(visit),
            math.ceil(_new_params(module, counted) * share),
            connections,
            macs,
            known if len(known) == len(sizes) else None,
        )
    for path, module in modules.items():
        params = _new_params(module, counted)
        if params:
            yield Row(name_of(path, module), (), params, 0, 0, ())


def _example(visit: Visit) -> Shape:
    """Returns the shape of a call's output for one example; under vmap that of the function that is mapped."""
    call = visit.call
    whole = visit.mapped and call.geometry is None and call.output[:1] != (1,)
    return call.output if whole else call.output[min(call.batch, 1) :]


def _new_params(module: nnx.Module, counted: set[int]) -> int:
    """Returns how many trained numbers a module holds itself that are not counted yet; counts them."""
    params = {id(param): param.size for param in params_of(module) if id(param) not in counted}
    counted.update(params)
    return sum(params.values())


def _by(sizes: Sequence[object]) -> str:
    return " x ".join(map(str, sizes))


def _grouped(count: int) -> str:
    return f"{count:,}"


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Returns a line of the table; counts stand to the right."""
    padded = [
        cell.rjust(width) if 2 <= i < 5 else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return "  ".join(padded).rstrip()
