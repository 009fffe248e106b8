"""The scripts of the MNIST net and of CIFAR-10, on the digits, which are always there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import processes


@pytest.mark.slow
def test_the_mnist_net_prints_its_shapes_and_reports(tmp_path: Path) -> None:
    done = processes.run("mnist_cnn.py", "--dataset=digits", "--epochs=1", "--augment", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "conv3 (Conv)     3 x 3 x 128" in done.stdout and "total" in done.stdout
    assert "test accuracy" in done.stdout and (tmp_path / "run/kernels.png").exists()


def test_the_cifar_net_with_batch_norm(tmp_path: Path) -> None:
    flags = ["--dataset=digits", "--epochs=1", "--blocks=2", "--width=4", "--batch_norm", "--algorithm=im2col"]
    done = processes.run("cifar10.py", *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "blocks.1.norm (BatchNorm)  16 x 16 x 8" in done.stdout
    assert "test accuracy" in done.stdout and (tmp_path / "run/kernels.png").exists()


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        ("mnist_cnn.py", ["--downsample=both"], "flag --downsample=both"),
        ("cifar10.py", ["--model=resnet18", "--blocks=2"], "--blocks is for --model=cnn; leave it out"),
        (
            "cifar10.py",
            ["--conv=flax", "--algorithm=fft", "--dataset=digits"],
            "algorithm must be 'auto' where conv is",
        ),
        ("cifar10.py", ["--blocks=6"], "flag --blocks=6"),
    ],
)
def test_bad_flags(script: str, flags: list[str], message: str, tmp_path: Path) -> None:
    assert message in processes.refusal(script, *flags, f"--workdir={tmp_path / 'new'}")


def test_overfitting_is_said() -> None:
    from cnnjax.app import summary

    def records(tested: list[float], trained: list[float]) -> list[dict]:
        pairs = zip(tested, trained, strict=True)
        return [{"epoch": e, "train_loss": b, "test_loss": a} for e, (a, b) in enumerate(pairs, 1)]

    word = summary.overfitting(records([0.9, 0.5, 0.6, 0.8], [0.8, 0.4, 0.3, 0.2]))
    assert word == (
        "the test loss turned after epoch 2 (0.5000, at the end 0.8000) while the train loss fell from 0.4000 to "
        "0.2000: the net overfits"
    )
    assert summary.overfitting(records([0.9, 0.5, 0.51], [0.8, 0.4, 0.3])) is None  # not by a twentieth
    assert summary.overfitting(records([0.9, 0.5, 0.8], [0.8, 0.4, 0.5])) is None  # both rise
    seldom = [{"epoch": 1, "train_loss": 0.8}, *({"epoch": e, "test_loss": loss} for e, loss in ((1, 0.5), (2, 0.9)))]
    assert summary.overfitting(seldom) is None  # no record of the last epoch's training
