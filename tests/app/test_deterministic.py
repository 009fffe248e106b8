"""What `--deterministic` sets, and that the nets have no sums without an order, as far as that shows without a GPU."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest

from cnnjax import models, train
from cnnjax.app import deterministic
from cnnjax.errors import UserError
from cnnjax.models.build import MODELS
from cnnjax.models.lenet import map_loss
from cnnjax.train import optimizers, state
from tests import processes

#: Options and input shape of each net; of nets that differ in depth alone the least.
NETS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"name": "lenet5"}, (32, 32, 1)),
    ({"name": "lenet5", "variant": "classic"}, (32, 32, 1)),
    ({"name": "lenet5-1998"}, (32, 32, 1)),
    ({"name": "mnist_cnn"}, (28, 28, 1)),
    ({"name": "mnist_cnn", "downsample": "stride"}, (28, 28, 1)),
    ({"name": "cifar_cnn", "batch_norm": True}, (32, 32, 3)),
    ({"name": "resnet18"}, (32, 32, 3)),
    ({"name": "resnet50", "width": 8}, (64, 64, 3)),
    ({"name": "airbench94"}, (32, 32, 3)),
    ({"name": "airbench96", "widths": (32, 64, 64)}, (32, 32, 3)),
    ({"name": "alexnet", "channels": 3}, (224, 224, 3)),
    ({"name": "vgg", "depth": 11, "channels": 3}, (224, 224, 3)),
    ({"name": "textcnn", "vocabulary": 50}, (20,)),
]
#: Nets that differ from one above in their depth or width alone.
DEEPER = {"resnet34", "resnet101", "airbench95"}
#: TextCNN's words: the gradients of a word that a batch has twice are added. XLA sorts them first, with the flag.
SCATTERS = {"textcnn": 1}


def test_every_net_is_here() -> None:
    assert DEEPER | {options["name"] for options, _ in NETS} == {name for name in MODELS if ":" not in name}


@pytest.mark.thorough
@pytest.mark.parametrize(("options", "shape"), NETS, ids=[options["name"] for options, _ in NETS])
def test_the_update_for_a_gpu_adds_in_a_fixed_order(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    """For a scatter, or a select-and-scatter, XLA has to sort under the flag. The memory of the state is reused."""
    graphs = []

    def first() -> train.TrainState:
        net, made = state.initial(models.build({"model": options}), optimizer)
        graphs.append(net)
        return made

    optimizer = optimizers.optimizer("momentum", 0.1)
    shapes = jax.eval_shape(first)
    loss = partial(map_loss, j=5.0) if options["name"] == "lenet5-1998" else train.cross_entropy
    x = jax.ShapeDtypeStruct((1, 4, *shape), "int32" if len(shape) == 1 else "float32")
    update = train.make_train_step(train.make_update(graphs[0], optimizer, loss))
    traced = update.trace(shapes, x, jax.ShapeDtypeStruct((1, 4), "int32"))  # type: ignore[attr-defined]
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "select_and_scatter" not in text
    assert text.count('"stablehlo.scatter"') == SCATTERS.get(options["name"], 0)
    assert text.count("tf.aliasing_output") == len(jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("own", "after"),
    [
        ("", "--xla_gpu_exclude_nondeterministic_ops=true"),
        (" ", "--xla_gpu_exclude_nondeterministic_ops=true"),
        ("--xla_dump_to=x", "--xla_dump_to=x --xla_gpu_exclude_nondeterministic_ops=true"),
        ("--xla_gpu_exclude_nondeterministic_ops --a=b", "--xla_gpu_exclude_nondeterministic_ops --a=b"),
        ("--xla_gpu_exclude_nondeterministic_ops=1", "--xla_gpu_exclude_nondeterministic_ops=1"),
    ],
)
def test_the_flag_joins_the_users_own(own: str, after: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", own)
    deterministic.exclude_nondeterministic_ops()
    assert os.environ["XLA_FLAGS"] == after


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ("--a=b --xla_gpu_exclude_nondeterministic_ops=false", "ops=false, which contradicts `deterministic`: leave"),
        ("--xla_gpu_exclude_nondeterministic_ops=0", "ops=0, which contradicts `deterministic`: leave one of them out"),
        ("flags.txt", "XLA_FLAGS=flags.txt names a file, to which `deterministic` adds nothing: write its flags into"),
    ],
)
def test_flags_that_say_otherwise_are_refused(own: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", own)
    with pytest.raises(UserError, match=sentence):
        deterministic.exclude_nondeterministic_ops()
    assert os.environ["XLA_FLAGS"] == own


# the second function is compiled in less time than is worth keeping elsewhere
KEPT = """
import os, sys
from pathlib import Path
import jax, jax.numpy as jnp
from absl import flags
from cnnjax.app import deterministic, flags as shared
jax.config.update("jax_compilation_cache_dir", None)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 10.0)
del os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]
shared.define_run_flags()
flags.FLAGS(["x", *sys.argv[2:]])
if deterministic.is_asked_for():
    deterministic.exclude_nondeterministic_ops()
deterministic.keep_compiled_in(Path(sys.argv[1]))
jax.block_until_ready(jax.jit(lambda x: x + 17)(jnp.ones(3)))
kept = {path.parent.name for path in Path(sys.argv[1]).rglob("*-cache")}
print(os.environ["XLA_FLAGS"].count("nondeterministic"), *kept)
"""


def test_xla_knows_the_flag_and_what_is_compiled_is_kept_beside_the_run(tmp_path: Path) -> None:
    """An XLA that does not know a flag ends the process."""
    assert processes.program(KEPT, tmp_path, "--deterministic") == "1 compiled\n"


def test_without_the_flag_nothing_is_set_or_kept_there(tmp_path: Path) -> None:
    assert processes.program(KEPT, tmp_path) == "0\n"


def test_the_users_own_folder_of_compiled_programs_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deterministic, "is_asked_for", lambda: True)
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    cache = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
        deterministic.keep_compiled_in(tmp_path / "run")
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    finally:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
