"""Grids of torch.nn.functional's convolutions; slow, and skipped where torch is absent."""

import pytest

from cnnjax import ops
from tests.conformance.comparison import Comparison
from tests.conformance.functional import FUNCTIONAL, first, last, turned
from tests.conformance.grids import Draw, flat, sizes_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_conv(torch, rank):
    F, draw, comparison = torch.nn.functional, Draw(torch, rank), Comparison(f"conv{rank}d grid")
    theirs = getattr(F, f"conv{rank}d")
    for count in range((110, 80, 40)[rank - 1]):
        window, stride, dilation = draw.ints(rank, 1, 4 - (rank == 3)), draw.ints(rank, 1, 3), draw.ints(rank, 1, 3)
        groups, mode = draw.one(1, 1, 2, 3), draw.one("zeros", "zeros", "reflect", "replicate", "circular")
        pads = [(draw.int(-1, 3), draw.int(-1, 3)) for _ in range(rank)]
        sizes = [max(s, 5) for s in sizes_for(draw, window, dilation, pads, 3)]
        n, per_group = (0, 1)[count % 20 > 0] * draw.int(1, 2), draw.int(1, 3)
        features = groups * draw.int(1, 2)
        # by lax XLA itself multiplies NaN by the zeros of the other groups, where each has one channel
        kind = "normal" if count % 8 or mode != "zeros" or (groups > 1 and per_group == 1) else "odd"
        args = [draw.array(n, groups * per_group, *sizes, kind=kind), draw.array(features, per_group, *window)]
        args += [draw.array(features)] if draw.int(0, 1) else []

        def ours(x, w, b=None, *, stride=stride, dilation=dilation, pads=pads, mode=mode, groups=groups, kind=kind):
            keywords = {"stride": stride, "dilation": dilation, "padding": pads, "padding_mode": mode, "groups": groups}
            # the door says by which ways NaN and infinities keep to the outputs that see them
            return first(ops.conv(last(x), turned(w), b, algorithm="auto" if kind == "normal" else "lax", **keywords))

        def padded(x, w, b=None, *, stride=stride, dilation=dilation, pads=pads, mode=mode, groups=groups):
            x = F.pad(x, flat(pads), mode="constant" if mode == "zeros" else mode)
            return theirs(x, w, b, stride=stride, dilation=dilation, groups=groups)

        comparison.against_torch(torch, ours, padded, args, {}, halves=None if kind == "normal" else False)
    comparison.assert_none_failed()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_conv_transpose(torch, rank):
    draw, comparison = Draw(torch, 10 + rank), Comparison(f"conv_transpose{rank}d grid")
    theirs = getattr(torch.nn.functional, f"conv_transpose{rank}d")
    for count in range((90, 60, 30)[rank - 1]):
        window, stride, dilation = draw.ints(rank, 1, 4 - (rank == 3)), draw.ints(rank, 1, 3), draw.ints(rank, 1, 3)
        groups, per_group, features = draw.one(1, 1, 2, 3), draw.int(1, 2), draw.int(1, 2)
        sizes = draw.ints(rank, 2, 4)
        reach = [(s - 1) * t + (k - 1) * d + 1
                 for s, t, k, d in zip(sizes, stride, window, dilation, strict=True)]  # fmt: skip
        padding = tuple(draw.int(0, min(3, (r - 1) // 2)) for r in reach)
        more = tuple(draw.int(0, max(s, d) - 1) for s, d in zip(stride, dilation, strict=True))
        n = 0 if count % 20 == 9 else draw.int(1, 2)
        args = [draw.array(n, groups * features, *sizes), draw.array(groups * features, per_group, *window)]
        args += [draw.array(groups * per_group)] if draw.int(0, 1) else []
        keywords = {"stride": stride, "padding": padding, "output_padding": more, "dilation": dilation}
        ours = FUNCTIONAL[f"conv_transpose{rank}d"]
        comparison.against_torch(torch, ours, theirs, args, keywords | {"groups": groups})
    comparison.assert_none_failed()
