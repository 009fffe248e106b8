"""bfloat16 on the CPU: oneDNN multiplies it where the processor does, and the sums are those of float32."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.ops.conv import choose, kernel_grad, onednn
from cnnjax.ops.geometry import slide

needs_bfloat16 = pytest.mark.skipif(
    not onednn.takes(["bfloat16"]), reason="this processor, or jaxlib, does not multiply bfloat16 by oneDNN"
)
HALF_UNIT = 2.0**-8  # largest relative error of rounding to bfloat16
SUM_ERROR = 2e-5  # of sums in float32, over the largest element: kernel gradients by minimal filtering lose most

CASES = [
    pytest.param((2, 9, 10, 40), (3, 3), 70, {"padding": 1}, id="wide 3x3"),
    pytest.param((17, 8, 8, 40), (3, 3), 33, {"stride": 2, "padding": 1}, id="strides"),
    pytest.param((2, 12, 11, 20), (3, 2), 8, {"dilation": (2, 3)}, id="dilation"),
    pytest.param((16, 12, 12, 3), (5, 5), 16, {}, id="few channels"),
    pytest.param((3, 12, 12, 1), (5, 5), 6, {"padding": ((1, 0), (0, 2))}, id="one channel"),
    pytest.param((2, 9, 9, 12), (3, 3), 8, {"groups": 4, "padding": 1}, id="groups"),
    pytest.param((2, 9, 9, 16), (3, 3), 16, {"groups": 16, "padding": 1}, id="depthwise"),
    pytest.param((2, 9, 8, 16), (1, 1), 24, {"stride": 2}, id="1x1 with strides"),
    pytest.param((2, 5, 20, 8), (2, 8), 12, {"padding": ((1, 0), (4, 3))}, id="two tiles of AMX"),
    pytest.param((2, 5, 30, 4), (3, 16), 8, {"groups": 2}, id="tiles of AMX in groups"),
    pytest.param((2, 40, 6), (16,), 6, {}, id="tiles of AMX in a sequence"),
    pytest.param((4, 6, 6, 10), (6, 6), 7, {}, id="a single window"),
    pytest.param((4, 30, 10), (5,), 12, {"padding": 2}, id="a sequence"),
    pytest.param((2, 5, 6, 7, 3), (2, 3, 2), 4, {"stride": 2}, id="a volume"),
]


def value_and_gradients(x: Any, w: Any, dy: Any, keywords: dict[str, Any]) -> list[np.ndarray]:
    y, vjp = jax.vjp(lambda x, w: ops.conv(x, w, **keywords), x, w)
    return [y, *vjp(dy)]


@pytest.mark.parametrize(("shape", "window", "features", "keywords"), CASES)
def test_sums_of_halves_are_those_of_float32(shape, window, features, keywords) -> None:
    rng = np.random.default_rng(0)
    w_shape = (*window, shape[-1] // keywords.get("groups", 1), features)
    x, w = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in (shape, w_shape))
    dy_shape = jax.eval_shape(partial(ops.conv, **keywords), x, w).shape
    dy = jnp.asarray(rng.normal(size=dy_shape), jnp.bfloat16)
    found = jax.jit(partial(value_and_gradients, keywords=keywords))(x, w, dy)
    with jax.enable_x64(True):  # of the same numbers, by the definition
        wide = (jnp.asarray(np.asarray(a).astype(float)) for a in (x, w, dy))
        exact = [np.asarray(a) for a in value_and_gradients(*wide, keywords | {"algorithm": "direct"})]
    for name, got, true in zip(("y", "dx", "dw"), found, exact, strict=True):
        assert got.dtype == jnp.bfloat16
        error = abs(np.asarray(got).astype(float) - true)
        assert (error <= HALF_UNIT * abs(true) + SUM_ERROR * abs(true).max()).all(), name


@needs_bfloat16
def test_the_products_are_of_halves() -> None:
    x, w = jnp.ones((16, 8, 8, 40), jnp.bfloat16), jnp.ones((3, 3, 40, 24), jnp.bfloat16)
    text = (
        jax.jit(partial(value_and_gradients, keywords={})).lower(x, w, jnp.ones((16, 6, 6, 24), jnp.bfloat16)).as_text()
    )
    calls = [line for line in text.splitlines() if "@__onednn$" in line]
    assert len(calls) == 3 and all("xbf16>" in line for line in calls)


@needs_bfloat16
def test_loops_hold_images_as_bits_and_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sizes = ((4, 8, 8, 40), (3, 3, 40, 24), (4, 6, 6, 24))
    arrays = [jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in sizes]
    keywords: list[dict[str, Any]] = [{}, {"stride": 2, "padding": ((3, 2), (3, 2))}]
    at_once = [jax.jit(partial(value_and_gradients, keywords=each))(*arrays) for each in keywords]
    monkeypatch.setattr(choose, "COPIED_BYTES", 1)
    for each, expected in zip(keywords, at_once, strict=True):
        in_loops = jax.jit(partial(value_and_gradients, keywords=each)).lower(*arrays)
        loops = [line for line in in_loops.as_text().splitlines() if "stablehlo.while" in line]
        assert loops and not any(re.search(r"<4x\d+x\d+x\d+xbf16>", line) for line in loops)
        for got, exact in zip(in_loops.compile()(*arrays), expected, strict=True):
            assert got.dtype == exact.dtype
            got, exact = (np.asarray(a).astype(float) for a in (got, exact))
            np.testing.assert_allclose(got, exact, rtol=2 * HALF_UNIT, atol=SUM_ERROR * abs(exact).max())


@needs_bfloat16
def test_what_is_asked_for_in_float32_is_not_rounded() -> None:
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=size), jnp.bfloat16) for size in ((2, 8, 8, 64), (3, 3, 64, 32)))
    y = ops.conv(x, w, preferred_element_type=jnp.float32)
    exact = ops.conv(x.astype(jnp.float32), w.astype(jnp.float32), algorithm="direct")
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, exact, rtol=0, atol=3e-6 * float(abs(exact).max()))


@needs_bfloat16
def test_a_bias_is_added_before_the_result_is_rounded() -> None:
    x, w = jnp.full((1, 4, 4, 32), 1.0, jnp.bfloat16), jnp.full((1, 1, 32, 16), 8.0, jnp.bfloat16)
    b = jnp.full(16, -255.0, jnp.bfloat16)  # 256 - 255; one more or less would be rounded away at 256
    w = w.at[0, 0, 0].set(9.0)  # 257, which bfloat16 does not hold
    assert ops.conv(x, w, b).tolist() == jnp.full((1, 4, 4, 16), 2.0).tolist()


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_processor_that_is_held_back_multiplies_no_halves(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "AVX2")
    assert not onednn.multiplies_bfloat16.__wrapped__()


@pytest.mark.parametrize(("window", "stride"), [((3, 3), 1), ((6, 6), 2)])
@pytest.mark.parametrize(
    ("amx", "batch", "itemsize", "by_winograd"),
    [(True, 16, 2, False), (True, 15, 2, True), (True, 16, 4, True), (False, 16, 2, True)],
)
def test_kernel_gradients_of_halves_by_amx(window, stride, amx, batch, itemsize, by_winograd, monkeypatch) -> None:
    monkeypatch.setattr(onednn, "has_amx", lambda: amx)
    windows = slide((16, 16), window, stride=stride, padding="SAME")
    p = choose.Problem(batch, windows, 64, 64, 1, itemsize, None, onednn=True)
    rule = choose.rule_for(choose.KERNEL_GRAD, "cpu", p, plain=False, one_device=True)
    forms = [kernel_grad.winograd, kernel_grad.winograd_of_phases] if by_winograd else [kernel_grad.batch_as_channels]
    assert rule.form.args[0] in forms


def test_operands_of_two_dtypes_are_refused() -> None:
    assert not onednn.takes(["float32", "bfloat16"]) and not onednn.takes(["float16"])
