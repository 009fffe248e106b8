"""Any net on any data by experiments/train.py, as a user does it, and what the other scripts make of such a run."""

from __future__ import annotations

import importlib.util
import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnnjax import data, train
from cnnjax.train import metrics
from tests import processes
from tests.data.picture_files import fill
from tests.experiments import events, tiny_sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user's net and data are, and the scripts started: my_nets.py and tiny.npz."""
    path = tmp_path_factory.mktemp("user")
    tiny_sets.write_net(path)
    tiny_sets.write_npz(path / "tiny.npz")
    return path


OWN = ("--model=my_nets.py:Small", "--model_options={\"width\": 6}")  # fmt: skip
TINY = (*OWN, "--dataset=npz:tiny.npz", "--batch_size=8", "--log_every=1")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """One epoch of one's own net on the digits."""
    printed = processes.good("train.py", *OWN, "--epochs=1", "--workdir=run", folder=folder)
    assert "Small on digits (1,437 train, 360 test)" in printed and "conv (Conv)    8 x 8 x 6" in printed
    assert "after 1 epoch (22 updates)" in printed
    known = importlib.util.find_spec("tensorboard") is not None
    assert ("tensorboard --logdir=run" in printed) == known, "a command is told only where it is there"
    return folder / "run"


def config_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())


def scored(run: Path) -> list[dict[str, Any]]:
    return [record for record in metrics.read(run / "metrics.jsonl") if "test_loss" in record]


def test_what_a_run_of_ones_own_net_leaves(run: Path) -> None:
    config = config_of(run)
    assert config["model"] == {"name": "my_nets.py:Small", "width": 6, "size": 8, "num_classes": 10, "channels": 1}
    assert (config["optimizer"], config["decay"], config["augment"]) == ("adamw", "kernels", False)
    (record,) = scored(run)
    assert (record["step"], record["epoch"]) == (22, 1) and "train_epoch_accuracy" in record
    assert {path.name for path in run.glob("*.png")} >= {"curves.png", "kernels.png", "confusion.png", "mistakes.png"}
    assert {"curves", "kernels", "test/loss"} <= events.tags(run)


@pytest.mark.thorough
def test_the_other_scripts_know_the_net(run: Path, folder: Path) -> None:
    """A digit enlarged to 200x200 is resized; of one that is dark on white a warning is given; folders are made."""
    digit = data.digits().test_images[40, ..., 0]
    Image.fromarray(digit).resize((200, 200)).save(folder / "large.png")
    Image.fromarray(255 - digit).save(folder / "paper.png")
    done = processes.run("predict.py", "--workdir=run", "--output=new/deep/figure.png", "large.png", "paper.png",
                         "--index=40", folder=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all(
        f"{name}: " in done.stdout
        for name in ("large.png", "paper.png", f"test 40 (true: {data.digits().test_labels[40]})")
    )
    (warning,) = [line for line in done.stderr.splitlines() if line]
    assert warning.startswith("warning: paper.png looks inverted: bright where the training images are dark.")
    assert (folder / "new/deep/figure.png").exists()
    printed = processes.good("visualize.py", "--workdir=run", "--output=inside", folder=folder)
    assert "checkpoint 22 of run" in printed and (folder / "inside/feature_maps.png").exists()
    printed = processes.good("compare.py", "run", "--out=compared", folder=folder)
    assert "Small on digits" in printed and "1 run in 1 group: compared/compare.png and .json" in printed


@pytest.mark.thorough
def test_seeds_make_runs_of_their_own_and_a_table(folder: Path, run: Path) -> None:
    flags = (*TINY, "--epochs=2", "--seed=3", "--workdir=seeds", "--deterministic", "--updates_per_call=2")
    processes.good("train.py", *flags, "--seeds=2", folder=folder)
    before = {path: path.read_bytes() for path in (folder / "seeds").glob("*/metrics.jsonl")}
    assert sorted(path.parent.name for path in before) == ["seed3", "seed4"]
    printed = processes.good("train.py", *flags, "--seeds=3", folder=folder)
    assert {path: path.read_bytes() for path in before} == before, "what is finished is not done again"
    assert [config_of(folder / "seeds" / f"seed{n}")["seed"] for n in (3, 4, 5)] == [3, 4, 5]
    config = config_of(folder / "seeds/seed5")
    assert config["deterministic"] and config["updates_per_call"] == 2
    assert "--xla_gpu_exclude_nondeterministic_ops=true" in config["environment"]["XLA_FLAGS"].split()
    losses = [scored(folder / "seeds" / f"seed{n}")[-1]["test_loss"] for n in (3, 4, 5)]
    assert len(set(losses)) == 3
    (line,) = [line.split() for line in printed.splitlines() if line.startswith("test_loss ")]
    expected = [statistics.mean(losses), statistics.stdev(losses), *losses]
    assert line[1:] == [f"{value:.4f}" for value in expected]
    assert "3 seeds" in printed

    message = processes.refusal("train.py", *flags, folder=folder)
    assert "--workdir=seeds holds the runs of several seeds: give --seeds=N to go on with them." in message
    message = processes.refusal("train.py", *OWN, "--seeds=2", "--workdir=run", folder=folder)
    assert "--workdir=run holds a single run: leave --seeds out, or give another folder." in message


@pytest.mark.thorough
def test_seeds_at_once(folder: Path, run: Path) -> None:
    """The same numbers as one after the other, but for rounding, in folders alike, in whichever way they go on."""
    flags = (*TINY, "--epochs=2", "--seed=3", "--seeds=2")
    processes.good("train.py", *flags, "--workdir=in_turn", folder=folder)
    printed = processes.good("train.py", *flags, "--workdir=at_once", "--at_once", folder=folder)
    assert "2 seeds at once, each in a folder of its own there" in printed
    for seed in ("seed3", "seed4"):
        pair = [scored(folder / name / seed)[-1] for name in ("at_once", "in_turn")]
        assert pair[0] == pytest.approx(pair[1], rel=1e-3)
        assert (folder / "at_once" / seed / "confusion.png").exists()
    assert re.search("^2 seeds +mean", printed, re.MULTILINE)
    assert config_of(folder / "at_once/seed3")["environment"]["at_once"] == 2
    printed = processes.good("train.py", *flags, "--workdir=at_once", "--at_once", folder=folder)
    assert re.search("^2 seeds +mean", printed, re.MULTILINE), "of runs that are finished"

    message = processes.refusal("train.py", *TINY, "--workdir=new", "--at_once", folder=folder)
    assert "--at_once is for several runs: give --seeds=N, or leave it out." in message
    message = processes.refusal("train.py", *flags, "--workdir=new", "--at_once", "--profile", folder=folder)
    assert "--profile=True traces one run: leave it out, or train the nets one after the other." in message
    message = processes.refusal("train.py", *flags, "--workdir=new", "--at_once", "--local_batch_norm", folder=folder)
    assert "--local_batch_norm shares a batch out over devices, of which --at_once gives a net one." in message
    assert not list((folder / "new").rglob("*.json"))


@pytest.mark.thorough
def test_the_kit_in_one_run(folder: Path) -> None:
    kit = ("--label_smoothing=0.1", "--mixup=0.2", "--cutout=2", "--ema=0.9", "--warmup=3", "--accumulate=2",
           "--tta=shift", "--metric=accuracy,top5", "--grad_clip=1", "--validation=6")  # fmt: skip
    printed = processes.good("train.py", *TINY, "--recipe=momentum", "--epochs=3", *kit, "--workdir=kit", folder=folder)
    assert "best by validation: epoch " in printed and "top5 100.00%" in printed
    config = config_of(folder / "kit")
    wanted = {
        "optimizer": "momentum", "nesterov": True, "schedule": "cosine", "weight_decay": 5e-4, "decay": "kernels",
        "batch_size": 8, "epochs": 3, "label_smoothing": 0.1, "mixup": 0.2, "cutout": 2, "cutmix": None, "ema": 0.9,
        "warmup": 3, "accumulate": 2, "grad_clip": 1.0, "validation": 6,
    }  # fmt: skip
    assert {name: config[name] for name in wanted} == wanted
    assert config["input"]["views"] == "shift"
    records = metrics.read(folder / "kit" / "metrics.jsonl")
    rates = [record["learning_rate"] for record in records if "learning_rate" in record]
    assert len(rates) == 6 and rates[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1]), "in four steps to the peak"
    assert {"validation_top5", "test_top5", "test_accuracy", "train_epoch_accuracy"} <= records[-1].keys()
    state, _ = train.restore(folder / "kit")
    kernel, average = (np.asarray(state[name]["conv"]["kernel"]) for name in ("params", "average"))
    assert kernel.shape == average.shape and (kernel != average).any()
    shown = events.hyperparameters(folder / "kit")
    assert (shown["mixup"], shown["optimizer"], shown["accumulate"]) == (0.2, "momentum", 2)


@pytest.mark.thorough
def test_from_another_run_with_frozen_parameters(folder: Path, run: Path) -> None:
    flags = (*TINY, "--epochs=1", "--init_from=run", "--freeze=^conv", "--workdir=tuned")
    printed = processes.good("train.py", *flags, folder=folder)
    assert "from run: 2 arrays; drawn afresh: head/bias, head/kernel" in printed
    taken, (tuned, _) = train.restore(run)[0], train.restore(folder / "tuned")
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(tuned["params"]["conv"][name], taken["params"]["conv"][name])
    assert tuned["params"]["head"]["kernel"].shape == (6, 3)
    assert config_of(folder / "tuned")["init_from"] == "run"


@pytest.mark.thorough
def test_a_folder_of_photos_of_any_size_in_colour(folder: Path) -> None:
    """Its gray images of 6x5 become 8x8 in three channels; predict finds the images again."""
    fill(folder / "pets" / "train", {"cat": 6, "dog": 6})
    fill(folder / "pets" / "test", {"cat": 2, "dog": 2}, (9, 7))
    flags = ("--dataset=folder:pets", "--image_size=8", "--channels=3", "--epochs=1", "--batch_size=4")
    printed = processes.good("train.py", *OWN, *flags, "--augment", "--workdir=photos", folder=folder)
    assert "Small on folder:pets (12 train, 4 test)" in printed and "conv (Conv)    8 x 8 x 6" in printed
    config = config_of(folder / "photos")
    assert config["class_names"] == ["cat", "dog"] and config["model"]["channels"] == 3
    assert (config["input"]["size"], config["input"]["resize_to"], config["input"]["channels"]) == (8, 8, 3)
    assert "test 3 (true: dog): " in processes.good("predict.py", "--workdir=photos", "--index=3", folder=folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model=lenet6"], "error: there is no model 'lenet6': it must be one of airbench94, "),
        (["--model=my_nets:Nothing"], "error: my_nets has no 'Nothing': the model must be one of its classes"),
        (["--model=no_nets.py:Small"], "error: the file no_nets.py of the model is not there, seen from "),
        (["--model=no_nets:Small"], "error: the module no_nets of the model cannot be imported"),
        (["--model=my_nets:none"], "error: the model my_nets:none made a int; it must be a flax.nnx.Module."),
        ([*OWN, "--dtype=bfloat16"], "error: --dtype=bfloat16: this model takes no dtype"),
        ([OWN[0], "--model_options={width: 2}"], "error: --model_options='{width: 2}' is not JSON"),
        ([OWN[0], "--model_options={\"size\": 2}"], "error: --model_options: size comes from other flags"),
        ([OWN[0], "--model_options={\"depth\": 2}"], "cannot be built from {'size': 8, 'depth': 2, "),
        (["--model=lenet5"], "error: the net does not take images of 8 x 8 x 1: x must be (N, 32, 32, channels)"),
        ([*OWN, "--mixup=1", "--cutmix=1"], "error: --mixup and --cutmix each change pairs of images"),
        ([*OWN, "--cutout=8"], "error: --cutout=8 would blank the whole image: give less than 8."),
        ([*OWN, "--optimizer=adam", "--optimizer_options=0.9"], "error: --optimizer_options='0.9' must be keywords"),
        ([*OWN, "--optimizer=adam", "--optimizer_options={\"b3\": 1}"], "--optimizer_options must be among b1, b2"),
        ([*OWN, "--optimizer=adam", "--nesterov"], "--nesterov must be False where the optimizer is 'adam'"),
        ([*OWN, "--loss_scale=abc"], "error: --loss_scale=abc must be a finite number of at least 1."),
        ([*OWN, "--warmup=220"], "--warmup must be from 0 to 219, fewer than the 220 updates, was 220"),
        ([*OWN, "--freeze=("], "--freeze: pattern must be a regular expression, was '('"),
        ([*OWN, "--freeze=conv9"], "'conv9' is found in no path of a parameter"),
        ([*OWN, "--accumulate=3"], "--batch_size=64 cannot be split into --accumulate=3 equal parts"),
        ([*OWN, "--metric=top6"], "error: --metric=top6: must be one of accuracy, top5."),
        ([*OWN, "--tta=mirror"], "error: --tta=mirror: images of characters are never mirrored; give --tta=shift or"),
        ([*OWN, "--seeds=2", "--seed=2147483647"], "error: --seeds=2 from --seed=2147483647 on passes 2147483647"),
        ([*OWN, "--init_from=tiny.npz"], "error: --init_from=tiny.npz: tiny.npz "),
        ([*OWN, "--dataset=npz:none.npz"], "none.npz"),
        ([*OWN, "--test_share=0.2"], "error: --test_share was 0.2, but digits has a test part of its own"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments: list[str], message: str, folder: Path) -> None:
    assert message in processes.refusal("train.py", *arguments, "--workdir=refused", folder=folder)
    assert not (folder / "refused").exists(), "nothing may be left behind"


def test_the_loss_of_1998_takes_no_other_labels(folder: Path) -> None:
    message = processes.refusal("lenet5.py", "--variant=1998", "--label_smoothing=0.1", folder=folder)
    assert "error: --label_smoothing is for the cross-entropy; this net has a loss of its own: leave it out." in message
    assert not (folder / "runs").exists(), "nothing may be left behind"
