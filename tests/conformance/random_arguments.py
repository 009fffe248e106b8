"""Random arguments meaner than those of the everyday tests.

Strides beyond the window, paddings that crop, are lopsided or larger than the input, windows and sizes of one,
dilations of both sides, many groups, empty batches, in one to three dimensions.
"""

import itertools
import math
import random

import jax.numpy as jnp
import numpy as np

from cnnjax import ops
from cnnjax.ops.geometry import require_real_taps, slide

MODES = ("zeros", "reflect", "replicate", "circular")


def geometry(draw, rank, *, mode="zeros", ceil_mode=False, holes=None, real=False):
    """Sizes, window and keywords that the house accepts, and the padding in full."""
    for _ in itertools.repeat(None):
        sizes = [draw.choice([1, 1, 2, 3, 4, 5, 7, 9][: {1: 8, 2: 6, 3: 5}[rank]]) for _ in range(rank)]
        window = [draw.choice([1, 2, 2, 3, 3, 4, 5][: 9 - 2 * rank]) for _ in range(rank)]
        stride = [draw.choice([1, 1, 2, 3, 5, 7]) for _ in range(rank)]
        dilation = [draw.choice([1, 1, 1, 2, 3, 5]) for _ in range(rank)]
        padding = tuple((draw.randint(-3, 5), draw.randint(-3, 5)) for _ in range(rank))
        if not ceil_mode and draw.random() < 0.25:
            padding = draw.choice(["VALID", "SAME", "SAME_LOWER", "FULL", 1, 2])
        keywords = {"stride": stride, "padding": padding, "dilation": dilation}
        spread = [(size - 1) * hole + 1 for size, hole in zip(sizes, holes or [1] * rank, strict=True)]
        try:
            windows = slide(spread, window, **keywords, ceil_mode=ceil_mode)
            if real:
                require_real_taps(windows)
            ops.pad(jnp.zeros((1, *sizes, 1)), windows.padding if holes is None else 0, mode=mode)
        except ValueError:
            continue
        if math.prod(windows.output) * math.prod(window) > 4000:
            continue
        return sizes, window, keywords, keywords | {"padding": windows.padding}, windows.output
    raise AssertionError


def close(got, expected, tolerance=1e-11):
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def setting(seed):
    draw = random.Random(f"sweep {seed}")
    return draw, np.random.default_rng(seed), 1 + seed % 3, draw.choice([0, 1, 2, 2, 3])
