"""What a layer costs and how its windows lie: our layers say it themselves, flax's stand in one table here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx

from cnnjax.inspect.spans import Shape
from cnnjax.layers import Layer
from cnnjax.layers.base import own_params
from cnnjax.layers.geometry import WindowGeometry, place_windows
from cnnjax.ops.counts import Counts
from cnnjax.ops.geometry import per_dimension


class Costs(NamedTuple):
    """What `describe` asks of a kind of layer; shapes are of one example.

    Attributes:
      counts: of a layer and its input's and output's shapes.
      window_geometry: likewise.
      batch_axes: of a layer and its input's whole shape: how many leading axes are not of one example.
    """

    counts: Callable[[Any, Shape, Shape], Counts]
    window_geometry: Callable[[Any, Shape, Shape], WindowGeometry | None] = lambda *_: None
    batch_axes: Callable[[Any, Shape], int] = lambda _, shape: min(len(shape) - 1, 1)


def costs_of(module: nnx.Module) -> Costs | None:
    """Returns what is known of a module; None for one that is no layer, as a block of layers is."""
    return next((COSTS[kind] for kind in type(module).__mro__ if kind in COSTS), None)


def _linear(layer: Any, x_shape: Shape, y_shape: Shape) -> Counts:
    return _used(layer, math.prod(y_shape[:-1]), y_shape)


def _transposed(layer: nnx.ConvTranspose, x_shape: Shape, y_shape: Shape) -> Counts:
    return _used(layer, math.prod(x_shape[:-1]), y_shape)


def _used(layer: Any, times: int, y_shape: Shape) -> Counts:
    """Returns the counts of a layer that uses its whole kernel some times."""
    uses = times * layer.kernel.size
    return Counts(own_params(layer), uses + (0 if layer.bias is None else math.prod(y_shape)), uses)


def _general(layer: nnx.LinearGeneral, x_shape: Shape, y_shape: Shape) -> Counts:
    uses = math.prod(x_shape) * math.prod(layer.out_features)
    return Counts(own_params(layer), uses + (0 if layer.bias is None else math.prod(y_shape)), uses)


def _low_rank(layer: nnx.LoRA, x_shape: Shape, y_shape: Shape) -> Counts:
    uses = math.prod(x_shape[:-1]) * (layer.lora_a.size + layer.lora_b.size)
    return Counts(own_params(layer), uses, uses)


def _norm(layer: nnx.Module, x_shape: Shape, y_shape: Shape) -> Counts:
    params, outputs = own_params(layer), math.prod(y_shape)
    return Counts(params, outputs * (params // y_shape[-1]), outputs)


def _lookup(layer: nnx.Module, x_shape: Shape, y_shape: Shape) -> Counts:
    return Counts(own_params(layer), 0, 0)


def _conv_geometry(layer: nnx.Conv, x_shape: Shape, y_shape: Shape) -> WindowGeometry | None:
    padding: Any = layer.padding
    if layer.input_dilation not in (None, 1):
        return None
    dilation = layer.kernel_dilation or 1
    if padding in ("CIRCULAR", "REFLECT"):  # flax pads as for SAME without strides
        dilations = per_dimension("dilation", dilation, len(layer.kernel_size))
        reach = [(k - 1) * d for k, d in zip(layer.kernel_size, dilations, strict=True)]
        padding = tuple((each // 2, each - each // 2) for each in reach)
    return place_windows(x_shape[:-1], layer.kernel_size, layer.strides or 1, dilation, padding)


def _conv_batch(layer: nnx.Conv | nnx.ConvTranspose, shape: Shape) -> int:
    return len(shape) - len(layer.kernel.shape) + 1


def _our_counts(layer: Layer, x_shape: Shape, y_shape: Shape) -> Counts:
    return layer.counts(x_shape, y_shape)


def _our_geometry(layer: Layer, x_shape: Shape, y_shape: Shape) -> WindowGeometry | None:
    return layer.window_geometry(x_shape, y_shape)


#: The kinds of layers that become rows; subclasses are known by their nearest base.
COSTS: dict[type, Costs] = {
    Layer: Costs(_our_counts, _our_geometry),
    nnx.Conv: Costs(_linear, _conv_geometry, _conv_batch),
    nnx.ConvTranspose: Costs(_transposed, batch_axes=_conv_batch),
    nnx.Linear: Costs(_linear),
    nnx.LinearGeneral: Costs(_general),
    nnx.LoRA: Costs(_low_rank),
    nnx.Embed: Costs(_lookup),
    nnx.Dropout: Costs(_lookup),
    **dict.fromkeys((nnx.BatchNorm, nnx.LayerNorm, nnx.GroupNorm, nnx.RMSNorm, nnx.InstanceNorm), Costs(_norm)),
}
