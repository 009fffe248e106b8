"""What is damaged is named and not used; what is restored is what was saved, bit by bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from cnnjax import train
from cnnjax.errors import UserError
from cnnjax.train import checkpoint
from tests.train import tiny
from tests.train.tiny import OPTIONS, arrays, same_bits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiny.fit(folder, OPTIONS)
    assert checkpoint.steps(folder) == [20, 24]
    return folder


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.stat().st_size)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_restore_gives_state_and_config(run: Path) -> None:
    state, config = train.restore(run)
    assert config["seed"] == 0 and config["epochs"] == 4 and int(state["step"]) == 24
    assert state["params"]["conv1"]["kernel"].tobytes() == arrays(run)["params/conv1/kernel"].tobytes()
    assert set(state) == {"params", "rest", "opt_state", "step"}
    assert int(train.restore(run, 20)[0]["step"]) == 20
    model = train.load(tiny.Tiny(rngs=nnx.Rngs(5)), state["params"], state["rest"])
    np.testing.assert_array_equal(model.norm.mean[...], state["rest"]["norm"]["mean"])


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
def test_damage_to_any_file_of_the_newest_is_found(damage, run: Path, tmp_path: Path) -> None:
    for name in files(run / "checkpoints/24"):
        folder = tmp_path / "run"
        shutil.copytree(run, folder)
        damage(folder / "checkpoints/24" / name)
        found = checkpoint.read_newest(folder)
        assert found is not None
        if name == "SHA256SUMS" and damage is Path.unlink:  # as after a kill just before it was written
            assert same_bits(run, folder)
        else:
            assert int(found.arrays["step"]) == 20, name
            assert len(found.damaged) == 1 and str(folder / "checkpoints/24") in found.damaged[0]
        shutil.rmtree(folder)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate])
def test_without_the_list_of_files_the_arrays_are_still_checked(damage, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    newest = tmp_path / "run/checkpoints/24"
    (newest / "SHA256SUMS").unlink()
    damage(newest / "meta/metadata")
    with pytest.raises(checkpoint.DamagedCheckpoint, match="checkpoints/24 is damaged"):
        checkpoint.read(tmp_path / "run", 24)
    found = checkpoint.read(run, 24)
    found.arrays["params/conv1/kernel"].view(np.uint8)[0] ^= 1
    assert checkpoint.fingerprint(found.arrays) != checkpoint.fingerprint(arrays(run))


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, Path.unlink])
def test_a_run_goes_on_from_the_one_before_and_ends_the_same(
    damage, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    damage(max((folder / "checkpoints/24").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()))
    result = tiny.fit(folder, OPTIONS)
    assert result.updates == 4
    assert "checkpoints/24 is damaged" in capsys.readouterr().err
    assert [path.name for path in (folder / "damaged").iterdir()] == ["24.0"]
    assert same_bits(run, folder)


def test_all_damaged_is_an_error_not_a_new_start(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for step in (20, 24):
        shutil.rmtree(folder / "checkpoints" / str(step) / "state")
    with pytest.raises(UserError, match="No sound one is left"):
        tiny.fit(folder, OPTIONS)
    assert checkpoint.steps(folder) == [20, 24], "nothing may be lost"


def test_restore_names_what_is_missing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no checkpoint"):
        train.restore(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"has no checkpoint 7; it has \[20, 24\]"):
        train.restore(run, 7)


def test_fingerprint_sees_dtype_shape_and_name() -> None:
    zero = np.zeros(4, np.float32)
    prints = [
        checkpoint.fingerprint({"a": zero})["a"],
        checkpoint.fingerprint({"a": zero.reshape(2, 2)})["a"],
        checkpoint.fingerprint({"a": zero.view(np.int32)})["a"],
        checkpoint.fingerprint({"b": zero})["b"],
        checkpoint.fingerprint({"a": np.array([0, 0, 0, -0.0], np.float32)})["a"],
    ]
    assert len(set(prints)) == 5
