"""A step lowered and compiled for this machine's CPU in place of a GPU, and told in words and a picture."""

from __future__ import annotations

from typing import Any

import jax
import optax
import pytest
from flax import nnx

from cnnjax import plan
from cnnjax.errors import UserError
from cnnjax.inspect import Table, layer_table
from cnnjax.plan import text


class Dense(nnx.Module):
    """Two products and dropout: compiled in no time."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.drop(nnx.relu(self.first(x.reshape(len(x), 16)))))


def table() -> Table:
    tables = []

    def trace() -> None:
        tables.append(layer_table(Dense(), (4, 4, 1)))

    jax.eval_shape(trace)
    return tables[0]


def lowered(batch_size: int = 6, **options: Any) -> jax.stages.Lowered:
    devices = jax.devices()[:1]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax and flax promote
        return plan.lower_update(
            Dense, optax.adam(1e-3), devices, example_shape=(4, 4, 1), batch_size=batch_size, **options
        )


@pytest.fixture(scope="module")
def estimate() -> plan.Estimate:
    return plan.estimate(plan.parse("gpu:h100"), lowered(), table(), "float32", 6)


def test_what_a_step_needs(estimate: plan.Estimate) -> None:
    """163 parameters with two moments each, and two counts; of the first product no gradient of its input."""
    assert estimate.state_size == 3 * 163 * 4 + 2 * 4
    assert estimate.batch_bytes == 6 * 16 * 4 + 6 * 4
    assert estimate.operations == 2 * 6 * (2 * 16 * 8 + 3 * 8 * 3)
    assert estimate.operations == sum(layer.operations for layer in estimate.layers)
    assert isinstance(estimate.program, plan.Program) and estimate.fits
    memory = estimate.program.memory
    assert memory.arguments == estimate.state_size + estimate.batch_bytes
    assert memory.aliased == estimate.state_size, "the state is donated"
    assert estimate.bound is not None and estimate.examples_per_second == 6 / estimate.bound.seconds


def test_the_report(estimate: plan.Estimate) -> None:
    lines = text.report(estimate, "Dense")
    assert lines[0] == "gpu:h100: 1 x H100 80GB, batch 6: Dense"
    assert "a device of 63.7 GB (the 75 % that JAX reserves): it fits" in lines[1]
    assert "state 2.1 kB, batch 408 B, temporaries" in lines[2]
    assert "3.94 kFLOP of convolutions and products" in lines[3]
    assert any(line.split()[:2] == ["first", "(Linear)"] for line in lines)
    largest = plan.Largest(1024, 60e9, 2, 1152, 66e9)
    said = text.largest_line(largest)
    assert "1,024, which needs 60 GB (compiled, 2 more compilations); " in said
    assert said.endswith("the next in question is 1,152, which would need 66 GB")
    head, row = text.comparison([(estimate, largest)])
    assert head.split()[:3] == ["target", "batch", "memory"] and row.startswith("gpu:h100  6")


def test_a_step_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: jax.stages.Lowered, *_: object, **__: object) -> None:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Used 20.0G of 15.75G hbm.")

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    found = plan.estimate(plan.parse("tpu:v5e"), lowered(), table(), "bfloat16", 6)
    assert not found.fits and found.peak == 20 * 2**30 and found.bound is None
    assert "does not fit: a device needs 21.5 GB of 16.9 GB. Give a smaller" in text.report(found, "Dense")[1]
    assert "(too much)" in text.comparison([(found, None)])[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "`batch_size=0` cannot be shared out over 1 devices: give a multiple of 1."),
        ({"batch_size": 6, "accumulate": 4}, "over 1 devices in 4 parts: give a multiple of 4."),
    ],
)
def test_a_batch_that_cannot_be_shared_out(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        lowered(**options)


def test_the_evaluation_of_any_net() -> None:
    found = plan.lower_evaluation(Dense, jax.devices()[:1], example_shape=(4, 4, 1), batch_size=5)
    assert found.out_info.shape == (5, 3)
    assert found.args_info[0][2].shape == (5, 4, 4, 1)


def test_parts_and_an_average_change_the_program() -> None:
    found = lowered(6, accumulate=2)
    (state, x, _), _ = found.args_info
    assert x.shape == (1, 6, 4, 4, 1) and not state.average
    assert lowered(6, ema=0.9).args_info[0][0].average


def test_another_platforms_step_has_no_options_of_the_cpu() -> None:
    from cnnjax.train.step import compiler_options

    assert compiler_options("gpu") is None and compiler_options("tpu") is None
    assert compiler_options() == compiler_options(jax.default_backend())


def test_nets_at_once() -> None:
    """Three nets compute and keep three times as much, and are lowered for one device."""
    one, three = lowered(), lowered(nets=3)
    alone, together = (
        plan.estimate(plan.parse("gpu:h100"), step, table(), "float32", 6, nets=nets)
        for step, nets in ((one, 1), (three, 3))
    )
    assert together.operations == 3 * alone.operations and together.state_size == 3 * alone.state_size
    assert together.batch_bytes == 3 * alone.batch_bytes and together.layers == alone.layers
    assert together.bound is not None and together.examples_per_second == 18 / together.bound.seconds
    assert text.report(together, "Dense")[0] == "gpu:h100: 1 x H100 80GB, 3 nets at once, each batch 6: Dense"
    with pytest.raises(UserError, match="nets that are trained at once have one device, and 2 were given"):
        plan.lower_update(Dense, optax.adam(1e-3), jax.devices()[:1] * 2, example_shape=(4, 4, 1), batch_size=6, nets=3)
