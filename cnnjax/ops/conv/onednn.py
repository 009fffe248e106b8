"""Calls of oneDNN, the library under PyTorch's convolutions, which the jaxlib wheels for Linux on x86-64 carry.

XLA's run time executes two custom calls that nothing in JAX makes: `__onednn$convolution` and `__onednn$matmul`. Both
are undocumented, and end the process where they are asked for what they cannot do. So they are made only with those
jaxlib versions with which the tests of the ops have passed, and every caller asks `supports` first. `CNNJAX_ONEDNN=0`
in the environment switches them off; XLA's own forms then give the same numbers to rounding.

An executable with such a call cannot be serialised: XLA writes a garbage length for it, and raises MemoryError.
Exported programs therefore never hold one, and JAX's persistent compilation cache is kept from trying
(`_keep_out_of_cache`). Whoever serialises executables (`jax.experimental.serialize_executable`) must switch oneDNN
off.
"""

import functools
import json
import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib

from cnnjax.ops.geometry import Windows, slide

# The releases of jaxlib with which the tests have passed: the calls' format belongs to the release.
TESTED_JAXLIBS = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2", "0.12.0")
# JAX times the lowering of a program, and compiles it next.
LOWERED_EVENT = "/jax/core/compile/jaxpr_to_mlir_module_duration"
# The shortest compilation, in seconds, whose result JAX keeps.
SHORTEST_KEPT = "jax_persistent_cache_min_compile_time_secs"


@functools.cache
def is_available() -> bool:
    """Returns whether this jaxlib has the calls, and the user lets them be made. Asked once in a process."""
    return _is_wanted() and _release() in TESTED_JAXLIBS


def untried() -> str | None:
    """Says, in a sentence for the user, that this jaxlib was never tried with the calls and what that costs.

    Returns:
      None where the calls are made, and where they could not be made anyway: on another platform than Linux on x86-64,
      or where the user has switched them off.
    """
    if not _is_wanted() or _release() in TESTED_JAXLIBS:
        return None
    return (
        f"jaxlib {jaxlib.__version__} was never tried with oneDNN, so float32 convolutions on the CPU take 2 to 7 "
        f"times as long as with jaxlib {TESTED_JAXLIBS[0]} to {TESTED_JAXLIBS[-1]}"
    )


def _is_wanted() -> bool:
    """Returns whether wheels for this platform carry oneDNN, and the user lets it be called."""
    here = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    return here and os.environ.get("CNNJAX_ONEDNN", "1") != "0"


def _release() -> str:
    """Returns the release of jaxlib, as 0.12.0 for its patched builds, 0.12.0.1, too."""
    return ".".join(jaxlib.__version__.split(".")[:3])


def supports(*arrays: Any) -> bool:
    """Returns whether convolutions of these arrays may be computed here.

    They may be of float32, or where the processor multiplies it of bfloat16; sequences or images, none empty.
    """
    return takes({a.dtype for a in arrays}) and all(a.ndim in (3, 4) and a.size for a in arrays)


def takes(dtypes: Iterable[jax.typing.DTypeLike]) -> bool:
    """Returns whether oneDNN may be called with operands of these dtypes, which must be one."""
    found = {jnp.dtype(dtype).name for dtype in dtypes}
    return is_available() and (found == {"float32"} or (found == {"bfloat16"} and multiplies_bfloat16()))


@functools.cache
def has_avx512() -> bool:
    """Returns whether the processor has AVX-512, for which oneDNN has kernels of its own."""
    return "avx512f" in _processor_flags()


@functools.cache
def has_amx() -> bool:
    """Returns whether oneDNN multiplies bfloat16 by AMX, whose registers hold whole tiles of a matrix."""
    return multiplies_bfloat16() and "amx_bf16" in _processor_flags()


@functools.cache
def multiplies_bfloat16() -> bool:
    """Returns whether the processor multiplies bfloat16 and adds in float32: AVX512_BF16 or AMX.

    Says no where the user holds oneDNN back: where it then has no kernel it ends the process.
    """
    held_back = {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"} & set(os.environ)
    return not held_back and not _processor_flags().isdisjoint({"avx512_bf16", "amx_bf16"})


def is_wrong_by_amx(windows: Windows, channels: int) -> bool:
    """Returns whether oneDNN sums bfloat16 wrongly by AMX, in a convolution that reads so many channels in each group.

    Seen with jaxlib 0.10.2, without stride and dilation along the rows: an even number of channels below 16, which
    times the width of the window is 64 or a larger multiple of 32.
    """
    in_a_row = windows.stride[-1] == windows.dilation[-1] == 1
    filled = windows.window[-1] * channels
    return in_a_row and channels < 16 and channels % 2 == 0 and filled > 32 and filled % 32 == 0


def _processor_flags() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()


def conv(
    x: jax.Array,
    w: jax.Array,
    windows: Windows,
    groups: int,
    dtype: jax.typing.DTypeLike | None = None,
    *,
    swapped: bool = False,
) -> jax.Array:
    """Computes the convolution of x (N, *S, C) with w (*K, C // groups, F): (N, *S', F).

    Sums are of float32. The result is of `dtype`, float32 or that of x; None means that of x. Where the kernel is
    `swapped`, w is (*K, F, C), of one group: oneDNN reorders kernels anyway, from any order of their axes.

    Raises:
      ValueError: the padding is negative, or the output is not what such windows give.
    """
    sizes, window, stride, dilation, padding, output = windows
    expected = slide(sizes, window, stride=stride, dilation=dilation, padding=padding).output
    if min(map(min, padding)) < 0 or output != expected:  # it would end the process
        raise ValueError(f"windows must have no negative padding and the output {expected}, got {windows}")
    low, high = zip(*padding, strict=True)
    rank = len(sizes)
    image = {"data": {"batch_dim": 0, "feature_dim": rank + 1, "spatial_dims": list(range(1, rank + 1))}}
    of_input, of_output = (rank + 1, rank) if swapped else (rank, rank + 1)
    kernel = {"input_feature_dim": of_input, "output_feature_dim": of_output, "spatial_dims": list(range(rank))}
    config = {
        "dims": rank + 2,
        "feature_groups": groups,
        "input": image,
        "kernel": {"filter": kernel},
        "output": image,
        "window": {"pad_left": low, "pad_right": high, "strides": stride, "window_dilations": dilation},
    }
    shape = (x.shape[0], *output, w.shape[of_output])
    return _call("__onednn$convolution", {"onednn_conv_config": config}, shape, dtype or x.dtype, x, w)


def matmul(a: jax.Array, b: jax.Array, transpose_a: bool = False, transpose_b: bool = False) -> jax.Array:
    """Multiplies matrices (..., M, P) and (..., P, N), each of them transposed where so said; returns float32."""
    if a.ndim > 2 and not has_avx512():
        # oneDNN's AVX2 kernels write beyond their memory where they multiply several matrices in one call.
        batch = tuple(range(a.ndim - 2))
        summed = ((a.ndim - 1 - transpose_a,), (b.ndim - 2 + transpose_b,))
        return jax.lax.dot_general(a, b, (summed, (batch, batch)))
    config = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    shape = (*a.shape[:-2], a.shape[-2 + transpose_a], b.shape[-1 - transpose_b])
    return _call("__onednn$matmul", {"onednn_matmul_config": config}, shape, "float32", a, b)


def _call(
    name: str, config: dict[str, Any], shape: tuple[int, ...], dtype: jax.typing.DTypeLike, a: jax.Array, b: jax.Array
) -> jax.Array:
    _keep_out_of_cache()
    call = jax.ffi.ffi_call(
        name,
        jax.ShapeDtypeStruct(shape, dtype),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(config),
    )
    return call(a, b)


class _CacheGuard:
    """Keeps the program that is being lowered out of JAX's persistent compilation cache.

    JAX would try to serialise it, fail, and warn at each compilation; the failed request for memory also moves the
    thread to a small heap of glibc. So after the lowering of a program with a call of oneDNN no compilation is long
    enough to be kept, until the next program is lowered.
    """

    def __init__(self) -> None:
        self.calls, self.users_setting = 0, getattr(jax.config, SHORTEST_KEPT)
        jax.monitoring.register_event_duration_secs_listener(self)

    def __call__(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event != LOWERED_EVENT:
            return
        setting = getattr(jax.config, SHORTEST_KEPT)
        if setting != math.inf:
            self.users_setting = setting
        jax.config.update(SHORTEST_KEPT, math.inf if self.calls else self.users_setting)
        self.calls = 0


@functools.cache
def _cache_guard() -> _CacheGuard:
    return _CacheGuard()


def _keep_out_of_cache() -> None:
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        _cache_guard().calls += 1
