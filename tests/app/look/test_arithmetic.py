"""What the page computes in a browser, against JAX: every layer of every net, and each kind of layer by itself."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import layers, models, ops
from cnnjax.app.look.graph import Node, read_graph
from cnnjax.app.look.page import base64_of, encode
from cnnjax.inspect.trace import Recorder, for_evaluation

#: Of the largest value of each layer.
TOLERANCE = 1e-4

NETS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "LeNet-5": ({"name": "lenet5"}, (32, 32, 1)),
    "LeNet-5, classic": ({"name": "lenet5", "variant": "classic"}, (32, 32, 1)),
    "LeNet-5 of 1998": ({"name": "lenet5-1998"}, (32, 32, 1)),
    "MNIST net": ({"name": "mnist_cnn"}, (28, 28, 1)),
    "MNIST net, strides": ({"name": "mnist_cnn", "downsample": "stride"}, (28, 28, 1)),
    "CIFAR net": ({"name": "cifar_cnn", "widths": (8, 16)}, (32, 32, 3)),
    "CIFAR net of flax's layers": ({"name": "cifar_cnn", "widths": (8, 16), "conv": "flax"}, (32, 32, 3)),
    "CIFAR net, batch norm": ({"name": "cifar_cnn", "batch_norm": True}, (32, 32, 3)),
    "AlexNet": ({"name": "alexnet", "size": 63, "width": 12, "dense": 32}, (63, 63, 3)),
    "AlexNet of one tower": (
        {"name": "alexnet", "form": "one-tower", "size": 63, "width": 8, "dense": 32},
        (63, 63, 3),
    ),
    "VGG-11, batch norm": (
        {"name": "vgg", "depth": 11, "width": 4, "size": 32, "dense": 16, "batch_norm": True},
        (32, 32, 3),
    ),
    "ResNet-18": ({"name": "resnet18", "width": 4}, (32, 32, 3)),
    "ResNet-50": ({"name": "resnet50", "width": 2}, (32, 32, 3)),
}

#: Long to compile, and without a layer that the others lack.
SLOW = ("MNIST net, strides", "CIFAR net of flax's layers", "AlexNet of one tower", "ResNet-50")

RUN = """
const [told, weights, images, count, wanted] = arguments, nodes = decode.nodes(told, weights);
const all = new Float32Array(decode.bytes(images).buffer), each = all.length / count, outputs = {};
for (const number of wanted) outputs[number] = new Float32Array(count * layers.size(nodes[number].shape));
for (let i = 0; i < count; i++) {
  const values = layers.run(nodes, all.subarray(i * each, (i + 1) * each));
  for (const number of wanted) outputs[number].set(values[number], i * values[number].length);
}
const base64 = (array) => { let text = ""; for (const byte of new Uint8Array(array.buffer)) text += String.fromCharCode(byte); return btoa(text); };
return Object.fromEntries(Object.entries(outputs).map(([number, array]) => [number, base64(array)]));
"""  # noqa: E501


def in_browser(browser, graph: Sequence[Node], x: np.ndarray, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """What the nodes of these numbers give, (N, *shape)."""
    nodes, weights = encode(graph)
    found = browser.execute_script(RUN, nodes, weights, base64_of(x), len(x), list(numbers))
    return {
        int(number): np.frombuffer(base64.b64decode(text), "<f4").reshape(len(x), *graph[int(number)].step.shape)
        for number, text in found.items()
    }


def assert_close(found: np.ndarray, wanted: Any, name: str) -> None:
    wanted = np.asarray(wanted, np.float32)
    assert found.shape == wanted.shape, name
    assert np.abs(wanted).max() > 0, f"{name} is zero: the comparison would say nothing"
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max(), name


def with_statistics(model: nnx.Module) -> nnx.Module:
    """The model in evaluation mode, its batch norms with statistics, scales and biases of their own."""
    rng = np.random.default_rng(1)
    model.eval()
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, nnx.BatchNorm):
            assert norm.scale is not None and norm.bias is not None
            for variable, low, high in (
                (norm.mean, -1, 1),
                (norm.var, 0.5, 2),
                (norm.scale, 0.5, 2),
                (norm.bias, -1, 1),
            ):
                variable[...] = jnp.asarray(rng.uniform(low, high, variable.shape), jnp.float32)
    return model


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETS])
def test_every_layer_of_a_net(scripts, name: str) -> None:
    """On ten images, each layer's own output, and the net's."""
    config, shape = NETS[name]
    model = with_statistics(models.build({"model": config, "seed": 3}))
    x = np.random.default_rng(0).normal(size=(10, *shape)).astype(np.float32)
    graph = read_graph(model, shape)
    ends = [number for number, node in enumerate(graph) if node.ends_layer]
    outputs, output = outputs_of_layers(model, x)
    last = len(graph) - 1
    found = in_browser(scripts, graph, x, [*ends, last])
    for number, wanted in zip(ends, outputs, strict=True):
        assert_close(found[number], wanted, graph[number].name)
    assert_close(found[last], output, "output")


def outputs_of_layers(model: nnx.Module, x: np.ndarray) -> tuple[list[jax.Array], jax.Array]:
    """What each layer gives, as `inspect.activations` has it, and the net: of one compilation."""

    def run(x: jax.Array) -> Any:
        copy, recorder = for_evaluation(model), Recorder(keep_outputs=True)
        recorder.watch(copy)
        output = copy(x)
        return recorder.outputs, output

    return jax.jit(run)(x)


KINDS: dict[str, nnx.Module | Any] = {
    "conv": layers.Conv(
        4, 6, (3, 2), stride=(2, 1), padding=((1, 2), (0, 3)), dilation=(1, 2), groups=2, rngs=nnx.Rngs(0)
    ),
    "conv without bias": layers.Conv(4, 6, (3, 3), padding="SAME", stride=2, use_bias=False, rngs=nnx.Rngs(0)),
    "flax conv": nnx.Conv(4, 6, (3, 3), strides=2, kernel_dilation=2, feature_group_count=2, rngs=nnx.Rngs(0)),
    "depthwise": layers.DepthwiseConv(4, (3, 3), multiplier=2, padding=1, rngs=nnx.Rngs(0)),
    "connected": layers.ConnectedConv(np.array([[1, 0], [0, 1], [1, 1], [0, 1]], bool), (3, 3), rngs=nnx.Rngs(0)),
    "max_pool": layers.MaxPool((3, 2), stride=2, padding=((1, 0), (0, 1))),
    "max_pool, ceil": layers.MaxPool(2, stride=3, padding=0, ceil_mode=True),
    "max_pool, dilation": layers.MaxPool(2, stride=1, dilation=3),
    "avg_pool": layers.AvgPool(3, stride=2, padding=1),
    "avg_pool, padding counts": layers.AvgPool(3, stride=2, padding=1, count_include_pad=True),
    "avg_pool, divisor": layers.AvgPool(3, divisor_override=7),
    "subsample": layers.Subsample(4, (2, 3), factor_init=nnx.initializers.normal(), rngs=nnx.Rngs(0)),
    "lrn": layers.LocalResponseNorm(size=4, alpha=0.3, beta=0.5, k=1.0),
    "lrn, published": layers.LocalResponseNorm(),
    "mean": layers.GlobalAvgPool(),
    "maximum": layers.GlobalMaxPool(),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_layer(scripts, name: str) -> None:
    x = np.random.default_rng(0).normal(size=(2, 11, 10, 4)).astype(np.float32)
    model = nnx.Sequential(KINDS[name])
    graph = read_graph(model, x.shape[1:])
    found = in_browser(scripts, graph, x, [len(graph) - 1])
    assert_close(found[len(graph) - 1], model(jnp.asarray(x)), name)


class Between(nnx.Module):
    """What stands between layers."""

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(x) + ops.scaled_tanh(x)
        return jnp.tanh(-(jax.nn.sigmoid(y) * 3.0).reshape(len(x), -1)) + jnp.exp(x.reshape(len(x), -1))


def test_functions_between_layers(scripts) -> None:
    x = np.random.default_rng(0).normal(size=(3, 5, 4, 2)).astype(np.float32)
    graph = read_graph(Between(), x.shape[1:])
    kinds = [node.step.kind for node in graph[1:]]
    assert sorted(kinds) == sorted(
        ["relu", "scaled_tanh", "add", "sigmoid", "scale", "flatten", "negate", "tanh", "flatten", "exp", "add"]
    )
    found = in_browser(scripts, graph, x, [len(graph) - 1])
    assert_close(found[len(graph) - 1], Between()(jnp.asarray(x)), "output")


def test_receptive_fields_are_where_the_gradient_is(scripts) -> None:
    """A unit sees the pixels that its derivative is not zero for, and a pixel reaches these units."""
    model = nnx.Sequential(
        layers.Conv(1, 3, (3, 3), stride=2, padding=1, rngs=nnx.Rngs(0)),
        layers.AvgPool(2, stride=1),
        layers.Conv(3, 2, (2, 2), dilation=2, rngs=nnx.Rngs(1)),
    )
    shape = (13, 12, 1)
    graph = read_graph(model, shape)
    nodes, weights = encode(graph)
    last = len(graph) - 1
    rows, columns, _ = graph[last].step.shape
    derivative = np.abs(np.asarray(jax.jacobian(lambda x: model(x[None])[0].sum(-1))(jnp.ones(shape, jnp.float32))))
    depends = derivative[..., 0] > 0  # (rows, columns, 13, 12)
    assert 0 < depends.mean() < 1
    seen = scripts.execute_script(
        "const [told, weights, node, H, W] = arguments, nodes = decode.nodes(told, weights), found = [];"
        "for (let y = 0; y < H; y++) for (let x = 0; x < W; x++)"
        " found.push([...layers.seenBy(nodes, {node, y, x, c: 0})]);"
        "return found;",
        *(nodes, weights, last, rows, columns),
    )
    np.testing.assert_array_equal(np.reshape(seen, depends.shape).astype(bool), depends)
    reached = scripts.execute_script(
        "const [told, weights, node, H, W] = arguments, nodes = decode.nodes(told, weights), found = [];"
        "for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) found.push([...layers.reachedBy(nodes, y, x)[node]]);"
        "return found;",
        *(nodes, weights, last, *shape[:2]),
    )
    by_pixel = np.moveaxis(depends, (0, 1), (2, 3))
    np.testing.assert_array_equal(np.reshape(reached, by_pixel.shape).astype(bool), by_pixel)
