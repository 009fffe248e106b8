"""The frame around the scripts: memory kept between updates."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# ten arrays of 64 MB in turn: anew each time these are 163,840 pages of 4 KB to fill with zeros, kept 16,384
ALLOTTED_IN_TURN = """
import resource
import numpy as np
from cnnjax import flags
flags.keep_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(2**24, np.float32)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.confstr("CS_GNU_LIBC_VERSION") is None, reason="glibc's malloc")
@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "1000000"}, False)])
def test_memory_is_kept_unless_the_user_set_malloc(setting: dict[str, str], kept: bool) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", ALLOTTED_IN_TURN], env={**own, **setting, "NUMPY_MADVISE_HUGEPAGE": "0"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    megabytes = float(done.stdout)
    assert (megabytes < 128) if kept else (megabytes > 512)
