"""Layers are rows wherever they are called: behind jit, checkpoint, scan, vmap, in threads and in subclasses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cnnjax import describe, layers, ops
from cnnjax.inspect import Row, activations, receptive_regions

CONV = Row("conv (Conv)", (8, 8, 2), 38, 38 * 64, 36 * 64, (3, 3))
POOL = Row("pool (MaxPool)", (4, 4, 2), 0, 4 * 32, 0, (4, 4))
DENSE = Row("dense (Linear)", (3,), 99, 99, 96, (10, 10))


def rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


class Net(nnx.Module):
    """A convolution, a pool and a dense layer, called through a transformation."""

    def __init__(self, through: Callable[..., Any]) -> None:
        self.conv = layers.Conv(2, 2, (3, 3), padding=1, rngs=rngs())
        self.pool = layers.MaxPool(2)
        self.dense = nnx.Linear(32, 3, rngs=rngs())
        self.through = nnx.static(through)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.through(self, x)

    def plain(self, x: jax.Array) -> jax.Array:
        x = self.pool(self.conv(x))
        return self.dense(x.reshape(len(x), -1))


def by_grad(net: Net, x: jax.Array) -> jax.Array:
    return jax.value_and_grad(lambda x: net.plain(x).sum())(x)[1]


THROUGH: dict[str, Callable[[Net, jax.Array], jax.Array]] = {
    "plain": Net.plain,
    "jit": lambda net, x: jax.jit(net.plain)(x),
    "jit of the module": lambda net, x: jax.jit(Net.plain)(net, x),
    "nnx.jit": lambda net, x: nnx.jit(Net.plain)(net, x),
    "checkpoint": lambda net, x: jax.checkpoint(net.plain)(x),
    "nnx.remat": lambda net, x: nnx.remat(Net.plain)(net, x),
    "vmap": lambda net, x: jax.vmap(lambda image: net.plain(image[None])[0])(x),
    "nnx.vmap": lambda net, x: nnx.vmap(lambda n, image: n.plain(image[None])[0], in_axes=(None, 0))(net, x),
    "vmap of the last axis": lambda net, x: jax.vmap(net.plain, -1)(x[..., None])[0],
    "map": lambda net, x: jax.lax.map(lambda image: net.plain(image[None])[0], x),
    "scan": lambda net, x: jax.lax.scan(lambda _, image: (0, net.plain(image[None])[0]), 0, x)[1],
    "cond": lambda net, x: jax.lax.cond(jnp.bool_(True), net.plain, lambda x: jnp.zeros((len(x), 3)), x),
    "switch of nested jits": lambda net, x: jax.jit(jax.jit(jax.checkpoint(net.plain)))(x),
    "custom_vjp": lambda net, x: _custom_vjp(net)(x),
    "grad": by_grad,
}


def _custom_vjp(net: Net) -> Callable[[jax.Array], jax.Array]:
    function = jax.custom_vjp(net.plain)
    function.defvjp(lambda x: (net.plain(x), x), lambda x, dy: (jnp.zeros_like(x),))
    return function


@pytest.mark.parametrize("name", THROUGH)
def test_the_rows_are_those_of_the_plain_call(name: str) -> None:
    assert describe(Net(THROUGH[name]), (8, 8, 2)) == [CONV, POOL, DENSE]


def test_a_batch_through_vmap_counts_one_example() -> None:
    assert describe(Net(THROUGH["vmap"]), (5, 8, 8, 2)) == [CONV, POOL, DENSE]


def test_regions_behind_transformations() -> None:
    expected = receptive_regions(Net(Net.plain), (8, 8, 2))
    assert [region.pixels for region in expected] == [((3, 6), (3, 6)), ((3, 7), (3, 7))]
    for name in ("nnx.remat", "vmap", "nnx.jit"):
        assert receptive_regions(Net(THROUGH[name]), (8, 8, 2)) == expected


class Stack(nnx.Module):
    """Blocks whose parameters are stacked, called by nnx.scan."""

    def __init__(self, depth: int) -> None:
        make = nnx.vmap(lambda rngs: layers.Conv(2, 2, (3, 3), padding=1, rngs=rngs))
        self.block = make(nnx.Rngs(0).split(depth))

    def __call__(self, x: jax.Array) -> jax.Array:
        return nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)(self.block, x)


def test_scan_over_layers_is_one_row_with_all_of_its_calls() -> None:
    """Three 3x3 convolutions see 7 pixels."""
    assert describe(Stack(3), (8, 8, 2)) == [Row("block (Conv)", (8, 8, 2), 3 * 38, 3 * 38 * 64, 3 * 36 * 64, (7, 7))]


def test_loops_with_one_layer() -> None:
    class Loop(nnx.Module):
        def __init__(self, run: Callable[..., jax.Array]) -> None:
            self.conv = layers.Conv(2, 2, (3, 3), padding=1, rngs=rngs())
            self.run = nnx.static(run)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.run(self.conv, x)

    def until_large(conv: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.max() < 10, conv, x)

    counted = describe(Loop(lambda conv, x: jax.lax.fori_loop(0, 4, lambda _, x: conv(x), x)), (8, 8, 2))
    assert counted == [CONV._replace(connections=4 * 38 * 64, macs=4 * 36 * 64, receptive_field=(9, 9))]
    (row,) = describe(Loop(until_large), (8, 8, 2))
    assert (row.macs, row.receptive_field) == (36 * 64, None), "one step, and nobody knows how many there are"
    long = describe(Loop(lambda conv, x: jax.lax.fori_loop(0, 10**6, lambda _, x: conv(x), x)), (8, 8, 2))
    assert (long[0].macs, long[0].receptive_field) == (10**6 * 36 * 64, None), (
        "fields that grow are followed for so long"
    )


def test_patches_of_an_image_count_each() -> None:
    class Patches(nnx.Module):
        def __init__(self) -> None:
            self.conv = layers.Conv(1, 2, (2, 2), rngs=rngs())

        def __call__(self, x: jax.Array) -> jax.Array:
            x = x.reshape(len(x), 2, 4, 8, 1)
            return jax.vmap(self.conv, 1)(x)

    (row,) = describe(Patches(), (8, 8, 1))
    assert (row.output, row.macs) == ((3, 7, 2), 2 * 3 * 7 * 8)


def test_a_shared_function_under_jit_is_a_row_for_each_call() -> None:
    class Twice(nnx.Module):
        def __init__(self) -> None:
            self.conv = layers.Conv(2, 2, (3, 3), padding=1, rngs=rngs())

        def __call__(self, x: jax.Array) -> jax.Array:
            step = jax.jit(self.conv.__call__)
            return step(step(x))

    model = Twice()
    expected = [CONV, CONV._replace(params=0, receptive_field=(5, 5))]
    assert describe(model, (8, 8, 2)) == expected == describe(model, (8, 8, 2))


def test_threads_do_not_meet() -> None:
    nets = [Net(THROUGH[name]) for name in ("plain", "nnx.jit", "vmap", "checkpoint")] * 2
    found: list[Any] = [None] * len(nets)

    def look(i: int) -> None:
        found[i] = describe(nets[i], (8, 8, 2))

    threads = [threading.Thread(target=look, args=(i,)) for i in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[CONV, POOL, DENSE]] * len(nets)


def test_classes_and_models_are_left_alone() -> None:
    model = Net(Net.plain)
    kinds = [layers.Conv, layers.MaxPool, layers.KernelLayer, nnx.Linear]
    before, graph = [dict(vars(kind)) for kind in kinds], nnx.graphdef(model)
    describe(model, (8, 8, 2))
    activations(model, jnp.ones((1, 8, 8, 2)))
    assert before == [dict(vars(kind)) for kind in kinds]
    assert graph == nnx.graphdef(model) and type(model.conv) is layers.Conv


class Attention(layers.Conv):
    """A convolution with a norm and a dense layer of its own within."""

    def __init__(self) -> None:
        super().__init__(2, 2, (3, 3), padding=1, rngs=rngs())
        self.norm = layers.BatchNorm(2, rngs=rngs())
        self.gate = nnx.Linear(2, 2, rngs=rngs())

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm(super().__call__(x))
        return y * self.gate(y.mean((1, 2), keepdims=True))


def test_a_subclass_with_layers_of_its_own() -> None:
    """The gate sees the whole: 8 steps of 1, and a window of 3, padding included."""
    assert describe(Attention(), (8, 8, 2)) == [
        Row("Attention", (8, 8, 2), 38, 38 * 64, 36 * 64, (10, 10)),
        Row("norm (BatchNorm)", (8, 8, 2), 4, 2 * 128, 128, (3, 3)),
        Row("gate (Linear)", (1, 1, 2), 6, 6, 4, (10, 10)),
    ]


def test_low_rank_adapters() -> None:
    linear = describe(nnx.LoRALinear(6, 4, lora_rank=2, rngs=rngs()), (6,))
    assert [row[:5] for row in linear] == [("LoRALinear", (4,), 28, 28, 24), ("lora (LoRA)", (4,), 20, 20, 20)]
    base = nnx.Linear(6, 4, rngs=rngs())
    wrapped = describe(nnx.LoRA(6, 2, 4, base_module=base, rngs=rngs()), (6,))
    assert [row[:5] for row in wrapped] == [("LoRA", (4,), 20, 20, 20), ("base_module (Linear)", (4,), 28, 28, 24)]
    assert wrapped.total.params == 48


def test_tied_weights_count_once() -> None:
    first, second = nnx.Linear(5, 5, rngs=rngs()), nnx.Linear(5, 5, rngs=rngs())
    second.kernel = first.kernel
    model = nnx.Sequential(first, second)
    table = describe(model, (5,))
    assert [row.params for row in table] == [30, 5]
    assert table.total.params == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 35


def test_parameters_in_lists_and_dicts_and_of_layers_never_called() -> None:
    class Odd(nnx.Module):
        def __init__(self) -> None:
            self.scales = nnx.List([nnx.Param(jnp.ones(2)), nnx.Param(jnp.ones(3))])
            self.more = nnx.data({"a": nnx.Param(jnp.ones(4))})
            self.idle = nnx.Linear(2, 2, rngs=rngs())

        def __call__(self, x: jax.Array) -> jax.Array:
            return x * self.scales[0][...] + self.more["a"][...].sum()

    assert describe(Odd(), (2,)).total.params == 2 + 3 + 4 + 6


def test_a_layer_that_does_not_see_the_image_is_a_row() -> None:
    class Prior(nnx.Module):
        def __init__(self) -> None:
            self.dense = nnx.Linear(3, 4, rngs=rngs())

        def __call__(self, x: jax.Array) -> jax.Array:
            return x + self.dense(jnp.ones((1, 3)))[:, None, None]

    assert describe(Prior(), (5, 5, 4)) == [Row("dense (Linear)", (4,), 16, 16, 12, (0, 0))]


def test_a_layer_of_ones_own_says_what_it_costs() -> None:
    class Shift(layers.Layer):
        def __call__(self, x: jax.Array) -> jax.Array:
            return jnp.roll(x, 1, 1)

        def counts(self, x_shape: tuple[int, ...], y_shape: tuple[int, ...]) -> Any:
            return super().counts(x_shape, y_shape)._replace(macs=7)

    assert describe(Shift(), (4, 4, 1)) == [Row("Shift", (4, 4, 1), 0, 0, 7, None)]


def test_flax_layers_count_as_flax_calls_them() -> None:
    model = nnx.Sequential(
        nnx.ConvTranspose(2, 3, (2, 2), strides=2, rngs=rngs()),
        nnx.RMSNorm(3, rngs=rngs()),
        nnx.LinearGeneral(3, (2, 2), rngs=rngs()),
    )
    assert describe(model, (4, 4, 2)) == [
        Row("layers.0 (ConvTranspose)", (8, 8, 3), 27, 16 * 24 + 192, 16 * 24, (1, 1)),
        Row("layers.1 (RMSNorm)", (8, 8, 3), 3, 192, 192, (1, 1)),
        Row("layers.2 (LinearGeneral)", (8, 8, 2, 2), 16, 64 * 12 + 256, 64 * 12, (1, 1)),
    ]


def test_frames_of_a_video_through_a_flax_convolution() -> None:
    """nnx.Conv takes any number of batch axes; (T, H, W, C) of one example has one more."""

    class Video(nnx.Module):
        def __init__(self) -> None:
            self.conv = nnx.Conv(1, 2, (3, 3), rngs=rngs())

        def __call__(self, x: jax.Array) -> jax.Array:
            if x.ndim != 5:
                raise ValueError("x must be (N, T, H, W, C)")
            return self.conv(x)

    (row,) = describe(Video(), (5, 8, 8, 1))
    assert (row.output, row.macs, row.receptive_field) == ((5, 8, 8, 2), 5 * 64 * 18, (1, 3, 3))


def test_a_prompt_shows_the_table_once(capsys: pytest.CaptureFixture[str]) -> None:
    table = describe(Net(Net.plain), (8, 8, 2))
    printed = capsys.readouterr().out
    assert printed == f"{table}\n" and "conv (Conv)" in printed
    assert repr(table) == "<Table of 3 rows, 137 parameters>"


def test_activations_behind_a_transformation_are_refused_by_name() -> None:
    x = jnp.ones((1, 8, 8, 2))
    with pytest.raises(ValueError, match=r"conv \(Conv\) must be called outside of jit"):
        activations(Net(THROUGH["jit"]), x)
    assert activations(Net(Net.plain), x)[0].output.shape == (1, 8, 8, 2)


def test_ops_as_functions_beside_layers_count_no_rows() -> None:
    table = describe(nnx.Sequential(lambda x: ops.max_pool(x, 2), layers.Conv(1, 1, (3, 3), rngs=rngs())), (8, 8, 1))
    assert [(row.layer, row.receptive_field) for row in table] == [("layers.1 (Conv)", (6, 6))]
