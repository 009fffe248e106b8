from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax.errors import UserError
from cnnjax.train import run_dir

CONFIG = {"epochs": 3, "schedule": "onecycle", "keep": 2, "model": {"name": "lenet5", "variant": "modern"}, "seed": 0}


def begin(workdir: Path) -> None:
    """Leaves a checkpoint's folder, as a run that has something to go on with."""
    (workdir / "checkpoints" / "5").mkdir(parents=True)


def test_before_the_first_checkpoint_other_settings_are_taken(tmp_path: Path) -> None:
    run = {**CONFIG, "environment": {}}
    run_dir.settle_config(tmp_path, run)
    run_dir.settle_config(tmp_path, {**run, "seed": 4})
    assert run_dir.read_config(tmp_path)["seed"] == 4
    begin(tmp_path)
    with pytest.raises(UserError, match="seed: was 4, is now 0"):
        run_dir.settle_config(tmp_path, run)


def test_a_config_of_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="holds a run with other settings"):
        run_dir.settle_config(tmp_path, {**CONFIG, "environment": {}})


def test_settled_once_and_then_the_same(tmp_path: Path) -> None:
    assert run_dir.settle_config(tmp_path, CONFIG) == []
    begin(tmp_path)
    assert run_dir.settle_config(tmp_path, {**CONFIG, "keep": 5, "log_every": 3}) == []
    assert run_dir.read_config(tmp_path)["keep"] == 5


def test_every_difference_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    run_dir.settle_config(tmp_path, CONFIG)
    begin(tmp_path)
    other = {**CONFIG, "seed": 4, "epochs": 9, "model": {"name": "lenet5", "variant": "classic"}}
    with pytest.raises(UserError) as error:
        run_dir.settle_config(tmp_path, other)
    for difference in ("seed: was 0, is now 4", "epochs: was 3, is now 9", "model.variant: was modern, is now classic"):
        assert difference in str(error.value)
    assert run_dir.read_config(tmp_path) == CONFIG


def test_epochs_may_grow_with_a_constant_rate_and_never_shrink(tmp_path: Path) -> None:
    constant = {**CONFIG, "schedule": "constant"}
    run_dir.settle_config(tmp_path, constant)
    begin(tmp_path)
    run_dir.settle_config(tmp_path, {**constant, "epochs": 5})
    with pytest.raises(UserError, match="epochs: was 5, is now 4"):
        run_dir.settle_config(tmp_path, {**constant, "epochs": 4})


def test_part_of_an_epoch_does_not_grow(tmp_path: Path) -> None:
    """The records of the epoch would have the means of its rest alone."""
    constant = {**CONFIG, "schedule": "constant", "epochs": 0.5}
    run_dir.settle_config(tmp_path, constant)
    begin(tmp_path)
    with pytest.raises(UserError, match=r"epochs: was 0\.5, is now 1"):
        run_dir.settle_config(tmp_path, {**constant, "epochs": 1})


def test_a_first_save_that_was_cut_binds_nobody(tmp_path: Path) -> None:
    config = {**CONFIG, "environment": {}}
    run_dir.settle_config(tmp_path, config)
    (tmp_path / "checkpoints/8.orbax-checkpoint-tmp").mkdir(parents=True)
    run_dir.settle_config(tmp_path, {**config, "seed": 4})
    assert run_dir.read_config(tmp_path)["seed"] == 4 and run_dir.begun(tmp_path) is None


def test_a_run_from_before_a_setting_goes_on_as_it_was(tmp_path: Path) -> None:
    run_dir.settle_config(tmp_path, CONFIG)
    begin(tmp_path)
    with pytest.raises(UserError, match="other settings: deterministic: was False, is now True"):
        run_dir.settle_config(tmp_path, {**CONFIG, "deterministic": True})
    assert run_dir.settle_config(tmp_path, {**CONFIG, "deterministic": False}) == []
    assert run_dir.settle_config(tmp_path, CONFIG) == []


def test_another_environment_is_reported_and_accepted(tmp_path: Path) -> None:
    run_dir.settle_config(tmp_path, {**CONFIG, "environment": {"jax": "0.10.2", "cores": 2}})
    begin(tmp_path)
    changed = run_dir.settle_config(tmp_path, {**CONFIG, "environment": {"jax": "0.12.0", "cores": 2}})
    assert changed == ["jax: was 0.10.2, is now 0.12.0"]


def test_environment_names_what_bits_depend_on() -> None:
    assert {"jax", "jaxlib", "device", "devices", "cores", "python"} <= run_dir.environment().keys()


HOLDER = """
import sys
from pathlib import Path
from cnnjax.train import run_dir
with run_dir.claim(Path(sys.argv[1])):
    run_dir.write_json(Path(sys.argv[1]) / "config.json", {"epochs": 3})
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "claimed\n"
        with pytest.raises(UserError, match="in use by another process"), run_dir.claim(tmp_path / "run"):
            pytest.fail("a second process got in")
        holder.kill()  # the lock goes with its process, however that ends
        holder.wait()
        with run_dir.claim(tmp_path / "run"):
            assert run_dir.read_config(tmp_path / "run") == {"epochs": 3}


def test_a_folder_of_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"holds thesis.tex but no config.json"), run_dir.claim(tmp_path):
        pytest.fail("claimed")
    assert (tmp_path / "thesis.tex").read_text() == "x"


def test_a_file_and_an_impossible_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"), run_dir.claim(tmp_path / "file"):
        pytest.fail("claimed")
    with pytest.raises(UserError, match="cannot be made"), run_dir.claim(Path("/proc/no/such")):
        pytest.fail("claimed")


def test_a_run_that_failed_at_once_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), run_dir.claim(tmp_path / "run"):
        raise KeyError
    assert not (tmp_path / "run").exists()
    with pytest.raises(KeyError), run_dir.claim(tmp_path / "run"):
        (tmp_path / "run/compiled").mkdir()
        raise KeyError
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_killed_while_it_compiled_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled/jit_f-cache").write_text("x")
    with pytest.raises(KeyError), run_dir.claim(tmp_path):
        raise KeyError
    assert (tmp_path / "compiled/jit_f-cache").exists(), "it was there before"


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"epochs": ')
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        run_dir.settle_config(tmp_path, CONFIG)
    assert (tmp_path / "config.json").read_text() == '{"epochs": '


def test_dated_folders_do_not_collide(tmp_path: Path) -> None:
    paths = {run_dir.dated(tmp_path, "lenet5") for _ in range(3)}
    assert len(paths) == 3 and all(path.is_dir() and "lenet5" in path.name for path in paths)


def test_json_is_written_whole(tmp_path: Path) -> None:
    run_dir.write_json(tmp_path / "a.json", {"b": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
