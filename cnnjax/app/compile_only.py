"""Settings of a process that compiles for machines that are not here."""

from __future__ import annotations

import os

SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


def install() -> None:
    """Lets the CPU plan; to be called before JAX is imported. Settings of the user's own stay.

    libtpu then neither looks for a TPU nor keeps it from other processes, and XLA does not log its choices.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
