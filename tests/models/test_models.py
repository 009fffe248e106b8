from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import models, train
from cnnjax.errors import UserError
from cnnjax.train import optimizers
from cnnjax.train import state as train_state
from tests import nets

CLASSIC = {"name": "lenet5", "variant": "classic"}


def config(**options: object) -> dict:
    return {"model": {"name": "lenet5", **options}, "seed": 3}


def parameters(model: nnx.Module) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(model, nnx.Param)))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def test_parameters_of_lenet5_as_in_d2l() -> None:
    leaves = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(nnx.state(nets.shapes(**CLASSIC), nnx.Param)))[0]
    sizes = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.size for path, leaf in leaves}
    assert sum(sizes.values()) == 61_706
    assert sizes["conv1/kernel"] + sizes["conv1/bias"] == 156
    assert sizes["conv2/kernel"] + sizes["conv2/bias"] == 2_416
    assert sizes["dense1/kernel"] + sizes["dense1/bias"] == 48_120
    assert nets.count(nets.shapes(name="lenet5")) == 61_706


@pytest.mark.parametrize("variant", ["modern", "classic"])
def test_lenet5_is_its_layers_in_numpy(variant: str) -> None:
    """The logits against NumPy in float64, layer by layer as the book writes it."""
    model = nets.filled(lambda: models.build(config(variant=variant)))
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
    model = nets.filled(lambda: models.build({**config(), "dtype": dtype}))
    x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 1))
    logits = nnx.jit(lambda model, x: model(x))(model, x)
    assert logits.dtype == dtype
    assert {each.dtype for each in parameters(model).values()} == {np.dtype("float32")}
    np.testing.assert_allclose(logits, nnx.jit(nets.filled(lambda: models.build(config())))(x), rtol=0.05, atol=0.1)


def test_colour_images_and_other_class_counts() -> None:
    model = nets.shapes(name="lenet5", channels=3, num_classes=7)
    assert jax.eval_shape(lambda model, x: model(x), model, jnp.ones((2, 32, 32, 3))).shape == (2, 7)


def test_bad_input_is_named() -> None:
    with pytest.raises(
        UserError, match="no model 'lenet6': it must be one of airbench94, airbench95, airbench96, alexnet"
    ):
        models.build({"model": {"name": "lenet6"}})
    with pytest.raises(UserError, match="variant must be one of modern, classic, was '2024'"):
        models.build(config(variant="2024"))
    with pytest.raises(UserError, match="depth"):
        models.build(config(depth=3))
    with pytest.raises(ValueError, match=r"x must be \(N, 32, 32, channels\), was \(2, 28, 28, 1\)"):
        nets.shapes(name="lenet5")(jnp.ones((2, 28, 28, 1)))


# ---- the tutorials' nets ----


def test_parameters_and_shapes_of_the_mnist_net() -> None:
    pooled = {"name": "mnist_cnn", "last_pool": True}
    assert (
        nets.count(nets.shapes(**pooled))
        == 9 * 32 + 32 + 9 * 32 * 64 + 64 + 9 * 64 * 128 + 128 + 128 * 128 + 128 + 1290
    )
    shapes = [row.output for row in nets.rows((28, 28, 1), **pooled)]
    assert shapes == [(26, 26, 32), (13, 13, 32), (11, 11, 64), (5, 5, 64), (3, 3, 128), (1, 1, 128), (128,), (10,)]
    table = nets.rows((28, 28, 1), name="mnist_cnn")
    assert table[5].output == (128,) and table[5].params == 9 * 128 * 128 + 128 and table[4].output == (3, 3, 128)
    strided = nets.rows((28, 28, 1), name="mnist_cnn", downsample="stride")
    assert [row.output for row in strided][:3] == [(13, 13, 32), (6, 6, 64), (2, 2, 128)]


def test_parameters_of_the_cifar_nets() -> None:
    plain = nets.shapes(name="cifar_cnn")
    dense = 4 * 4 * 128 * 128 + 128 + 128 * 10 + 10
    assert nets.count(plain) == 27 * 32 + 32 + 9 * 32 * 64 + 64 + 9 * 64 * 128 + 128 + dense
    normed = nets.shapes(name="cifar_cnn", batch_norm=True, widths=[64, 128])
    assert nets.count(normed) == 27 * 64 + 2 * 64 + 9 * 64 * 128 + 2 * 128 + 8 * 8 * 128 * 128 + 128 + 1290


def losses(model: nnx.Module, steps: int, dtype: str, draws: int = 1) -> np.ndarray:
    """The loss of every step, (draws, steps): from the same weights on each draw of images and labels."""
    rule = optimizers.optimizer("momentum", 0.01)
    net, state = train_state.initial(model, rule)
    state = jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, state)
    update = train.make_update(net, rule, loss=lambda logits, y: -jax.nn.log_softmax(logits)[jnp.arange(4), y].mean())
    train_step = train.make_train_step(update)

    def of_draw(seed: int) -> np.ndarray:
        draw = np.random.default_rng(seed)
        x, labels = draw.normal(size=(steps, 4, 16, 16, 3)).astype(dtype), draw.integers(0, 10, (steps, 4))
        own_state = jax.tree.map(jnp.copy, state)  # the step donates it
        return np.asarray(train_step(own_state, jnp.asarray(x), jnp.asarray(labels))[1]["loss"])

    return np.stack([of_draw(seed) for seed in range(draws)])


def own_and_flax(steps: int, dtype: str, batch_norm: bool, draws: int = 1) -> tuple[np.ndarray, np.ndarray]:
    shape = {"name": "cifar_cnn", "widths": [8, 16], "size": 16, "batch_norm": batch_norm}
    own, flax = (
        losses(models.build({"model": {**shape, "conv": conv}, "dtype": None}), steps, dtype, draws)
        for conv in ("own", "flax")
    )
    assert own.dtype == dtype and len(np.unique(own)) == own.size
    return own, flax


@pytest.mark.thorough
@pytest.mark.parametrize("batch_norm", [False, True])
def test_own_and_flax_convolutions_train_alike(batch_norm: bool) -> None:
    # ReLU and max-pooling have kinks: where a sum falls beside one, its last bit decides (draw 0, with the weights
    # moved by 1e-7, moves by 1e-3 as well). So most draws must agree, and to their rounding; float64 below, always.
    own, flax = own_and_flax(20, "float32", batch_norm, draws=5)
    worst = np.abs(own / flax - 1).max(axis=1)
    assert np.median(worst) < 1e-5, worst


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [False, True])
def test_own_and_flax_convolutions_train_alike_for_long(batch_norm: bool) -> None:
    with jax.enable_x64(True):
        own, flax = own_and_flax(100, "float64", batch_norm, draws=3)
        np.testing.assert_allclose(own, flax, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["lax", "direct", "im2col", "fft", "winograd", "winograd4", "toeplitz"])
def test_every_algorithm_trains_alike(algorithm: str) -> None:
    def build(algorithm: str) -> nnx.Module:
        model = {"name": "cifar_cnn", "widths": [4, 8], "size": 16, "algorithm": algorithm}
        return models.build({"model": model, "dtype": None})

    with jax.enable_x64(True):
        np.testing.assert_allclose(
            losses(build(algorithm), 20, "float64"), losses(build("auto"), 20, "float64"), rtol=1e-9
        )


def test_bad_options_of_the_tutorials_nets_are_named() -> None:
    for options, message in [
        ({"name": "mnist_cnn", "downsample": "both"}, "downsample must be one of pool, stride, was 'both'"),
        ({"name": "mnist_cnn", "downsample": "stride", "last_pool": True}, "last_pool must be False where"),
        ({"name": "cifar_cnn", "conv": "torch"}, "conv must be one of own, flax, was 'torch'"),
        ({"name": "cifar_cnn", "conv": "flax", "algorithm": "fft"}, "algorithm must be 'auto' where conv is 'flax'"),
        ({"name": "cifar_cnn", "widths": [8] * 6}, "widths must be of 1 to 5 blocks, each halves 32"),
    ]:
        with pytest.raises(UserError, match=message):
            models.build({"model": options})
    with pytest.raises(ValueError, match=r"x must be \(N, 28, 28, channels\), was \(2, 32, 32, 1\)"):
        nets.shapes(name="mnist_cnn")(jnp.ones((2, 32, 32, 1)))
