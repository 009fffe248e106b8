"""Recording: which layers a model calls, as tags in its jaxpr.

A layer of a copy of the model gets a class made on the fly, whose calls tag their input and their output by a
primitive. Tags stay where a transformation puts the call: within `jax.checkpoint`, `jit`, `scan` or `vmap`. The model
and its classes are left as they are, and each recording has its own copy, so that threads do not meet.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.extend.core import ClosedJaxpr, Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike

from cnnjax.inspect.costs import costs_of
from cnnjax.inspect.spans import Shape
from cnnjax.layers.base import own_params
from cnnjax.layers.geometry import WindowGeometry
from cnnjax.ops.counts import Counts
from cnnjax.ops.geometry import positive_sizes

#: The attribute of a copied layer that says who records it.
RECORDED = "_cnnjax_recorded"


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
      path: of the layer in the model.
      input: the shape of what went in, with the batch axis.
      output: the shape of what came out.
      batch: how many leading axes are not of one example.
      geometry: the windows of the layer, if it says so.
      counts: the costs for one example.
      params: trained numbers that the layer holds itself.
    """

    path: tuple[Any, ...]
    input: Shape
    output: Shape
    batch: int
    geometry: WindowGeometry | None
    counts: Counts
    params: int


class Recorder:
    """The calls of one recording, by the order in which they began; None where one did not end or gave no array.

    Attributes:
      calls: the calls.
      outputs: what they gave, where `keep_outputs` is set.
    """

    def __init__(self, *, keep_outputs: bool = False, one_batch_axis: bool = False):
        self.calls: list[Call | None] = []
        self.outputs: list[jax.Array | None] = []
        self.keep_outputs, self.one_batch_axis = keep_outputs, one_batch_axis

    def watch(self, model: nnx.Module) -> None:
        """Makes the layers of a model record their calls here; the model must be a copy."""
        for path, module in nnx.iter_modules(model):
            if costs_of(module) is not None:
                setattr(module, RECORDED, nnx.static(_Recorded(self, path)))
                object.__setattr__(module, "__class__", _recording(type(module)))

    def call(
        self, layer: nnx.Module, path: tuple[Any, ...], run: Callable[..., Any], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Calls a layer and notes it."""
        costs = costs_of(layer)
        assert costs is not None
        number = len(self.calls)
        self.calls.append(None)
        self.outputs.append(None)
        args, kwargs, x = self._tag_input(number, args, kwargs)
        batch = costs.batch_axes(layer, x.shape)
        if self.one_batch_axis and batch > 1:
            raise ValueError(f"x must have exactly one batch axis, got {x.shape}")
        y = run(layer, *args, **kwargs)
        leaves, structure = jax.tree.flatten(y)
        if not leaves or not hasattr(leaves[0], "shape"):
            return y
        first = leaves[0]
        shapes = x.shape[batch:], first.shape[batch:]
        geometry, counts = costs.window_geometry(layer, *shapes), costs.counts(layer, *shapes)
        self.calls[number] = Call(path, x.shape, first.shape, batch, geometry, counts, own_params(layer))
        if self.keep_outputs:
            self.outputs[number] = first
            return y
        leaves[0] = tag_p.bind(first, number=number, end="output", mapped=())
        return jax.tree.unflatten(structure, leaves)

    def _tag_input(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Returns the arguments with the first array among them tagged, and that array."""
        for name, value in (*enumerate(args), *kwargs.items()):
            if isinstance(value, jax.Array) or hasattr(value, "__array__"):
                x = jax.numpy.asarray(value)
                if not self.keep_outputs:
                    value = tag_p.bind(x, number=number, end="input", mapped=())
                if isinstance(name, int):
                    return (*args[:name], value, *args[name + 1 :]), kwargs, x
                return args, {**kwargs, name: value}, x
        raise TypeError("a layer must be called with an array")


@dataclass(frozen=True, eq=False)  # equal to itself alone: no jit may take the program of another recording
class _Recorded:
    recorder: Recorder
    path: tuple[Any, ...]


@functools.cache
def _recording(kind: type[nnx.Module]) -> type[nnx.Module]:
    """Returns the class of a layer that records its calls; made once, as JAX keeps every class it knows for good."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorded = getattr(self, RECORDED)
        return recorded.recorder.call(self, recorded.path, kind.__call__, args, kwargs)

    namespace = {"__call__": __call__, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    options = {"pytree": getattr(kind, "_pytree__is_pytree", True)}
    return types.new_class(kind.__name__, (kind,), options, lambda new: new.update(namespace))


class Traced(NamedTuple):
    """A model's program with tags, its calls, and how many examples its input holds."""

    jaxpr: ClosedJaxpr
    calls: list[Call | None]
    batch: int


def trace(model: nnx.Module, input_shape: Sequence[int], dtype: DTypeLike) -> Traced:
    """Traces a model for the shape of one example, or of a batch.

    Raises:
      ValueError: the model takes neither.
    """
    shape = positive_sizes("input_shape", input_shape)
    attempts = [((1, *shape), True), ((1, *shape[1:]), True), ((1, *shape), False), (shape, True), (shape, False)]
    first: Exception | None = None
    for attempt, one_batch_axis in attempts:
        try:
            return _trace(model, attempt, dtype, one_batch_axis)
        except Exception as error:  # whatever the net says to a shape that is not its own
            first = first or error
    raise ValueError(f"input_shape must be one that the model takes, got {shape}: {first}") from first


def _trace(model: nnx.Module, shape: Shape, dtype: DTypeLike, one_batch_axis: bool) -> Traced:
    recorder = Recorder(one_batch_axis=one_batch_axis)

    def run(x: jax.Array) -> Any:
        copy = nnx.clone(model)  # of this trace, so that it may count its random numbers
        recorder.watch(copy)
        return copy(x)

    jaxpr = jax.make_jaxpr(run)(jax.ShapeDtypeStruct(shape, dtype))
    return Traced(jaxpr, recorder.calls, shape[0] if shape else 1)


def for_evaluation(model: nnx.Module) -> nnx.Module:
    """Returns a copy of a model in evaluation mode.

    Raises:
      TypeError: it is not a module.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be an nnx.Module, got {type(model).__name__}")
    model = nnx.clone(model)
    model.eval()
    return model


# The tag: an identity. Under vmap the mapped axis goes to the front, and its size into `mapped`.

tag_p = Primitive("cnnjax_layer")
tag_p.def_impl(lambda x, **_: x)
tag_p.def_abstract_eval(lambda x, **_: x)
mlir.register_lowering(tag_p, lambda ctx, x, **_: [x])


def _batch_tag(arguments: Any, axes: Any, *, mapped: Shape, **params: Any) -> tuple[jax.Array, int]:
    (x,), (axis,) = arguments, axes
    return tag_p.bind(jax.numpy.moveaxis(x, axis, 0), mapped=(x.shape[axis], *mapped), **params), 0


def _differentiate_tag(primals: Any, tangents: Any, **params: Any) -> tuple[Any, Any]:
    return tag_p.bind(*primals, **params), tangents[0]


batching.primitive_batchers[tag_p] = _batch_tag
ad.primitive_jvps[tag_p] = _differentiate_tag
