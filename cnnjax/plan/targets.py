"""The machines that a program can be compiled for here, by name, and what their makers publish of them."""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from cnnjax.errors import UserError

TERA, GIGA, GIB = 1e12, 1e9, 2**30
GPUS_OF_A_HOST = 8
#: Packages that bring the compiler of a platform, and the extra of this project that installs one of them.
COMPILERS = {"tpu": (("libtpu",), "aot"), "gpu": (("jax_cuda13_plugin", "jax_cuda12_plugin"), "cuda")}
#: Limits that all these GPUs share, for XLA's `GpuTargetConfig`.
COMMON_LIMITS = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "threads_per_core_limit": 2048,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 65535,
    "block_dim_limit_z": 65535,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "shared_memory_per_block": 49152,
}


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One device as its maker publishes it: peaks that no program exceeds.

    Attributes:
      label: how it is called in print.
      flops: dense multiply and add operations a second, by the dtype of a net's arrays. Arrays of float32 are
        multiplied as JAX does by default: as bfloat16 on a TPU, as TF32 on a GPU.
      bandwidth: of the memory, bytes a second.
      memory: bytes.
      usable: bytes that a program may take: what the TPU's compiler leaves, or the share of a GPU that JAX reserves.
      link: to the neighbours within a slice or host, bytes a second out of one device, over all its links.
      network: between hosts, bytes a second out of one device; None where `link` joins them too.
      sides: number of the dimensions of a TPU's topology.
      devices: JAX's devices on a chip; all numbers above are of one of them.
      limits: of a GPU, as XLA's compiler asks for them.
      source: where the numbers are from.
    """

    label: str
    flops: dict[str, float]
    bandwidth: float
    memory: float
    usable: float
    link: float
    network: float | None = None
    sides: int = 0
    devices: int = 1
    limits: dict[str, float] | None = None
    source: str


def _tpu(
    label: str, tera: float, bandwidth: float, memory: float, usable: float, link_bits: float, sides: int,
    devices: int = 1,
) -> Chip:  # fmt: skip
    peak = tera * TERA / devices
    return Chip(
        label=label,
        flops={"float32": peak, "bfloat16": peak, "float16": peak},
        bandwidth=bandwidth * GIGA / devices,
        memory=memory * GIB / devices,
        usable=usable * GIB,
        link=link_bits * GIGA / 8 / devices,
        sides=sides,
        devices=devices,
        source=f"Google Cloud, TPU documentation, page {label.removeprefix('TPU ')}",
    )


def _gpu(
    label: str, tera: float, link: float, network: float, memory: float, capability: int, limits: dict[str, float],
    source: str,
) -> Chip:  # fmt: skip
    return Chip(
        label=label,
        flops={"float32": tera * TERA / 2, "bfloat16": tera * TERA, "float16": tera * TERA},
        bandwidth=limits["memory_bandwidth"],
        memory=memory * GIGA,
        usable=0.75 * limits["device_memory_size"],  # XLA_PYTHON_CLIENT_MEM_FRACTION
        link=link * GIGA,
        network=network * GIGA,
        limits={**limits, "capability": capability},
        source=source,
    )


_HOPPER = {"shared_memory_per_core": 233472, "core_count": 132, "fpus_per_core": 128, "l2_cache_size": 52428800,
           "clock_rate_ghz": 1.98, "shared_memory_per_block_optin": 232448}  # fmt: skip

#: All chips by platform and name. Numbers of GPUs are those of the SXM modules.
CHIPS: dict[str, dict[str, Chip]] = {
    "tpu": {
        "v4": _tpu("TPU v4", 275, 1228, 32, 15.25, 2400, 3, devices=2),
        "v5e": _tpu("TPU v5e", 197, 819, 16, 15.75, 1600, 2),
        "v5p": _tpu("TPU v5p", 459, 2765, 95.74, 95.74, 4800, 3),
        "v6e": _tpu("TPU v6e", 918, 1640, 32, 31.25, 3584, 2),
    },
    "gpu": {
        "a100": _gpu("A100 80GB", 312, 300, 25, 80, 8, {
            "shared_memory_per_core": 167936, "core_count": 108, "fpus_per_core": 64, "l2_cache_size": 41943040,
            "clock_rate_ghz": 1.41, "shared_memory_per_block_optin": 166912, "memory_bandwidth": 2039040000000,
            "device_memory_size": 85100068864,
        }, "NVIDIA A100 datasheet; DGX A100"),
        "h100": _gpu("H100 80GB", 989, 450, 50, 80, 9, {
            **_HOPPER, "memory_bandwidth": 3352320000000, "device_memory_size": 84942979072,
        }, "NVIDIA H100 datasheet; DGX H100"),
        "h200": _gpu("H200", 989, 450, 50, 141, 9, {
            **_HOPPER, "memory_bandwidth": 4800000000000, "device_memory_size": 151397597184,
        }, "NVIDIA H200 datasheet; DGX H200"),
        "b200": _gpu("B200", 2250, 900, 50, 180, 10, {
            "shared_memory_per_core": 233472, "core_count": 148, "fpus_per_core": 128, "l2_cache_size": 132644864,
            "clock_rate_ghz": 1.965, "shared_memory_per_block_optin": 232448, "memory_bandwidth": 7672320000000,
            "device_memory_size": 191514411008,
        }, "NVIDIA Blackwell architecture brief (HGX B200); DGX B200"),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Some chips of one kind.

    Attributes:
      name: as the user gave it, `"tpu:v5e:2x2"`.
      platform: `"tpu"` or `"gpu"`.
      chip: what each is.
      topology: a TPU's sides; `(n,)` for n GPUs.
    """

    name: str
    platform: str
    chip: Chip
    topology: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of JAX's devices."""
        return math.prod(self.topology) * self.chip.devices

    @property
    def link(self) -> float:
        """Bytes a second that leave a device on the way to all others: the narrowest way counts."""
        joined = self.platform == "tpu" or self.size <= GPUS_OF_A_HOST
        return self.chip.link if joined or self.chip.network is None else self.chip.network

    def devices(self) -> Sequence[jax.Device]:
        """Returns the devices, which are not there: programs can be compiled for them, nothing can be run.

        Raises:
          UserError: the compiler of this platform is missing, is in use by another process, or knows no such topology.
        """
        packages, extra = COMPILERS[self.platform]
        if not any(map(importlib.util.find_spec, packages)):
            raise UserError(
                f"the compiler for {self.name} is not installed: pip install -e '.[{extra}]' brings it. "
                f"No {self.platform.upper()} is needed."
            )
        try:
            return self._topology().devices
        except (RuntimeError, ValueError, NotImplementedError) as error:
            raise UserError(self._sentence(str(error))) from error

    def _topology(self) -> Any:
        if self.platform == "tpu":
            sides = "x".join(map(str, self.topology))
            # libtpu's hosts are of 2 x 2 x 1 chips unless it is told otherwise
            host = (*(min(2, side) for side in self.topology[:2]), 1)
            kind = self.name.split(":")[1]
            return topologies.get_topology_desc(
                platform="tpu", topology_name=f"{kind}:{sides}", chips_per_host_bounds=host
            )
        hosts = -(-self.size // GPUS_OF_A_HOST)
        return topologies.get_topology_desc(
            platform="cuda",
            topology_name=self.chip.label,
            target_config=gpu_target_config(self.chip),
            topology=f"1x{hosts}x{self.size // hosts}",
        )

    def _sentence(self, error: str) -> str:
        if "libtpu_lockfile" in error or "already in use" in error:
            return (
                f"the compiler for {self.name} serves one process at a time, and another uses it: "
                "wait for its end (it keeps /tmp/libtpu_lockfile), or set ALLOW_MULTIPLE_LIBTPU_LOAD=1."
            )
        return f"the compiler knows no {self.name}: {error.splitlines()[0]}."


def parse(name: str) -> Target:
    """Returns the target of a name.

    Args:
      name: `tpu:KIND`, one chip; `tpu:KIND:AxB` or `tpu:KIND:AxBxC`, a topology; `gpu:KIND`, one GPU; `gpu:KIND:N`.

    Raises:
      UserError: there is no such target; says what is known.

    Example:
      >>> parse("tpu:v5e:2x2").size, parse("tpu:v5p").topology, parse("gpu:h100:8").size
      (4, (1, 1, 1), 8)
    """
    platform, _, rest = name.strip().lower().partition(":")
    kind, _, shape = rest.partition(":")
    if platform not in CHIPS:
        raise UserError(f"`target={name}` must begin with tpu: or gpu:, as in {EXAMPLES}.")
    chips = CHIPS[platform]
    if kind not in chips:
        close = difflib.get_close_matches(kind, chips, n=1)
        advice = f" Did you mean {platform}:{close[0]}?" if close else ""
        raise UserError(f"`target={name}`: there is no {kind or 'chip'!r} among {', '.join(chips)}.{advice}")
    chip = chips[kind]
    topology = _sides(name, shape, chip) if platform == "tpu" else (_count(name, shape),)
    return Target(f"{platform}:{kind}" + (f":{shape}" if shape else ""), platform, chip, topology)


EXAMPLES = "tpu:v5e, tpu:v5e:2x2, tpu:v5p:2x2x1, gpu:h100, gpu:h100:8"


def _sides(name: str, shape: str, chip: Chip) -> tuple[int, ...]:
    """Reads `2x2`; every side is 1 or even, as hosts have 2 x 2 chips."""
    sides = tuple(map(int, shape.split("x"))) if re.fullmatch(r"\d+(x\d+)*", shape) else ()
    if not shape:
        return (1,) * chip.sides
    if len(sides) != chip.sides or any(side < 1 or (side > 1 and side % 2) for side in sides[:2]) or sides[-1] < 1:
        example = "x".join(["2", "2", "1"][: chip.sides])
        raise UserError(
            f"`target={name}`: {shape!r} must be {chip.sides} sides, each 1 or even, such as {example}: the chips of a "
            f"{chip.label} lie in {chip.sides} dimensions, two by two in a host."
        )
    return sides


def _count(name: str, shape: str) -> int:
    count = int(shape) if shape.isdecimal() else 0
    if not shape:
        return 1
    if not count or (count > GPUS_OF_A_HOST and count % GPUS_OF_A_HOST):
        raise UserError(
            f"`target={name}`: {shape!r} must be a number of GPUs, 1 to {GPUS_OF_A_HOST} in one host, or a multiple of "
            f"{GPUS_OF_A_HOST}."
        )
    return count


def gpu_target_config(chip: Chip) -> str:
    """Returns XLA's `GpuTargetConfig` of a GPU, as a text proto.

    References:
      openxla/xla, xla/backends/gpu/target_config/specs, from which the limits are.
    """
    limits = {**COMMON_LIMITS, **(chip.limits or {})}
    major = limits.pop("capability")
    fields = " ".join(f"{name}: {value}" for name, value in limits.items())
    return (
        f"gpu_device_info {{ {fields} cuda_compute_capability {{ major: {major} }} }}\n"
        'platform_name: "CUDA"\n'
        "dnn_version_info { major: 9 minor: 10 patch: 0 }\n"
        f'device_description_str: "NVIDIA {chip.label}"\n'
    )
