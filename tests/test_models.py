from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError


def config(**options: object) -> dict:
    return {"model": {"name": "lenet5", **options}, "seed": 3}


def parameters(model: nnx.Module) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def test_parameters_of_lenet5_as_in_d2l() -> None:
    sizes = {name: array.size for name, array in parameters(models.build(config(variant="classic"))).items()}
    assert sum(sizes.values()) == 61_706
    assert sizes["conv1/kernel"] + sizes["conv1/bias"] == 156
    assert sizes["conv2/kernel"] + sizes["conv2/bias"] == 2_416
    assert sizes["dense1/kernel"] + sizes["dense1/bias"] == 48_120
    assert sum(array.size for array in parameters(models.build(config())).values()) == 61_706


@pytest.mark.parametrize("variant", ["modern", "classic"])
def test_lenet5_is_its_layers_in_numpy(variant: str) -> None:
    """The logits against NumPy in float64, layer by layer as the book writes it."""
    model = models.build(config(variant=variant))
    w = {name: array.astype(np.float64) for name, array in parameters(model).items()}
    x = np.random.default_rng(0).random((1, 32, 32, 1))
    got = model(jnp.asarray(x, jnp.float32))
    squash = (lambda a: np.maximum(a, 0)) if variant == "modern" else (lambda a: 1 / (1 + np.exp(-a)))
    pool = np.max if variant == "modern" else np.mean
    for name in ("conv1", "conv2"):
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), axis=(1, 2))
        x = squash(np.einsum("nhwcij,ijcf->nhwf", windows, w[f"{name}/kernel"]) + w[f"{name}/bias"])
        n, height, width, channels = x.shape
        x = pool(x.reshape(n, height // 2, 2, width // 2, 2, channels), axis=(2, 4))
    x = x.reshape(1, 400)
    for name in ("dense1", "dense2", "dense3"):
        x = x @ w[f"{name}/kernel"] + w[f"{name}/bias"]
        x = squash(x) if name != "dense3" else x
    np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-5)


def test_initial_weights_have_the_variance_of_their_rule() -> None:
    modern, classic = (parameters(models.build(config(variant=v))) for v in ("modern", "classic"))
    assert modern["dense1/kernel"].var() == pytest.approx(2 / 400, rel=0.05)  # He: 2 / fan_in
    assert classic["dense1/kernel"].var() == pytest.approx(2 / (400 + 120), rel=0.05)  # Xavier: 2 / (fan_in + fan_out)
    assert np.abs(classic["conv2/kernel"]).max() <= np.sqrt(6 / (25 * 6 + 25 * 16))
    assert not modern["conv1/bias"].any()


def test_the_seed_decides_the_weights() -> None:
    one, same, other = (parameters(models.build({**config(), "seed": seed})) for seed in (3, 3, 4))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["conv1/kernel"], other["conv1/kernel"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_in_it_and_keeps_float32_parameters(dtype: str) -> None:
    model = models.build({**config(), "dtype": dtype})
    x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))
    assert model(x).dtype == dtype
    assert {array.dtype for array in parameters(model).values()} == {np.dtype("float32")}
    np.testing.assert_allclose(model(x), models.build(config())(x), atol=0.1)


def test_colour_images_and_other_class_counts() -> None:
    model = models.build(config(channels=3, num_classes=7))
    assert model(jnp.ones((2, 32, 32, 3))).shape == (2, 7)


def test_bad_input_is_named() -> None:
    with pytest.raises(UserError, match="no model 'lenet6': it must be one of lenet5"):
        models.build({"model": {"name": "lenet6"}})
    with pytest.raises(UserError, match="variant must be one of modern, classic, was '2024'"):
        models.build(config(variant="2024"))
    with pytest.raises(UserError, match="depth"):
        models.build(config(depth=3))
    with pytest.raises(ValueError, match=r"x must be \(N, 32, 32, channels\), was \(2, 28, 28, 1\)"):
        models.build(config())(jnp.ones((2, 28, 28, 1)))
