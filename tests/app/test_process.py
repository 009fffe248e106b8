"""The frame around the scripts: memory and compiled code that are kept, help, and errors in the words of flags."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax.ops.conv import onednn
from tests import processes

# ten arrays of 64 MB in turn: anew each time these are 163,840 pages of 4 KB to fill with zeros, kept 16,384
ALLOTTED_IN_TURN = """
import resource
import jax, numpy as np
from cnnjax.app import process
process.keep_memory()
assert not jax.config.read("jax_cpu_enable_async_dispatch"), "whoever set malloc"
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.empty({bytes}, np.uint8)[: 2**26] = 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 2**20)
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux" or os.confstr("CS_GNU_LIBC_VERSION") is None, reason="glibc's malloc")
@pytest.mark.parametrize("size", [2**26, 2**32])
@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, False)])
def test_memory_is_kept_unless_the_user_set_malloc(setting: dict[str, str], kept: bool, size: int) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", ALLOTTED_IN_TURN.format(bytes=size)],
        env={**own, **setting, "NUMPY_MADVISE_HUGEPAGE": "0"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    megabytes = float(done.stdout)
    assert (megabytes < 128) if kept else (megabytes > 512)


# the compiled code of a convolution by oneDNN is not kept, that of the function after it is
CONVOLUTION_AND_SINE = """
import jax, jax.numpy as jnp, os
from cnnjax import ops
from cnnjax.app import process
process.keep_compiled()
x = jnp.ones((2, 8, 8, 20))
def convolution(x): return ops.conv(x, jnp.ones((3, 3, 20, 24)), padding=1)
def sine(x): return jnp.sin(x)
for f in convolution, sine:
    jax.block_until_ready(jax.jit(f)(x))
print(*sorted(name.split("-")[0] for name in os.listdir(os.environ["JAX_COMPILATION_CACHE_DIR"]) if "cache" in name))
"""


@pytest.mark.skipif(not onednn.is_available(), reason="this jaxlib has no door to oneDNN that was tested")
def test_what_calls_onednn_is_not_kept(tmp_path: Path) -> None:
    settings = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CONVOLUTION_AND_SINE], env={**os.environ, **settings},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept = done.stdout.split()
    assert "jit_sine" in kept and "jit_convolution" not in kept


@pytest.mark.parametrize("flag", ["--help", "--helpshort", "-h"])
def test_help_is_no_failure(flag: str) -> None:
    done = processes.run("train.py", flag)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("Train any net on any data set of images") and "--model: " in done.stdout


def test_help_into_a_pipe_that_is_closed() -> None:
    """As by `| head`."""
    with processes.start_afresh("predict.py", "--help") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 0


def test_a_wrong_flag_is_one_sentence() -> None:
    message = processes.refusal("train.py", "--epochs=x", "--help")
    assert message.startswith("error: flag --epochs=x: ") and message.endswith("\nSee --help for the flags.\n")


def test_the_arguments_of_the_library_are_said_as_flags() -> None:
    """Only where the script has such a flag: `loss` is none."""
    program = """
import sys
from absl import flags
from cnnjax.app import flags as shared, process
shared.define_training_flags()
flags.FLAGS(["x"])
print(process.as_flags("`seed=3` differs from `workdir=a/b c`, `loss=x`; give `workdir`, `loss` or `epochs` and `"))
"""
    assert processes.program(program) == (
        "--seed=3 differs from --workdir=a/b c, loss=x; give --workdir, loss or --epochs and `\n"
    )
