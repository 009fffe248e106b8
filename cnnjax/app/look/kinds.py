"""The layers that the page knows: for each class, what the page is told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from cnnjax import layers
from cnnjax.inspect.costs import costs_of
from cnnjax.layers.geometry import WindowGeometry

Shape = tuple[int, ...]


class Unknown(Exception):
    """Says what the page cannot compute, in a few words."""


class Step(NamedTuple):
    """One operation of the page.

    Attributes:
      kind: the name of its function in `layers.js`.
      shape: of its output for one example.
      options: numbers, which JSON holds.
      arrays: weights and statistics.
      suffix: tells the steps of one layer apart.
    """

    kind: str
    shape: Shape
    options: Mapping[str, Any] = {}
    arrays: Mapping[str, np.ndarray] = {}
    suffix: str = ""


Tell = Callable[[Any, Shape, Shape], list[Step]]


def steps_of(layer: nnx.Module, x_shape: Shape, y_shape: Shape) -> list[Step]:
    """Returns the steps that make up a layer.

    Args:
      layer: in evaluation mode.
      x_shape: of its input for one example, `(H, W, C)` or `(C,)`.
      y_shape: of its output.

    Raises:
      Unknown: the page has no such layer, or not with these options.
    """
    tell = KINDS.get(type(layer))
    if tell is None:
        raise Unknown(f"the class {type(layer).__name__} is not among those that it knows")
    return tell(layer, x_shape, y_shape)


def _conv(layer: layers.Conv, x_shape: Shape, y_shape: Shape) -> list[Step]:
    keywords = layer.keywords
    if keywords.get("padding_mode", "zeros") != "zeros":
        raise Unknown(f"its padding_mode is {keywords['padding_mode']!r}, and the page pads with zeros")
    holes = keywords.get("input_dilation", 1)
    if np.any(np.asarray(holes) != 1):
        raise Unknown(f"its input_dilation is {holes!r}, and the page has 1 alone")
    return [_kernel_step(layer, x_shape, y_shape, groups=keywords.get("groups", 1))]


def _flax_conv(layer: nnx.Conv, x_shape: Shape, y_shape: Shape) -> list[Step]:
    if isinstance(layer.padding, str) and layer.padding not in ("SAME", "VALID"):
        raise Unknown(f"its padding is {layer.padding!r}, and the page pads with zeros")
    if layer.mask is not None:
        raise Unknown("its kernel has a mask")
    return [_kernel_step(layer, x_shape, y_shape, groups=layer.feature_group_count)]


def _depthwise(layer: layers.DepthwiseConv, x_shape: Shape, y_shape: Shape) -> list[Step]:
    if layer.keywords.get("padding_mode", "zeros") != "zeros":
        raise Unknown(f"its padding_mode is {layer.keywords['padding_mode']!r}, and the page pads with zeros")
    kernel = np.asarray(layer.kernel[...])  # (*K, C, M): one group for each channel
    kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
    return [_kernel_step(layer, x_shape, y_shape, groups=x_shape[-1], kernel=kernel)]


def _connected(layer: layers.ConnectedConv, x_shape: Shape, y_shape: Shape) -> list[Step]:
    links = np.asarray(layer.table[...])
    kernel = np.where(links, np.asarray(layer.kernel[...]), 0)
    step = _kernel_step(layer, x_shape, y_shape, groups=1, kernel=kernel)
    return [step._replace(options={**step.options, "links": links.astype(int).tolist()})]


def _kernel_step(layer: Any, x_shape: Shape, y_shape: Shape, *, groups: int, kernel: np.ndarray | None = None) -> Step:
    """Returns a convolution; its kernel is `(*K, C // groups, F)`."""
    arrays = {"kernel": np.asarray(layer.kernel[...]) if kernel is None else kernel}
    if layer.bias is not None:
        arrays["bias"] = np.asarray(layer.bias[...])
    return Step("conv", y_shape, {**_windows(layer, x_shape, y_shape), "groups": int(groups)}, arrays)


def _linear(layer: nnx.Linear, x_shape: Shape, y_shape: Shape) -> list[Step]:
    if len(x_shape) != 1:
        raise Unknown(f"it reads {x_shape}, and the page's dense layers read a vector")
    arrays = {"kernel": np.asarray(layer.kernel[...])}  # (inputs, outputs)
    if layer.bias is not None:
        arrays["bias"] = np.asarray(layer.bias[...])
    return [Step("linear", y_shape, {}, arrays)]


def _max_pool(layer: layers.MaxPool, x_shape: Shape, y_shape: Shape) -> list[Step]:
    if layer.keywords.get("return_indices"):
        raise Unknown("it returns indices")
    return [Step("max_pool", y_shape, _windows(layer, x_shape, y_shape))]


def _avg_pool(layer: layers.AvgPool, x_shape: Shape, y_shape: Shape) -> list[Step]:
    keywords = layer.keywords
    counted = bool(keywords.get("count_include_pad", False))
    if counted and keywords.get("ceil_mode"):
        raise Unknown("it has both count_include_pad and ceil_mode")
    windows = _windows(layer, x_shape, y_shape)
    divisor = keywords.get("divisor_override")
    if divisor is None and counted:
        divisor = int(np.prod(windows["window"]))
    return [Step("avg_pool", y_shape, {**windows, "divisor": divisor})]


def _subsample(layer: layers.Subsample, x_shape: Shape, y_shape: Shape) -> list[Step]:
    arrays = {"factor": np.asarray(layer.factor[...]), "bias": np.asarray(layer.bias[...])}
    return [Step("subsample", y_shape, _windows(layer, x_shape, y_shape), arrays)]


def _batch_norm(layer: nnx.BatchNorm, x_shape: Shape, y_shape: Shape) -> list[Step]:
    channels = x_shape[-1]
    scale = np.ones(channels) if layer.scale is None else layer.scale[...]
    bias = np.zeros(channels) if layer.bias is None else layer.bias[...]
    arrays = {"mean": layer.mean[...], "variance": layer.var[...], "scale": scale, "bias": bias}
    found = {name: np.asarray(array) for name, array in arrays.items()}
    return [Step("batch_norm", x_shape, {"epsilon": float(layer.epsilon)}, found)]


def _batch_norm_max_pool(layer: layers.BatchNormMaxPool, x_shape: Shape, y_shape: Shape) -> list[Step]:
    (norm,) = _batch_norm(layer, x_shape, y_shape)
    pool = Step("max_pool", y_shape, _windows(layer, x_shape, y_shape), {}, "pool")
    return [norm._replace(suffix="norm"), pool]


def _local_response_norm(layer: layers.LocalResponseNorm, x_shape: Shape, y_shape: Shape) -> list[Step]:
    published = {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0}  # the defaults of ops.local_response_norm
    options = {name: float(value) for name, value in {**published, **layer.keywords}.items()}
    return [Step("local_response_norm", y_shape, {**options, "size": int(options["size"])})]


def _rbf(layer: layers.RBF, x_shape: Shape, y_shape: Shape) -> list[Step]:
    return [Step("rbf", y_shape, {}, {"centres": np.asarray(layer.centres[...])})]


def _plain(kind: str) -> Tell:
    return lambda layer, x_shape, y_shape: [Step(kind, y_shape)]


def _windows(layer: nnx.Module, x_shape: Shape, y_shape: Shape) -> dict[str, list[int]]:
    """Returns how a layer's windows lie: tap t of window o reads the input at o * stride + t * dilation - low."""
    if len(x_shape) != 3 or len(y_shape) != 3:
        raise Unknown(f"it reads {x_shape}, and the page knows images (H, W, C) alone")
    costs = costs_of(layer)
    geometry: WindowGeometry | None = None if costs is None else costs.window_geometry(layer, x_shape, y_shape)
    if geometry is None:
        raise Unknown("how its windows lie is not known")
    return {name: [int(number) for number in numbers] for name, numbers in geometry._asdict().items()}


#: By the class itself: a subclass may compute another thing.
KINDS: dict[type, Tell] = {
    layers.Conv: _conv,
    nnx.Conv: _flax_conv,
    layers.DepthwiseConv: _depthwise,
    layers.ConnectedConv: _connected,
    nnx.Linear: _linear,
    layers.MaxPool: _max_pool,
    layers.AvgPool: _avg_pool,
    layers.Subsample: _subsample,
    layers.BatchNorm: _batch_norm,
    nnx.BatchNorm: _batch_norm,
    layers.BatchNormMaxPool: _batch_norm_max_pool,
    layers.LocalResponseNorm: _local_response_norm,
    layers.GlobalAvgPool: _plain("global_avg_pool"),
    layers.GlobalMaxPool: _plain("global_max_pool"),
    layers.RBF: _rbf,
    nnx.Dropout: _plain("dropout"),  # which does nothing here
}
