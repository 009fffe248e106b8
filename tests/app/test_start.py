"""What `--init_from` takes of a weights file, and the words about it."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from cnnjax import interop, models
from cnnjax.app.start import start_from
from cnnjax.errors import UserError
from tests import nets


def lenet5(classes: int) -> nnx.Module:
    return nets.filled(lambda: models.build({"model": {"name": "lenet5", "num_classes": classes}}))


def test_a_safetensors_file_for_a_new_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, path = lenet5(10), tmp_path / "old.safetensors"
    interop.save_weights(old, path)
    changed = jax.tree.map(lambda leaf: leaf + 1 if leaf.dtype == np.float32 else leaf, nnx.state(lenet5(4), nnx.Param))
    new = lenet5(4)
    nnx.update(new, changed)
    head = np.asarray(new.dense3.kernel[...])
    started = start_from(new, str(path))
    assert capsys.readouterr().out == f"from {path}: 8 arrays; drawn afresh: dense3/bias, dense3/kernel\n"
    np.testing.assert_array_equal(started.conv1.kernel[...], old.conv1.kernel[...])
    np.testing.assert_array_equal(started.dense3.kernel[...], head)


def test_nothing_given_leaves_the_net_as_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    net = lenet5(10)
    assert start_from(net, None) is net and capsys.readouterr().out == ""


def test_what_cannot_be_read_is_named_with_its_flag(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "absent.safetensors"):
        with pytest.raises(UserError, match=f"^--init_from={source}: "):
            start_from(lenet5(10), str(source))
