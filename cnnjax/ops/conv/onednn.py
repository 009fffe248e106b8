"""A door to oneDNN, the library under PyTorch's convolutions, which the jaxlib wheels for Linux on x86-64 carry.

XLA's run time executes two custom calls that nothing in JAX makes: ``__onednn$convolution`` and ``__onednn$matmul``.
Both are undocumented, and end the process where they are asked for what they cannot do.  So they are used on those
jaxlib versions alone on which the tests of the ops have passed, and every caller asks :func:`serves` first.
``CNNJAX_ONEDNN=0`` in the environment closes the door; pure lax then serves, with the same numbers to rounding.

Neither has a derivative or a batching rule: :mod:`cnnjax.ops.conv.primitive` gives them both.
"""

import functools
import json
import os
import platform
from typing import Any

import jax
import jaxlib

from cnnjax.ops.geometry import Windows, slide

TESTED = ("0.10.2", "0.12.0")
calls = 0  # put into programs so far; the scripts' frame asks, as JAX cannot keep an executable that holds one


@functools.cache
def is_open() -> bool:
    """Whether this jaxlib has the door, and the user leaves it open.  Asked once in a process."""
    here = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    version = ".".join(jaxlib.__version__.split(".")[:3])
    return here and version in TESTED and os.environ.get("CNNJAX_ONEDNN", "1") != "0"


def serves(*arrays: Any) -> bool:
    """Whether convolutions of these arrays may be computed here: float32, sequences or images, none empty."""
    return is_open() and all(a.dtype == "float32" and a.ndim in (3, 4) and a.size for a in arrays)


def conv(x: jax.Array, w: jax.Array, windows: Windows, groups: int) -> jax.Array:
    """The convolution of x (N, *S, C) with w (*K, C // groups, F): (N, *S', F).  Its padding is not negative."""
    sizes, window, stride, dilation, padding, output = windows
    expected = slide(sizes, window, stride=stride, dilation=dilation, padding=padding).output
    if min(map(min, padding)) < 0 or output != expected:  # it would end the process
        raise ValueError(f"windows must have no negative padding and the output {expected}, got {windows}")
    low, high = zip(*padding, strict=True)
    rank = len(sizes)
    image = {"data": {"batch_dim": 0, "feature_dim": rank + 1, "spatial_dims": list(range(1, rank + 1))}}
    kernel = {"input_feature_dim": rank, "output_feature_dim": rank + 1, "spatial_dims": list(range(rank))}
    config = {
        "dims": rank + 2,
        "feature_groups": groups,
        "input": image,
        "kernel": {"filter": kernel},
        "output": image,
        "window": {"pad_left": low, "pad_right": high, "strides": stride, "window_dilations": dilation},
    }
    shape = (x.shape[0], *output, w.shape[-1])
    return _call("__onednn$convolution", {"onednn_conv_config": config}, shape, x, w)


def matmul(a: jax.Array, b: jax.Array, transpose_a: bool) -> jax.Array:
    """a b, or a^T b, of float32 matrices (..., M, P), or (..., P, M), and (..., P, N)."""
    config = {"transpose_a": transpose_a, "transpose_b": False}
    shape = (*a.shape[:-2], a.shape[-1 if transpose_a else -2], b.shape[-1])
    return _call("__onednn$matmul", {"onednn_matmul_config": config}, shape, a, b)


def _call(name: str, config: dict[str, Any], shape: tuple[int, ...], a: jax.Array, b: jax.Array) -> jax.Array:
    global calls
    calls += 1
    call = jax.ffi.ffi_call(
        name,
        jax.ShapeDtypeStruct(shape, a.dtype),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
    )
    return call(a, b)
