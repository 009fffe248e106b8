"""How a net is read off its program: which nodes there are, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import layers, models
from cnnjax.app.look.graph import read_graph
from cnnjax.app.look.page import assemble, encode
from cnnjax.errors import UserError
from cnnjax.models.resnet import Residual


def test_the_nodes_of_lenet5_of_1998() -> None:
    """In the paper's order, each scaled tanh as the one function that it is."""
    graph = read_graph(models.build({"model": {"name": "lenet5-1998"}}), (32, 32, 1))
    squash = "scaled_tanh"
    assert [node.name.split(" ")[0] for node in graph] == [
        "input", "c1", squash, "s2", squash, "c3", squash, "s4", squash, "c5", squash, "flatten", "f6", squash,
        "output", "negate",
    ]  # fmt: skip
    assert [node.inputs for node in graph] == [[], *([number] for number in range(len(graph) - 1))]
    slope, amplitude = (graph[2].step.options[name] for name in ("slope", "amplitude"))
    assert (round(slope, 6), round(amplitude, 6)) == (0.666667, 1.7159)
    assert np.asarray(graph[5].step.options["links"]).sum(0).tolist() == [3] * 6 + [4] * 9 + [6]


def test_a_residual_block_adds_what_it_read() -> None:
    """As it is, and where the shape changes through a convolution."""
    blocks = [Residual(2, width, stride, dtype=None, rngs=nnx.Rngs(0)) for width, stride in ((2, 1), (3, 2))]
    graph = read_graph(nnx.Sequential(*blocks), (8, 8, 2))
    names = [node.name for node in graph]
    added = [[names[number] for number in node.inputs] for node in graph if node.step.kind == "add"]
    assert added == [
        ["layers.0.second.norm", "input"],
        ["layers.1.second.norm", "layers.1.shortcut.norm"],
    ]
    assert len({*names}) == len(names)


class Own(nnx.Module):
    """A convolution, and what is made of it."""

    def __init__(self, after: Callable[[jax.Array], jax.Array] | nnx.Module, **keywords):
        self.conv = layers.Conv(1, 2, (3, 3), rngs=nnx.Rngs(0), **keywords)
        self.after = nnx.static(after) if not isinstance(after, nnx.Module) else after

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.after(self.conv(x))


def crossed(y: jax.Array) -> jax.Array:
    half, squashed = 0.5 * y, 2.0 * jnp.tanh(y)
    return (half + squashed) + half


def read_twice(y: jax.Array) -> jax.Array:
    squashed = jnp.tanh(2.0 * y)
    return 3.0 * squashed + squashed


@pytest.mark.parametrize("after", [crossed, read_twice])
def test_what_is_read_elsewhere_too_is_not_joined(after: Callable[[jax.Array], jax.Array]) -> None:
    graph = read_graph(Own(after), (8, 8, 1))
    kinds = [node.step.kind for node in graph]
    assert "scaled_tanh" not in kinds and kinds.count("tanh") == 1
    assert all(read < number for number, node in enumerate(graph) for read in node.inputs)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Own(lambda y: (8 * y).astype(jnp.int32).astype(jnp.float32)), "it computes 'convert_element_type'"),
        (Own(layers.MinPool(2)), r"the layer after \(MinPool\): the class MinPool is not among those that it knows"),
        (Own(jnp.sin), "after conv it computes 'sin', which is not among what it knows between layers"),
        (Own(lambda y: y.mean((1, 2))), "after conv it computes 'reduce_sum'"),
        (Own(lambda y: y.reshape(len(y), 18, 4)), r"'reshape', from \(6, 6, 2\) to \(18, 4\)"),
        (Own(jax.nn.relu, padding=1, padding_mode="reflect"), r"layer conv \(Conv\): its padding_mode is 'reflect'"),
        (Own(jax.nn.relu, input_dilation=2), r"the layer conv \(Conv\): its input_dilation is 2"),
        (Own(lambda y: jnp.zeros((1, 3))), "its output does not depend on the image"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(model: nnx.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_graph(model, (8, 8, 1))


def test_too_many_weights_are_refused() -> None:
    graph = read_graph(nnx.Sequential(nnx.Linear(2000, 1300, rngs=nnx.Rngs(0))), (2000,))
    with pytest.raises(UserError, match=r"its weights take 10\.4 MB, and a page has up to 10 MB"):
        encode(graph)


def test_no_name_ends_the_script_that_holds_it() -> None:
    """Nor is a placeholder in the data taken for one of the template."""
    page = assemble("a < b", {"classes": ["</script><b>", "[[script]]"]})
    assert "<title>a &lt; b</title>" in page
    assert r'"\u003c/script>\u003cb>","[[script]]"' in page
    assert page.count("</script>") == 2
