"""Targets by name: what they are, what is refused and how, and what XLA is asked for. No compiler is needed."""

from __future__ import annotations

from typing import Any

import pytest
from jax.experimental import topologies

from cnnjax.errors import UserError
from cnnjax.plan import CHIPS, targets


@pytest.mark.parametrize(
    ("name", "topology", "size"),
    [
        ("tpu:v5e", (1, 1), 1),
        ("tpu:v5e:2x2", (2, 2), 4),
        ("tpu:v6e:4x4", (4, 4), 16),
        ("tpu:v5p:2x2x1", (2, 2, 1), 4),
        ("tpu:v4:2x2x1", (2, 2, 1), 8),  # two devices a chip
        ("gpu:h100", (1,), 1),
        ("GPU:H100:8", (8,), 8),
        (" gpu:b200:16 ", (16,), 16),
    ],
)
def test_a_target_by_its_name(name: str, topology: tuple[int, ...], size: int) -> None:
    target = targets.parse(name)
    assert (target.topology, target.size) == (topology, size)
    assert target.name == name.strip().lower()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("h100:8", "`target=h100:8` must begin with tpu: or gpu:, as in tpu:v5e, tpu:v5e:2x2"),
        ("tpu:v5", "there is no 'v5' among v4, v5e, v5p, v6e. Did you mean tpu:v5"),
        ("tpu:", "there is no 'chip' among v4, v5e"),
        ("gpu:4090", "there is no '4090' among a100, h100, h200, b200."),
        ("tpu:v5e:2x2x2", "'2x2x2' must be 2 sides, each 1 or even, such as 2x2"),
        ("tpu:v5e:3x3", "'3x3' must be 2 sides, each 1 or even"),
        ("tpu:v5p:2x2", "'2x2' must be 3 sides, each 1 or even, such as 2x2x1"),
        ("tpu:v5e:0x2", "'0x2' must be 2 sides"),
        ("tpu:v5e:two", "'two' must be 2 sides"),
        ("gpu:h100:0", "'0' must be a number of GPUs, 1 to 8 in one host, or a multiple of 8"),
        ("gpu:h100:12", "'12' must be a number of GPUs, 1 to 8 in one host, or a multiple of 8"),
        ("gpu:h100:2x4", "'2x4' must be a number of GPUs"),
    ],
)
def test_a_wrong_name_is_answered_with_what_is_known(name: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        targets.parse(name)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(("name", "extra"), [("tpu:v5e", ".[aot]"), ("gpu:a100", ".[cuda]")])
def test_a_missing_compiler_is_named_with_its_installation(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda package: None)
    with pytest.raises(UserError) as refused:
        targets.parse(name).devices()
    assert str(refused.value).startswith(
        f"the compiler for {name} is not installed: pip install -e '{extra}' brings it. No "
    )


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("ABORTED: The TPU is already in use by process 7 (/tmp/libtpu_lockfile)", "serves one process at a time"),
        ("INVALID_ARGUMENT: no such layout\nmore", "the compiler knows no tpu:v5e: INVALID_ARGUMENT: no such layout."),
    ],
)
def test_a_compiler_that_refuses_is_a_sentence(error: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda package: package)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError) as refused:
        targets.parse("tpu:v5e").devices()
    assert sentence in str(refused.value)


def test_what_the_compilers_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Topology:
        devices = ()

    def note(**arguments: Any) -> Topology:
        asked.append(arguments)
        return Topology()

    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda package: package)
    monkeypatch.setattr(topologies, "get_topology_desc", note)
    for name in ("tpu:v5e", "tpu:v6e:2x4", "tpu:v5p:2x2x4", "gpu:h100:8", "gpu:h100:16"):
        targets.parse(name).devices()
    tpu = [(one["topology_name"], one["chips_per_host_bounds"]) for one in asked[:3]]
    assert tpu == [("v5e:1x1", (1, 1, 1)), ("v6e:2x4", (2, 2, 1)), ("v5p:2x2x4", (2, 2, 1))]
    assert [one["topology"] for one in asked[3:]] == ["1x1x8", "1x2x8"]


def test_the_limits_of_a_gpu_as_text() -> None:
    text = targets.gpu_target_config(CHIPS["gpu"]["a100"])
    assert "core_count: 108 " in text and "cuda_compute_capability { major: 8 }" in text
    assert "memory_bandwidth: 2039040000000 " in text and text.count("{") == text.count("}") == 3


def test_what_is_published() -> None:
    """A peak of float32 is that of TF32 on a GPU, that of bfloat16 on a TPU; JAX takes 75 % of a GPU's memory."""
    h100, v5e, v4 = CHIPS["gpu"]["h100"], CHIPS["tpu"]["v5e"], CHIPS["tpu"]["v4"]
    assert (h100.flops["bfloat16"], h100.flops["float32"]) == (989e12, 494.5e12)
    assert h100.usable == 0.75 * 84942979072
    assert v5e.flops["float32"] == v5e.flops["bfloat16"] == 197e12 and v5e.link == 200e9
    assert v4.flops["bfloat16"] == 137.5e12, "of one of the two devices of a chip"
    assert all(chip.usable <= chip.memory for chips in CHIPS.values() for chip in chips.values())


def test_the_narrowest_way_counts() -> None:
    """Eight GPUs are joined by NVLink, sixteen by the network of their hosts."""
    assert targets.parse("gpu:h100:8").link == 450e9
    assert targets.parse("gpu:h100:16").link == 50e9
    assert targets.parse("tpu:v5e:4x4").link == 200e9
