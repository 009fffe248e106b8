"""What "auto" writes down beyond lax's convolution, read off the compiled programs: at most 64 MiB."""

from __future__ import annotations

import functools
from functools import partial

import jax
import pytest

from cnnjax import ops
from cnnjax.ops.conv import onednn

MOST_BYTES = 64 * 2**20
#: images, kernel, keywords; the large ones take gigabytes where all their patches are written down.
CASES = {
    "few channels": ((16, 512, 512, 16), (3, 3, 16, 32), {"padding": 1}),
    "a long sequence": ((1, 1_000_000, 8), (64, 8, 8), {}),
    "a long sequence of one channel": ((1, 1_000_000, 1), (64, 1, 8), {}),
    "depthwise of many taps": ((16, 128, 128, 64), (31, 31, 1, 64), {"padding": 15, "groups": 64}),
    "depthwise strided": ((32, 112, 112, 64), (3, 3, 1, 64), {"padding": 1, "groups": 64, "stride": 2}),
    "wide": ((64, 28, 28, 256), (3, 3, 256, 512), {"padding": 1}),
    "very wide": ((32, 14, 14, 512), (3, 3, 512, 512), {"padding": 1}),
    "a large batch": ((64, 112, 112, 64), (3, 3, 64, 64), {"padding": 1}),
    "large strides": ((128, 227, 227, 3), (11, 11, 3, 96), {"stride": 4}),
    "strides": ((128, 64, 64, 64), (3, 3, 64, 128), {"stride": 2, "padding": 1}),
    "even strides": ((128, 64, 64, 64), (2, 2, 64, 128), {"stride": 2}),
    "pointwise": ((256, 56, 56, 64), (1, 1, 64, 128), {}),
    "pointwise strided": ((256, 56, 56, 64), (1, 1, 64, 128), {"stride": 2}),
    "groups": ((64, 27, 27, 96), (5, 5, 48, 256), {"padding": 2, "groups": 2}),
    "volumes": ((4, 32, 64, 64, 16), (3, 3, 3, 16, 32), {"padding": 1}),
    "many small images": ((4096, 32, 32, 1), (5, 5, 1, 6), {}),
}
EVERY_DAY = [("few channels", "bfloat16"), ("a long sequence of one channel", "float32"),
             ("depthwise of many taps", "float32"), ("very wide", "float32")]  # fmt: skip
OTHERS = [(case, "float32") for case in CASES] + [("few channels", "float16"), ("few channels", "float64")]


@functools.cache
def temporaries_of_lax(case: str, dtype: str) -> list[int]:
    """Those of lax's convolution: the same with every library."""
    with jax.enable_x64(dtype == "float64"):
        return temporaries("lax", *arguments(case, dtype))


def arguments(case: str, dtype: str) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct, dict]:
    x_shape, w_shape, keywords = CASES[case]
    return jax.ShapeDtypeStruct(x_shape, dtype), jax.ShapeDtypeStruct(w_shape, dtype), keywords


def temporaries(algorithm: str, x, w, keywords) -> list[int]:
    """Bytes of the temporaries of the convolution and of each gradient."""
    conv = partial(ops.conv, algorithm=algorithm, **keywords)
    dy = jax.eval_shape(conv, x, w)
    programs = [
        (conv, (x, w)),
        (lambda w, dy: jax.linear_transpose(lambda x: conv(x, w), x)(dy)[0], (w, dy)),
        (lambda x, dy: jax.linear_transpose(lambda w: conv(x, w), w)(dy)[0], (x, dy)),
    ]
    return [jax.jit(f).lower(*a).compile().memory_analysis().temp_size_in_bytes for f, a in programs]


@pytest.mark.thorough
@pytest.mark.parametrize("library", ["onednn", "xla"])
@pytest.mark.parametrize(
    ("case", "dtype"),
    [*EVERY_DAY, *(pytest.param(*row, marks=pytest.mark.slow) for row in OTHERS if row not in EVERY_DAY)],
)
def test_at_most_64_mib_beyond_lax(
    case: str, dtype: str, library: str, monkeypatch: pytest.MonkeyPatch, optimized
) -> None:
    if library == "xla":
        monkeypatch.setattr(onednn, "is_available", lambda: False)
    elif not onednn.is_available():
        pytest.skip("this jaxlib has no oneDNN that was tested")
    jax.clear_caches()
    with jax.enable_x64(dtype == "float64"):
        own = temporaries("auto", *arguments(case, dtype))
    jax.clear_caches()
    lax = temporaries_of_lax(case, dtype)
    beyond = [mine - theirs for mine, theirs in zip(own, lax, strict=True)]
    assert max(beyond) <= MOST_BYTES, dict(zip(("forward", "input", "kernel"), beyond, strict=True))
