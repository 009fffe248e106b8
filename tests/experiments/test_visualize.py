"""Looking inside a run, as a user starts it: what it leaves, and how each bad input ends."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from cnnjax import data, models, report, train
from cnnjax.app import restored
from cnnjax.errors import UserError
from cnnjax.train.state import apply_inference
from tests import processes
from tests.experiments.events import tags

pytestmark = pytest.mark.thorough

PICTURES = ["kernels", "kernels_of_all_layers", "feature_maps", "receptive_fields", "confusion", "mistakes"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch on the digits."""
    workdir = tmp_path_factory.mktemp("run")
    done = processes.run("lenet5.py", "--epochs=1", "--noaugment", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def visualize() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("visualize", processes.ROOT / "experiments/visualize.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_it_leaves(run: Path, tmp_path: Path) -> None:
    done = processes.run("visualize.py", f"--workdir={run}", "--index=27", f"--output={tmp_path / 'new'}",
                         "--learning_rates=1e30,0.01", "--updates=10")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "checkpoint 22 of" in done.stdout and "test 27 (true: 7)" in done.stdout
    names = {*PICTURES, "learning_rates"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"events", *(f"{name}.png" for name in names)}
    assert tags(tmp_path / "new") == names
    for name in names:
        with Image.open(tmp_path / "new" / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 1, f"{name}.png is blank"


def test_an_image_file_and_the_workdir(run: Path, tmp_path: Path) -> None:
    before = {path.name for path in run.iterdir()}
    Image.fromarray(data.digits().test_images[40, ..., 0]).save(tmp_path / "small.png")
    done = processes.run("visualize.py", f"--workdir={run}", tmp_path / "small.png")
    assert done.returncode == 0, done.stderr
    assert ", small.png; in" in done.stdout
    assert {path.name for path in run.iterdir()} - before == {
        "kernels_of_all_layers.png",
        "feature_maps.png",
        "receptive_fields.png",
    }
    assert set(PICTURES) <= tags(run)


def test_losses_are_those_of_plain_sgd(visualize: ModuleType) -> None:
    """A loop of jax.grad on the run's first batches gives the same; too large a rate ends in what is not finite."""
    options = train.Options(epochs=1, batch_size=16, learning_rate=1.0, seed=3)
    config = {"model": {"name": "lenet5", "channels": 1}, "seed": 3, "augment": False}
    spec = data.InputSpec(size=32, channels=1, mean=(0.5,), std=(0.25,))
    net = restored.TrainedNet(models.build(config), spec, 0, config)
    digits = data.digits()
    training = train.Examples(data.pad_to_square(digits.train_images[:100], 32), digits.train_labels[:100])
    curves = visualize.losses(net, training, options, [1e30, 0.05], 12, 16)
    assert list(curves) == [1e30, 0.05]
    graph, params, rest = train.split(models.build(config))

    @jax.jit
    def by_jax(params, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(apply_inference(graph, params, rest, x), y).mean()

        return jax.value_and_grad(loss)(params)

    by_hand = []
    for step in range(12):
        (chosen,) = data.indices(3, step, 1, 100, 16)
        x, y = spec.prepare(jnp.asarray(training.x[chosen], jnp.float32)), training.y[chosen]
        value, gradient = by_jax(params, x, y)
        by_hand.append(float(value))
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient)
    np.testing.assert_allclose(curves[0.05], by_hand, rtol=1e-3)
    assert not np.isfinite(curves[1e30][-1]) and report.finite_length(curves[1e30]) == len(curves[1e30]) - 1 < 11


def test_the_numbers_of_learning_rates(visualize: ModuleType) -> None:
    assert visualize.learning_rates(["0.5", " 5e-2", "0.5"]) == [0.5, 0.05]
    assert visualize.learning_rates([]) == []
    for word in ("0", "-1", "nan", "inf", "fast", ""):
        with pytest.raises(UserError, match=f"--learning_rates: '{word}' must be a finite number above 0"):
            visualize.learning_rates(["0.1", word])


def test_refusals(run: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ([f"--workdir={tmp_path}"], "holds no checkpoint"),
        ([f"--workdir={run}", "--step=5"], "has no checkpoint 5; it has [22]"),
        ([f"--workdir={run}", "--index=360"], "--index=360: must be a number from 0 to 359"),
        ([f"--workdir={run}", tmp_path / "absent.png"], "absent.png cannot be read"),
    ):
        error = processes.refusal("visualize.py", *arguments)
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
