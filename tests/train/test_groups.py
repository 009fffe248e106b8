"""Several processes compute what one does, see the same examples, and go on with what others have saved."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import data, train
from cnnjax.train import checkpoint, metrics
from tests.train import groups, tiny

pytestmark = pytest.mark.thorough


class Numbered:
    """A source whose labels say which example each is; some examples are corrupt."""

    def __init__(self, count: int, corrupt: tuple[int, ...] = ()):
        self.images, self.count, self.corrupt = tiny.examples(count, 1).x, count, corrupt

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self.corrupt:
            raise data.CorruptExample(f"record {index} is corrupt.")
        return self.images[index], np.int32(index)


class Wide(nnx.Module):
    """Large enough to be sharded: 16 x 2048 kernels."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.first, self.norm = nnx.Linear(16, 2048, rngs=rngs), nnx.BatchNorm(2048, rngs=rngs)
        self.second = nnx.Linear(2048, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jax.nn.relu(self.norm(self.first(x.reshape(len(x), -1)))))


def loss(outputs: jax.Array, y: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Of classes `y % 4`; with the mean and the mean square of the examples' numbers, exact in float32."""
    return train.cross_entropy(outputs, y % 4), {"number": y.mean(), "square": (y * y).mean()}


def distort(key: jax.Array, x: jax.Array) -> jax.Array:
    return data.crop_flip(key, x, pad=1)


#: What each run of `run` trains on, and how.
KINDS: dict[str, dict[str, Any]] = {
    "memory": {},
    "streamed": {"stream": "always", "updates_per_call": 2},
    "sharded": {"shard": "params", "optimizer": "momentum", "learning_rate": 0.002, "ema": 0.5},
    "source": {"workers": 3, "skip_corrupt": True},
}
# no Adam: it makes steps of the rounding errors of a bias that batch norm takes off again
OPTIONS = train.Options(
    epochs=9, batch_size=16, optimizer="sgd", learning_rate=0.02, checkpoint_every=12, log_every=1, eval_every=3
)


def run(kind: str, folder: Path, **changes: Any) -> train.Result:
    """One run of 54 updates, by as many processes as there are."""
    training, test = Numbered(96, corrupt=(7,)), Numbered(37, corrupt=(3, 30))
    if kind != "source":
        splits = {name: train.Examples(one.images, np.arange(len(one), dtype=np.int32))
                  for name, one in (("train", training), ("test", test))}  # fmt: skip
    else:
        splits = {"train": training, "test": test}
    options = dataclasses.asdict(dataclasses.replace(OPTIONS, **KINDS[kind], **changes))
    return train.fit(
        Wide(rngs=nnx.Rngs(0)), splits, folder / kind, loss=loss, prepare=tiny.scaled, augment=distort,
        metrics={"accuracy": lambda outputs, y: train.accuracy(outputs, y % 4)}, **options,
    )  # fmt: skip


#: FOLDER CHANGES KIND ...
PROGRAM = """
import json
from pathlib import Path
from cnnjax.train import devices
from tests.train import test_groups
for kind in sys.argv[3:]:
    result = test_groups.run(kind, Path(sys.argv[1]), **json.loads(sys.argv[2]))
    kernel = result.state.params["first"]["kernel"]
    print(json.dumps({"sharding": list(kernel.sharding.spec), "bytes": devices.bytes_of(result.state),
                      "local": kernel.addressable_data(0).shape,
                      "outputs": result.outputs.shape, "labels": [int(y) for y in result.labels]}))
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a single process with one device."""
    folder = tmp_path_factory.mktemp("one")
    for kind in KINDS:
        run(kind, folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[dict[str, Any]]]]:
    """Those of two processes with two devices each, and what these print."""
    folder = tmp_path_factory.mktemp("two")
    printed = groups.run(PROGRAM, folder, "{}", *KINDS, count=2, devices=2)
    return folder, [[json.loads(line) for line in text.splitlines() if line[0] == "{"] for text in printed]


def records(folder: Path) -> list[dict[str, Any]]:
    return metrics.read(folder / "metrics.jsonl")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_see_the_examples_of_one_and_get_its_losses(
    kind: str, one: Path, two: tuple[Path, list[list[dict[str, Any]]]]
) -> None:
    expected, found = records(one / kind), records(two[0] / kind)
    assert [r["step"] for r in found] == [r["step"] for r in expected] and len(found) == 54 + 9
    for name in ("train_number", "train_square"):
        assert [r[name] for r in found if name in r] == [r[name] for r in expected if name in r], "other examples"
    for name in ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_number"):
        values = [[r[name] for r in some if name in r] for some in (found, expected)]
        assert len(values[0]) == (3 if name.startswith("test") else 54)
        np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)


def test_streamed_examples_are_those_in_memory(one: Path) -> None:
    for name in ("train_number", "train_square", "test_number"):
        assert [r.get(name) for r in records(one / "streamed")] == [r.get(name) for r in records(one / "memory")]


def test_parameters_and_moments_lie_in_shares(two: tuple[Path, list[list[dict[str, Any]]]]) -> None:
    for printed in two[1]:
        assert dict(zip(KINDS, (line["sharding"] for line in printed), strict=True)) == {
            **{kind: [] for kind in KINDS}, "sharded": [None, "batch"]
        }  # fmt: skip
        # parameters, momenta and average: a quarter of 16 x 2048, and 14,340 whole; running statistics; two counts
        expected = [4 * (3 * (8192 + 14340) + 4096 + 2), 4 * (3 * (32768 + 14340) + 4096 + 2)]
        assert printed[list(KINDS).index("sharded")]["bytes"] == expected
        assert [line["local"] for line in printed] == [[16, 2048], [16, 2048], [16, 512], [16, 2048]]


def test_each_example_is_scored_once_and_corrupt_ones_never(
    one: Path, two: tuple[Path, list[list[dict[str, Any]]]]
) -> None:
    sound = [number for number in range(37) if number not in (3, 30)]
    for printed in two[1]:
        for kind, line in zip(KINDS, printed, strict=True):
            expected = sound if kind == "source" else list(range(37))
            assert line["labels"] == expected and line["outputs"] == [len(expected), 4]
    last = records(one / "source")[-1]
    assert last["test_number"] == pytest.approx(np.mean(sound), rel=1e-6)


def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, one: Path, caplog: pytest.LogCaptureFixture
) -> None:
    groups.run(PROGRAM, tmp_path, '{"epochs": 4}', "sharded", count=2)
    assert checkpoint.steps(tmp_path / "sharded") == [12, 24]
    run("sharded", tmp_path)
    assert "processes: was 2, is now 1: from here on the bits may differ" in caplog.text
    values = [[r["train_loss"] for r in records(folder / "sharded") if "train_loss" in r] for folder in (tmp_path, one)]
    np.testing.assert_allclose(*values, rtol=1e-5, atol=1e-5)
