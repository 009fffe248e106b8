"""What the layers of a model give for a batch, and which pixels they see of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
from flax import nnx
from jax.typing import DTypeLike

from cnnjax.inspect.spans import Shape
from cnnjax.inspect.table import name_of
from cnnjax.inspect.trace import Recorder, for_evaluation, trace
from cnnjax.inspect.walk import Visit, walk


class Activation(NamedTuple):
    """What a layer gave.

    Attributes:
      name: its path in the model and its class.
      layer: the layer.
      output: `(N, *S, C)`.
    """

    name: str
    layer: nnx.Module
    output: jax.Array


class Region(NamedTuple):
    """The pixels that one output of a layer sees.

    Attributes:
      name: the layer's path in the model and its class.
      unit: where the output lies, in the middle of the layer's map.
      pixels: (first, past the last) per spatial dimension; beyond the image where it sees padding.
    """

    name: str
    unit: Shape
    pixels: tuple[tuple[int, int], ...]


def activations(model: nnx.Module, x: jax.Array) -> list[Activation]:
    """Returns what each layer gives for a batch, in the order in which their calls begin.

    The layers are those that `describe` knows, and the outputs their own: an activation function called between two
    layers comes after the one and before the other. The model runs in evaluation mode; it is left as it was.

    Args:
      model: called as `model(x)`.
      x: `(N, *S, C)`.

    Raises:
      TypeError: the model is not a module.
      ValueError: a layer is called within `jit`, `jax.checkpoint`, `scan` or `vmap`, where it gives no numbers.

    Example:
      >>> import jax.numpy as jnp
      >>> from cnnjax.layers import Conv, MaxPool
      >>> model = nnx.Sequential(Conv(1, 6, (5, 5), rngs=nnx.Rngs(0)), jax.nn.relu, MaxPool(2))
      >>> [(name, output.shape) for name, _, output in activations(model, jnp.ones((1, 32, 32, 1)))]
      [('layers.0 (Conv)', (1, 28, 28, 6)), ('layers.2 (MaxPool)', (1, 14, 14, 6))]
    """
    originals = dict(nnx.iter_modules(for_evaluation(model)))
    copy = for_evaluation(model)
    recorder = Recorder(keep_outputs=True)
    recorder.watch(copy)
    copy(x)
    found = []
    for call, output in zip(recorder.calls, recorder.outputs, strict=True):
        if call is not None and output is not None:
            layer = originals[call.path]
            name = name_of(call.path, layer)
            if isinstance(output, jax.core.Tracer):
                raise ValueError(f"{name} must be called outside of jit, checkpoint, scan and vmap to give its numbers")
            found.append(Activation(name, layer, output))
    return found


def receptive_regions(model: nnx.Module, input_shape: Sequence[int], *, dtype: DTypeLike = "float32") -> list[Region]:
    """Returns the pixels that the middle output of each convolution and pool sees, in the order of their calls.

    Layers of which it is not known are left out.

    Args:
      model: as for `describe`.
      input_shape: as for `describe`.
      dtype: as for `describe`.

    Example:
      >>> from cnnjax.layers import Conv, MaxPool
      >>> model = nnx.Sequential(Conv(1, 6, (5, 5), padding=2, rngs=nnx.Rngs(0)), MaxPool(2))
      >>> for region in receptive_regions(model, (28, 28, 1)):
      ...     print(region.name, region.unit, region.pixels)
      layers.0 (Conv) (14, 14) ((12, 17), (12, 17))
      layers.1 (MaxPool) (7, 7) ((12, 18), (12, 18))
    """
    model = for_evaluation(model)
    modules = dict(nnx.iter_modules(model))
    visits = walk(trace(model, input_shape, dtype))
    regions = ((visit, _region(visit, name_of(visit.call.path, modules[visit.call.path]))) for visit in visits)
    return [region for visit, region in regions if region is not None]


def _region(visit: Visit, name: str) -> Region | None:
    """Returns the region of a visit; None for a layer without windows, or where its place is not known."""
    call, first = visit.call, len(visit.mapped) + visit.call.batch
    sizes = call.output[call.batch : -1]
    if call.geometry is None or len(sizes) != len(visit.spans):
        return None
    unit = tuple(size // 2 for size in sizes)
    pixels = []
    for axis, (span, u) in enumerate(zip(visit.spans, unit, strict=True), first):
        if span is None or [term.axis for term in span.terms] != [axis]:
            return None
        (term,) = span.terms
        first_pixel, past = span.at(term, u // term.inner % term.length)
        pixels.append((math.ceil(first_pixel), math.ceil(past)))
    return Region(name, unit, tuple(pixels))
