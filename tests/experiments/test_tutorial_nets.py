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


@pytest.mark.thorough
def test_the_cifar_net_with_batch_norm(tmp_path: Path) -> None:
    flags = ["--dataset=digits", "--epochs=1", "--blocks=2", "--width=4", "--batch_norm", "--algorithm=im2col"]
    done = processes.run("cifar10.py", *flags, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "blocks.1.norm (BatchNormMaxPool)  8 x 8 x 8" in done.stdout
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
