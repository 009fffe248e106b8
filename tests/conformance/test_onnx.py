"""ONNX's conformance data of single operators; slow, and skipped where onnx is absent."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from tests.conformance.comparison import CASES, Comparison
from tests.conformance.functional import first, last, local_response_norm, turned

pytestmark = pytest.mark.slow


def onnx_window(a, rank):
    """The keywords that ONNX's convolutions and pools share; its pads are all lows, then all highs."""
    pads = a.get("pads", [0] * 2 * rank)
    auto = a.get("auto_pad", "NOTSET")
    padding = [*zip(pads[:rank], pads[rank:], strict=True)]
    padding = {"NOTSET": padding, "SAME_UPPER": "SAME"}.get(auto, auto)
    ones = [1] * rank
    return {"stride": a.get("strides", ones), "dilation": a.get("dilations", ones), "padding": padding}


def onnx_pool(op, **more):
    def call(a, x):
        rank = x.ndim - 2
        keywords = {name: a[name] for name in more if name in a}
        keywords = {name: more[name](value) for name, value in keywords.items()}
        y = op(last(x), a["kernel_shape"], **onnx_window(a, rank), **keywords)
        return jax.tree.map(first, y)

    return call


def onnx_max_pool(a, x):
    rank = x.ndim - 2
    ceil_mode = bool(a.get("ceil_mode", 0))
    y, index = ops.max_pool(
        last(x), a["kernel_shape"], **onnx_window(a, rank), ceil_mode=ceil_mode, return_indices=True
    )
    n, channels, *sizes = x.shape
    if a.get("storage_order"):  # column-major within the plane
        index = jnp.ravel_multi_index(jnp.unravel_index(index, sizes)[::-1], sizes[::-1], mode="clip")
    # ONNX's indices are flat in the whole tensor
    image = np.arange(n * channels).reshape(n, channels, *(1,) * rank)
    return first(y), first(index) + image * math.prod(sizes)


def onnx_conv_transpose(a, y, w, b=None):
    rank = y.ndim - 2
    keywords = onnx_window(a, rank)
    if "output_shape" in a:
        # the pads follow from the shape, what does not divide evenly at the start; output_padding is at the end
        padding = []
        for axis, size in enumerate(a["output_shape"]):
            more = a["output_padding"][axis] if "output_padding" in a else 0
            reach = (w.shape[2 + axis] - 1) * keywords["dilation"][axis] + 1
            total = (y.shape[2 + axis] - 1) * keywords["stride"][axis] + reach + more - size
            padding.append((total - total // 2, total // 2 - more))
        keywords["padding"] = padding
    else:
        keywords["output_padding"] = a.get("output_padding", 0)
    return first(ops.conv_transpose(last(y), turned(w), b, groups=a.get("group", 1), **keywords))


def onnx_max_unpool(a, x, indices, output_shape=None):
    rank, n, channels = x.ndim - 2, *x.shape[:2]
    sizes = onnx_window(a, rank)
    plain = [(size - 1) * s + k - low - high for size, s, k, (low, high) in zip(
        x.shape[2:], sizes["stride"], a["kernel_shape"], sizes["padding"], strict=True)]  # fmt: skip
    plane = math.prod(plain)
    image = np.arange(n * channels).reshape(n, channels, *(1,) * rank) * plane
    # the indices speak of the shape without output_shape, whatever that is
    place = np.unravel_index(np.asarray(indices) - image, plain)
    sizes = plain if output_shape is None else [int(size) for size in output_shape[2:]]
    index = jnp.asarray(np.ravel_multi_index(place, sizes))
    return first(ops.max_unpool(last(x), last(index), sizes))


def onnx_pad(a, x, pads, value=None, axes=None):
    pads, axes = np.asarray(pads), range(x.ndim) if axes is None else np.asarray(axes) % x.ndim
    pairs = [(0, 0)] * x.ndim
    for axis, low, high in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        pairs[axis] = int(low), int(high)
    assert pairs[:2] == [(0, 0)] * 2, "batch and channels are not padded"
    mode = {"constant": "zeros", "edge": "replicate", "wrap": "circular"}.get(a.get("mode", "constant"), "reflect")
    return first(ops.pad(last(x), pairs[2:], mode=mode, value=0.0 if value is None else float(value)))


def onnx_col2im(a, cols, image, block):
    rank = len(image)
    keywords = onnx_window(a, rank)
    sizes, window = [int(i) for i in image], [int(i) for i in block]
    n, _, places = cols.shape
    cols = cols.reshape(n, -1, math.prod(window), places).transpose(0, 3, 2, 1)
    cols = cols.reshape(n, *ops.output_shape(sizes, window, **keywords), math.prod(cols.shape[2:]))
    return first(ops.fold(cols, sizes, window, **keywords))


def dealt(x, piles):
    """ONNX's mode DCR has the place in the block before the channel, ours (CRD) after: one deal apart."""
    return first(ops.channel_shuffle(last(x), piles))


def onnx_depth_to_space(a, x):
    r = a["blocksize"]
    x = x if a.get("mode", "DCR") == "CRD" else dealt(x, r * r)
    return first(ops.pixel_shuffle(last(x), r))


def onnx_space_to_depth(a, x):
    y = first(ops.pixel_unshuffle(last(x), a["blocksize"]))
    return y if a.get("mode", "DCR") == "CRD" else dealt(y, x.shape[1])


def of_one(op, **names):
    """An activation; names turn ONNX's attributes into ours."""
    return lambda a, x: op(x, **{ours: a[theirs] for theirs, ours in names.items() if theirs in a})


#: Per operator its attributes and inputs as a call of ours.
ONNX = {
    "AveragePool": onnx_pool(ops.avg_pool, ceil_mode=bool, count_include_pad=bool),
    "Celu": of_one(ops.celu, alpha="alpha"),
    "Col2Im": onnx_col2im,
    "Conv": lambda a, x, w, b=None: first(
        ops.conv(last(x), turned(w), b, groups=a.get("group", 1), **onnx_window(a, x.ndim - 2))
    ),
    "ConvTranspose": onnx_conv_transpose,
    "DepthToSpace": onnx_depth_to_space,
    "Elu": of_one(ops.elu, alpha="alpha"),
    "Gelu": of_one(ops.gelu, approximate="approximate"),
    "GlobalAveragePool": lambda a, x: jnp.expand_dims(ops.global_avg_pool(last(x)), tuple(range(2, x.ndim))),
    "GlobalMaxPool": lambda a, x: jnp.expand_dims(ops.global_max_pool(last(x)), tuple(range(2, x.ndim))),
    # its default slope is 0.2, Keras's of old; ours is PyTorch's and jax.nn's 1/6
    "HardSigmoid": lambda a, x: ops.hard_tanh(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0.0, 1.0),
    "HardSwish": of_one(ops.hard_swish),
    "LRN": lambda a, x: local_response_norm(x, a["size"], a.get("alpha", 1e-4), a.get("beta", 0.75), a.get("bias", 1)),
    "LeakyRelu": lambda a, x: ops.leaky_relu(x, a.get("alpha", 0.01)),
    "LogSoftmax": of_one(ops.log_softmax, axis="axis"),
    "LpPool": onnx_pool(ops.lp_pool, p=float, ceil_mode=bool),
    "MaxPool": onnx_max_pool,
    "MaxUnpool": onnx_max_unpool,
    "Mish": of_one(ops.mish),
    "PRelu": lambda a, x, slope: ops.prelu(x, slope),
    "Pad": onnx_pad,
    "Relu": of_one(ops.relu),
    # any alpha and gamma there; selu has the paper's
    "Selu": lambda a, x: a.get("gamma", 1.0507009873554805) * ops.elu(x, a.get("alpha", 1.6732632423543772)),
    # lambd and a bias apart
    "Shrink": lambda a, x: (
        ops.hardshrink(x, a.get("lambd", 0.5)) - a.get("bias", 0.0) * jnp.sign(ops.hardshrink(x, a.get("lambd", 0.5)))
    ),
    "Sigmoid": of_one(ops.sigmoid),
    "Softmax": of_one(ops.softmax, axis="axis"),
    "Softplus": of_one(ops.softplus),
    "Softsign": of_one(ops.softsign),
    "SpaceToDepth": onnx_space_to_depth,
    "Swish": lambda a, x: ops.silu(a.get("alpha", 1.0) * x) / a.get("alpha", 1.0),
    "Tanh": of_one(ops.tanh),
    "ThresholdedRelu": lambda a, x: ops.threshold(x, a.get("alpha", 1.0)),
}


def test_onnx():
    helper = pytest.importorskip("onnx").helper
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    failures, seen = [], set()
    for case in cases:
        if len(case.model.graph.node) != 1 or case.model.graph.node[0].op_type not in ONNX:
            continue
        node = case.model.graph.node[0]
        seen.add(node.op_type)
        comparison = Comparison(f"onnx {node.op_type}")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        attributes = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
        for inputs, outputs in case.data_sets:
            CASES[comparison.name, "float32"] += 1
            given = iter(inputs)
            arrays = [jnp.asarray(next(given)) if name else None for name in node.input]
            try:
                result = ONNX[node.op_type](attributes, *arrays)
            except (ValueError, TypeError) as error:
                comparison.refused(error, case.name)
                result = ()
            results = result if isinstance(result, tuple) else (result,)
            for ours, theirs in zip(results, outputs, strict=False):
                # this one's data are printed with four digits
                tolerance = 1e-4 if case.name == "test_averagepool_2d_ceil_last_window_starts_on_pad" else None
                comparison.equal(case.name, ours, theirs, "float32", tolerance)
        failures += comparison.failures
    assert not failures, "\n".join(failures)
    assert seen == set(ONNX), set(ONNX) - seen
