"""Grids of torch.nn.functional's patches, paddings and shuffles; slow, and skipped where torch is absent."""

import math

import pytest

from tests.conformance.comparison import Comparison
from tests.conformance.functional import FUNCTIONAL, fold, local_response_norm, pad, unfold
from tests.conformance.grids import Draw, flat, sizes_for

pytestmark = pytest.mark.slow


def test_grid_fold(torch):
    F, draw, comparison = torch.nn.functional, Draw(torch, 50), Comparison("unfold and fold grid")
    for count in range(60):
        window, keywords = draw.ints(2, 1, 3), {name: draw.ints(2, 1, 3) for name in ("stride", "dilation")}
        keywords["padding"] = draw.ints(2, 0, 2)
        sizes = sizes_for(draw, window, keywords["dilation"], [(0, 0)] * 2, 4)
        x = draw.array(0 if count == 7 else draw.int(1, 2), 3, *sizes)
        comparison.against_torch(torch, unfold, F.unfold, [x[0] if count == 8 else x, window], keywords)
        if not len(x):
            continue
        cols = draw.array(*F.unfold(x, window, **keywords).shape)
        comparison.against_torch(torch, fold, F.fold, [cols[0] if count == 9 else cols, sizes, window], keywords)
    comparison.assert_none_failed()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_grid_pad(torch, rank, mode):
    F, draw, comparison = torch.nn.functional, Draw(torch, 60 + rank), Comparison("pad grid")
    for count in range(40):
        sizes = draw.ints(rank, 3, 6)
        most = {"reflect": 2, "circular": 2}.get(mode, 5)
        pads = [(draw.int(-1, most), draw.int(-1, most)) for _ in range(rank)]
        if mode == "circular":  # the circle closes over what the crop leaves
            pads = [(min(a, 1 + min(b, 0) + 1), min(b, 1 + min(a, 0) + 1)) for a, b in pads]
        elif mode in ("constant", "replicate") and count % 4 == 0:  # also past the other end
            further = int(mode == "replicate")  # torch's constant mode stops at the end
            pads[0] = draw.one((-sizes[0] - further, 3), (3, -sizes[0] - further))
        x = draw.array(0 if count == 5 else 2, 2, *sizes)
        keywords = {"mode": mode} | ({"value": draw.one(None, 0.5, -math.inf)} if mode == "constant" else {})
        comparison.against_torch(torch, pad, F.pad, [x, flat(pads)], keywords)
    comparison.assert_none_failed()


def test_grid_normalize_and_shuffle(torch):
    F, draw, comparison = torch.nn.functional, Draw(torch, 70), Comparison("normalise and shuffle grid")
    for count in range(60):
        rank, groups, r = draw.int(1, 3), draw.int(1, 3), draw.int(1, 3)
        n = 0 if count == 5 else 2
        x = draw.array(n, draw.int(1, 7), *draw.ints(rank, 1, 4))
        args = [x, draw.int(1, 9), draw.one(1e-4, 0.5, 2.0), draw.one(0.5, 0.75, 1.0, 2.0), draw.one(1.0, 2.0)]
        theirs = F.local_response_norm
        comparison.against_torch(torch, local_response_norm, theirs, args, {}, halves=None if n else False)
        x = draw.array(2, groups * draw.int(1, 3), *draw.ints(rank, 1, 4))
        comparison.against_torch(torch, FUNCTIONAL["channel_shuffle"], F.channel_shuffle, [x, groups], {})
        x = draw.array(2, groups * r * r, *draw.ints(2, 1, 3))
        comparison.against_torch(torch, FUNCTIONAL["pixel_shuffle"], F.pixel_shuffle, [x, r], {})
        x = draw.array(2, groups, *(r * size for size in draw.ints(2, 1, 3)))
        comparison.against_torch(torch, FUNCTIONAL["pixel_unshuffle"], F.pixel_unshuffle, [x, r], {})
    comparison.assert_none_failed()
