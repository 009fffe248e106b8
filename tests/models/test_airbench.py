"""Airbench's nets: their sizes, what they start from, and their training beside PyTorch's."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cnnjax import data, describe, models, train
from cnnjax.models import airbench
from cnnjax.train import optimizers, state


@pytest.mark.parametrize(
    ("name", "epochs", "params", "petaflop"),
    [("airbench94", 9.9, 1_971_640, 0.36), ("airbench95", 15, None, 1.4), ("airbench96", 40, None, 7.2)],
)
def test_parameters_and_cost_are_as_published(name: str, epochs: float, params: int | None, petaflop: float) -> None:
    """Of a training step two products a weight forward and four backward, as the paper counts them."""
    total = describe(models.build({"model": {"name": name}}), (32, 32, 3)).total
    assert params in (None, total.params)
    updates = data.batches.updates_of_run(50_000, 1024, epochs)
    assert 6 * total.macs * 1024 * updates / 1e15 == pytest.approx(petaflop, rel=0.06)


def test_whitened_patches_are_uncorrelated_and_of_unit_variance() -> None:
    r = np.random.default_rng(0)
    images = (r.normal(size=(40, 9, 8, 3)) @ r.normal(size=(3, 3))).astype(np.float32)
    kernel = airbench.whitening_kernel(images, epsilon=0.0)
    assert kernel.shape == (2, 2, 3, 24) and kernel.dtype == np.float32
    patches = np.array([image[i : i + 2, j : j + 2].ravel() for image in images for i in range(8) for j in range(7)])
    seen = patches @ kernel.reshape(12, 24)
    np.testing.assert_allclose(seen[:, :12].T @ seen[:, :12] / len(seen), np.eye(12), atol=1e-3)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])


def test_epsilon_bounds_the_filters_of_patches_that_hardly_vary() -> None:
    kernel = airbench.whitening_kernel(np.zeros((2, 4, 4, 1), np.float32))
    np.testing.assert_allclose(np.square(kernel).sum((0, 1, 2)), 1 / 5e-4, rtol=1e-4)


def test_the_first_layer_is_whitened_in_place() -> None:
    images = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    net = airbench.Airbench94(widths=(4, 4, 4), rngs=nnx.Rngs(0))
    assert airbench.whiten(net, images) is net
    np.testing.assert_array_equal(net.whiten.kernel[...], airbench.whitening_kernel(images))


def test_kernels_that_do_not_start_as_the_identity_are_drawn() -> None:
    kernel = airbench.Airbench94(widths=(64, 8, 8), identity=False, rngs=nnx.Rngs(0)).blocks[0].convs[1].kernel[...]
    limit = 1 / (9 * 64) ** 0.5
    assert abs(kernel).max() <= limit and abs(float(kernel.std()) / limit - 1 / 3**0.5) < 0.01


@pytest.mark.thorough
@pytest.mark.parametrize(("name", "convs"), [("airbench94", 2), ("airbench96", 3)])
def test_updates_are_those_of_pytorch(name: str, convs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve, with lookahead after 5 and 10 and at the end, the whitening bias frozen after 6."""
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "experiments/bench")
    twins = importlib.import_module("torch_airbench")
    widths, total, per_epoch, batch, peak, decay = (8, 12, 16), 12, 2, 32, 0.01, 0.25
    model = models.build({"model": {"name": name, "widths": widths}})
    draw = np.random.default_rng(0)
    x = draw.normal(size=(total, batch, 32, 32, 3)).astype(np.float32)
    y = draw.integers(0, 10, (total, batch))
    airbench.whiten(model, x[0])
    rate = optimizers.schedule("triangle", peak, total)
    rule = optimizers.optimizer("airbench", rate, weight_decay=decay, updates_per_epoch=per_epoch)
    net, now = state.initial(model, rule, lookahead=True)
    twin = twins.load(twins.Airbench(widths, convs), by_path(now))
    loss = partial(train.cross_entropy, label_smoothing=0.2)
    update = jax.jit(train.make_update(net, rule, loss, lookahead_every=5, total=total))
    sgd, ahead = twins.optimizer(twin, peak, decay, batch), twins.Lookahead(twin, total)
    for number in range(total):
        now, _ = update(now, jnp.asarray(x[number]), jnp.asarray(y[number], jnp.int32))
        factor = 0.2 + 0.4 * number if number < 2 else 1 - 0.93 * (number - 2) / 10
        for group, scale in zip(sgd.param_groups, (64, 1), strict=True):
            group["lr"] = factor * peak / batch * scale
        twin.whiten.bias.requires_grad = number < 3 * per_epoch
        sgd.zero_grad(set_to_none=True)
        twins.summed_loss(twin(torch.tensor(x[number].transpose(0, 3, 1, 2))), torch.tensor(y[number])).backward()
        sgd.step()
        ahead.update()
    found, expected = by_path(now), twins.arrays_of(twin)
    assert found.keys() == expected.keys()
    for path, array in found.items():
        np.testing.assert_allclose(array, expected[path], rtol=2e-3, atol=2e-4, err_msg=path)


def by_path(now: train.TrainState) -> dict[str, np.ndarray]:
    """Parameters and running statistics."""
    arrays = state.to_arrays(now)
    return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(("params/", "rest/"))}
