"""The forms that accelerators take, computed here, against nested loops: every row of their tables in `choose`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.ops.conv import choose, primitive
from cnnjax.ops.conv.choose import FORWARD, INPUT_GRAD, KERNEL_GRAD
from cnnjax.ops.geometry import slide
from tests import oracles

#: x, w and the rest of a convolution; between them they reach every row of the accelerators' tables.
CASES = {
    "one channel": ((2, 9, 8, 1), (5, 4, 1, 3), {}),
    "three channels, many taps": ((1, 8, 7, 3), (4, 4, 3, 2), {"padding": ((1, 2), (0, 1))}),
    "stride 2, the last row unread": ((2, 8, 9, 4), (3, 3, 4, 5), {"stride": 2, "padding": ((1, 1), (0, 0))}),
    "windows of one, stride 2": ((2, 7, 6, 4), (1, 1, 4, 5), {"stride": 2}),
    "windows side by side, one row left": ((1, 7, 6, 2), (2, 2, 2, 3), {"stride": 2}),
    "groups, dilated": ((1, 9, 9, 4), (3, 2, 2, 4), {"dilation": 2, "groups": 2, "padding": ((2, 2), (1, 1))}),
    "a sequence of one channel": ((2, 11, 1), (4, 1, 3), {"stride": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_against_the_oracle(name: str) -> None:
    x_shape, w_shape, keywords = CASES[name]
    groups = keywords.get("groups", 1)
    windows = slide(x_shape[1:-1], w_shape[:-2], **{k: v for k, v in keywords.items() if k != "groups"})
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape).astype("float32") for shape in (x_shape, w_shape))
    dy = rng.normal(size=(len(x), *windows.output, w_shape[-1])).astype("float32")
    rank = len(windows.window)
    full = {"stride": windows.stride, "padding": windows.padding, "dilation": windows.dilation, "holes": (1,) * rank}
    y, dx, dw, _ = oracles.conv(x, w, np.zeros(w_shape[-1]), dy, mode="zeros", groups=groups, **full)
    operands = {FORWARD: (x, w), INPUT_GRAD: (w, dy), KERNEL_GRAD: (x, dy)}

    def compute(platform: str, derivative: str) -> jax.Array:
        return primitive._compute(
            *map(jnp.asarray, operands[derivative]), platform=platform, derivative=derivative, windows=windows,
            groups=groups, precision=None, dtype=jnp.dtype("float32"), narrow=False, plain=False, one_device=True,
        )  # fmt: skip

    got = jax.jit(lambda: {(p, d): compute(p, d) for p in ("gpu", "tpu") for d in operands})()
    for (platform, derivative), result in got.items():
        expected = {FORWARD: y, INPUT_GRAD: dx, KERNEL_GRAD: dw}[derivative]
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4, err_msg=f"{platform} {derivative}")


def test_the_cases_reach_every_row_of_the_accelerators() -> None:
    reached = set()
    for x_shape, w_shape, keywords in CASES.values():
        groups = keywords.get("groups", 1)
        windows = slide(x_shape[1:-1], w_shape[:-2], **{k: v for k, v in keywords.items() if k != "groups"})
        features = w_shape[-1] // groups
        p = choose.Problem(x_shape[0], windows, w_shape[-2], features, groups, 4, None, onednn=False)
        for platform in ("gpu", "tpu"):
            for derivative in (FORWARD, INPUT_GRAD, KERNEL_GRAD):
                reached.add(choose.rule_for(derivative, platform, p, plain=False, one_device=True))
    assert reached == {rule for table in (choose.GPU, choose.TPU) for rules in table.values() for rule in rules}
