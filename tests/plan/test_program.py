"""What is read off a program's text and XLA's analyses: by hand-written lines, and one small program of the CPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from cnnjax.plan import hlo, program
from cnnjax.plan.program import Memory, Transfers

NOTHING = Memory(0, 0, 0, 0, 0)

#: A GPU's program: a convolution by cuDNN, a fusion, a copy, a loop of three all-reduces, and an all-gather in two.
GPU = """HloModule jit_step, is_scheduled=true

%fused (p: f32[4,8]) -> f32[8,4] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %t = f32[8,4]{1,0} transpose(%p), dimensions={1,0}
}

%body (s: (s32[], f32[10])) -> (s32[], f32[10]) {
  %s = (s32[], f32[10]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %v = f32[10]{0} get-tuple-element(%s), index=1
  %ar = f32[10]{0} all-reduce(%v), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %r = (s32[], f32[10]{0}) tuple(%i, %ar)
}

%condition (s.1: (s32[], f32[10])) -> pred[] {
  %s.1 = (s32[], f32[10]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%s.1), index=0
  %n = s32[] constant(3)
  ROOT %less = pred[] compare(%i.1, %n), direction=LT
}

ENTRY %main (x: f32[2,5,5,3], w: f32[3,3,3,4], g: f32[4,8]) -> f32[8,4] {
  %x = f32[2,5,5,3]{3,2,1,0} parameter(0), metadata={op_name="x"}
  %w = f32[3,3,3,4]{3,2,1,0} parameter(1)
  %g = f32[4,8]{1,0} parameter(2)
  %conv = (f32[2,3,3,4]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3}, dim_labels=b01f_01io->b01f, \
custom_call_target="__cudnn$convForward", backend_config={"cudnn_conv_backend_config":{}}
  %start = (f32[4,8]{1,0}, f32[32,8]{1,0}) all-gather-start(%g), dimensions={0}
  %done = f32[32,8]{1,0} all-gather-done(%start)
  %zero = s32[] constant(0)
  %init = (s32[], f32[10]{0}) tuple(%zero, %zero)
  %loop = (s32[], f32[10]{0}) while(%init), condition=%condition, body=%body
  %c = f32[4,8]{0,1} copy(%g)
  ROOT %f = f32[8,4]{1,0} fusion(%c), kind=kLoop, calls=%fused
}
"""


def test_kernels_collectives_and_custom_calls_of_a_program() -> None:
    found = program.of_text(GPU, NOTHING)
    assert found.custom_calls == {"__cudnn$convForward": 1}
    assert found.convolutions == {"f32": 1}
    assert found.collectives == {"all-gather": Transfers(1, 32 * 8 * 4), "all-reduce": Transfers(3, 3 * 40)}
    # the convolution, the gathering, the copy, the fusion, and three times an all-reduce and a comparison
    assert found.kernels == 4 + 3 * 2
    assert found.copies == 2, "the copy, and the fusion that ends in a transpose"
    assert (found.flops, found.bytes_accessed, found.seconds) == (None, None, None)


def test_the_traffic_counts_what_lies_in_the_main_memory() -> None:
    """f32[8,128] in the memory is read, f32[4] on the chip is not: 4,096 bytes, and 16 written."""
    text = """HloModule m

ENTRY %main (a: f32[8,128]) -> f32[4] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[4]{0:T(128)S(1)} fusion(%a), kind=kLoop, calls=%nothing
  ROOT %c = f32[4]{0:T(128)} negate(%b)
}
"""
    assert program.of_text(text, NOTHING).traffic == 8 * 128 * 4 + 4 * 4


def test_xlas_own_costs_and_the_custom_call_that_counts_backwards() -> None:
    text = """HloModule m

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %b = f32[4]{0} custom-call(%a), custom_call_target="ConcatBitcast"
}
"""
    costs = {"flops": 7.0, "bytes accessed": 32.0, "optimal_seconds": -1.0 + 0.25}
    found = program.of_text(text, NOTHING, [costs])
    assert (found.flops, found.bytes_accessed, found.seconds) == (7.0, 32.0, 0.25)


def test_the_peak_counts_donated_arguments_once() -> None:
    assert Memory(arguments=100, outputs=60, aliased=50, temporaries=30, code=5).peak == 145


@pytest.mark.parametrize(
    ("window", "x", "y", "pairs"),
    [
        ("size=3", 5, 3, 9),
        ("size=3 pad=1_1", 5, 5, 5 + 4 + 4),  # the middle tap always reads a pixel, the outer ones miss one
        ("size=3 stride=2 pad=1_1", 5, 3, 3 + 2 + 2),
        ("size=3 rhs_dilate=2", 5, 1, 3),
        ("size=3 pad=2_2 lhs_dilate=2", 3, 7, 9),  # each of three pixels is read by three taps
    ],
)
def test_operations_of_a_convolution(window: str, x: int, y: int, pairs: int) -> None:
    """Two for each pair of an output and a tap that meet a pixel, channel and feature: here 7 * 11, of 2 examples."""
    text = f"""HloModule m

ENTRY %main (x: f32[2,{x},7], w: f32[3,7,11]) -> f32[2,{y},11] {{
  %x = f32[2,{x},7]{{2,1,0}} parameter(0)
  %w = f32[3,7,11]{{2,1,0}} parameter(1)
  ROOT %y = f32[2,{y},11]{{2,1,0}} convolution(%x, %w), window={{{window}}}, dim_labels=b0f_0io->b0f
}}
"""
    entry = hlo.parse(text).computations["main"]
    assert hlo.operations(entry["y"], entry) == 2 * pairs * 2 * 7 * 11


def test_operations_of_a_lowered_program_count_each_turn_of_a_loop() -> None:
    """A scan of four products of (2, 3) by (3, 3)."""

    def run(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda carry, _: (carry @ w, None), x, length=4)[0]

    lowered = jax.jit(run).lower(jnp.zeros((2, 3)), jnp.zeros((3, 3)))
    assert program.operations(lowered) == 4 * 2 * 2 * 3 * 3


def test_what_is_called_several_times_counts_as_often_as_it_runs() -> None:
    """g is called three times, and calls h once: three products."""
    h = jax.jit(lambda x: x @ x)
    g = jax.jit(lambda x: h(jnp.sin(x)))
    lowered = jax.jit(lambda x: g(g(g(x)))).lower(jnp.zeros((8, 8)))
    assert program.operations(lowered) == 3 * 2 * 8**3


#: A loop's body that reads one of 48 batches: by a fusion, and by itself.
SLICED = """HloModule jit_step

%fused (p: f32[48,10], i: s32[]) -> f32[10] {
  %i = s32[] parameter(1)
  %p = f32[48,10]{1,0} parameter(0)
  %z = s32[] constant(0)
  %one = f32[1,10]{1,0} dynamic-slice(%p, %i, %z), dynamic_slice_sizes={1,10}
  ROOT %b = f32[10]{0} bitcast(%one)
}

ENTRY %main (x: f32[48,10], n: s32[]) -> f32[10] {
  %x = f32[48,10]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %alone = f32[1,10]{1,0} dynamic-slice(%x, %n, %n), dynamic_slice_sizes={1,10}
  ROOT %f = f32[10]{0} fusion(%x, %n), kind=kLoop, calls=%fused
}
"""


def test_of_what_is_sliced_the_slice_is_read() -> None:
    """Each reads and writes ten numbers, and an index, which `alone` has twice by one name."""
    assert program.of_text(SLICED, NOTHING).traffic == 2 * (2 * 40 + 4)
    whole = SLICED.replace("bitcast(%one)", "add(%one, %p)")
    assert program.of_text(whole, NOTHING).traffic == 2 * (2 * 40 + 4) + 47 * 40


def test_a_program_of_this_machine() -> None:
    """x and w take 24 and 36 bytes; x is donated to the result."""
    compiled = jax.jit(lambda x, w: jnp.tanh(x @ w), donate_argnums=0).lower(
        jax.ShapeDtypeStruct((2, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3), jnp.float32)
    ).compile()  # fmt: skip
    found = program.read(compiled)
    memory = found.memory
    assert (memory.arguments, memory.outputs, memory.aliased) == (24 + 36, 24, 24)
    assert found.kernels >= 1 and not found.collectives and not found.convolutions
