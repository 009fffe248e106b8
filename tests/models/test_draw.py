"""All weights of a net drawn by one program: the bits of the many programs that JAX makes of the same calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax import models
from cnnjax.models.alexnet import scaled_normal
from cnnjax.models.draw import draw_at_once

COMPILED = "/jax/core/compile/backend_compile_duration"


@contextmanager
def compiled() -> Iterator[list[str]]:
    """The names of the programs that are compiled meanwhile."""
    names: list[str] = []

    def listen(event: str, _: float, **details: object) -> None:
        if event == COMPILED:
            names.append(str(details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def bits(model: nnx.Module) -> dict[str, bytes]:
    leaves = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def test_one_program_draws_lenet5_for_every_seed_to_the_bit() -> None:
    config = {"model": {"name": "lenet5", "num_classes": 7}, "seed": 3}
    with compiled() as names:
        first, second = models.build(config), models.build({**config, "seed": 4})
    assert names == ["jit(draw)"]
    assert bits(first) == bits(models.LeNet5(7, dtype="float32", rngs=nnx.Rngs(3)))
    assert bits(second) == bits(models.LeNet5(7, dtype="float32", rngs=nnx.Rngs(4))) != bits(first)
    assert nnx.graphdef(first) == nnx.graphdef(models.LeNet5(7, dtype="float32", rngs=nnx.Rngs(3)))


def test_within_a_program_a_net_is_drawn_as_it_is() -> None:
    shapes = nnx.eval_shape(lambda: draw_at_once(nnx.Linear, {"in_features": 3, "out_features": 5}, 0))
    assert shapes.kernel.shape == (3, 5)


def test_alexnets_weights_are_those_of_variance_scaling_in_any_program() -> None:
    key, shape = jax.random.key(0), (3, 3, 8, 16)
    alone = scaled_normal(0.02)(key, shape, jnp.float32)
    np.testing.assert_array_equal(jax.jit(scaled_normal(0.02), static_argnums=(1, 2))(key, shape, jnp.float32), alone)
    expected = nnx.initializers.variance_scaling(0.02, "fan_in", "normal")(key, shape, jnp.float32)
    np.testing.assert_array_max_ulp(np.asarray(alone), np.asarray(expected), maxulp=2)
