"""The platform is known where a program is lowered: read in the lowered modules, without an accelerator."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from cnnjax import ops
from cnnjax.ops.conv import onednn

X, W, B = jnp.ones((2, 8, 8, 20)), jnp.ones((3, 3, 20, 24)), jnp.ones(24)
needs_onednn = pytest.mark.skipif(not onednn.is_available(), reason="this jaxlib has no oneDNN that was tested")


def gradients(x, w, b):
    return jax.grad(lambda *a: (ops.conv(*a, padding=1).astype("float32") ** 2).sum(), (0, 1, 2))(x, w, b)


def lowered(platform: str, dtype: str, f=gradients) -> str:
    arrays = [a.astype(dtype) for a in (X, W, B)]
    return jax.jit(f).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_accelerators_get_xlas_convolutions_of_the_same_dtype(platform: str, dtype: str) -> None:
    text = lowered(platform, dtype)
    assert text.count("stablehlo.convolution(") == 3 and "custom_call" not in text and "while" not in text
    name = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[dtype]
    types = [line.split(" : ")[-1] for line in text.splitlines() if "stablehlo.convolution(" in line]
    assert all(kind.count(f"x{name}>") == 3 for kind in types), types


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_few_channels_a_single_window_and_strides_stay_convolutions_on_accelerators(platform: str) -> None:
    for x, w, stride in [((2, 28, 28, 1), (5, 5, 1, 6), 1), ((2, 5, 5, 16), (5, 5, 16, 120), 1),
                         ((2, 8, 8, 4), (1, 1, 4, 8), 2), ((2, 9, 4), (3, 4, 8), 2)]:  # fmt: skip
        text = (
            jax.jit(lambda x, w: ops.conv(x, w, stride=stride))  # noqa: B023
            .trace(jnp.ones(x), jnp.ones(w))
            .lower(lowering_platforms=(platform,))
            .as_text()
        )
        assert text.count("stablehlo.convolution(") == 1 and "dot" not in text and "case" not in text


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_bias_of_halves_is_added_in_halves_on_accelerators(platform: str) -> None:
    """In float32 behind a cast, cuDNN's call could not take it in."""
    text = lowered(platform, "bfloat16", lambda x, w, b: ops.conv(x, w, b))
    (line,) = [line for line in text.splitlines() if "stablehlo.add" in line and "tensor<2x6x6x24x" in line]
    assert "xbf16>" in line
    assert "xf32>" in lowered("cpu", "bfloat16", lambda x, w, b: ops.conv(x, w, b))


def test_a_tpu_takes_the_kernel_gradient_of_few_channels_as_one_product() -> None:
    """XLA's own takes minutes to compile there: the first layer of LeNet-5."""
    x, w = jnp.ones((128, 32, 32, 1)), jnp.ones((5, 5, 1, 6))

    def kernel_gradient(platform: str) -> str:
        gradient = jax.jit(jax.grad(lambda w: (ops.conv(x, w) ** 2).sum()))
        return gradient.trace(w).lower(lowering_platforms=(platform,)).as_text()

    for platform, convolutions, products in (("tpu", 1, 1), ("cuda", 2, 0)):
        text = kernel_gradient(platform)
        assert text.count("stablehlo.convolution(") == convolutions and text.count("dot_general") == products


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_pad_within_the_convolution(platform: str) -> None:
    """Where windows overlap nothing of x is copied, also where strides leave a rest."""

    def strided(x, w, b):
        return jax.grad(lambda x, w: (ops.conv(x, w, stride=2, padding=1) ** 2).sum(), (0, 1))(x, w)

    text = lowered(platform, "float32", strided)
    assert text.count("stablehlo.convolution(") == 3
    assert "stablehlo.pad" not in text and "stablehlo.slice" not in text


def test_bfloat16_with_a_wide_result_stays_bfloat16_in_the_convolution() -> None:
    text = lowered("tpu", "bfloat16", lambda x, w, b: ops.conv(x, w, preferred_element_type="float32"))
    (line,) = [line for line in text.splitlines() if "stablehlo.convolution(" in line]
    assert line.count("xbf16>") == 2 and line.count("xf32>") == 1


def test_the_cpu_sums_halves_in_float32() -> None:
    for dtype in ("bfloat16", "float16"):
        x, w = jnp.full((1, 64, 64, 1), 1.001).astype(dtype), jnp.ones((64, 64, 1, 1), dtype)
        assert ops.conv(x, w).astype("float32").item() == pytest.approx(4096 * float(x[0, 0, 0, 0]), rel=8e-3)


@needs_onednn
def test_the_cpu_gets_onednn_on_one_device() -> None:
    text = lowered("cpu", "float32")
    assert text.count("@__onednn$convolution") == 2 and "stablehlo.convolution" not in text
    with jax.default_device(jax.devices("cpu")[0]):
        assert "@__onednn$convolution" in jax.jit(gradients).lower(X, W, B).as_text()


@pytest.mark.parametrize("platforms", [("cpu",), ("cuda",), ("tpu",), ("cpu", "cuda", "tpu")])
def test_exported_programs_take_symbolic_batches_in_gradients_and_call_no_library(platforms) -> None:
    (batch,) = export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 8, 8, 20), "float32")
    exported = export.export(jax.jit(gradients), platforms=platforms)(x, W, B)
    assert "onednn" not in exported.mlir_module()
    if "cpu" in platforms:
        rng = np.random.default_rng(0)
        arrays = [jnp.asarray(rng.normal(size=shape), "float32") for shape in ((3, 8, 8, 20), W.shape, B.shape)]
        for got, expected in zip(exported.call(*arrays), gradients(*arrays), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)


@needs_onednn
def test_a_users_compilation_cache_keeps_what_it_can_and_says_nothing_of_the_rest(tmp_path) -> None:
    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            jax.jit(lambda x: ops.conv(x, W) + 17.0)(X)
            assert not list(tmp_path.glob("*-cache"))
            jax.jit(lambda x: x * 17.0)(X)
            assert list(tmp_path.glob("*-cache"))
        assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.0
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
