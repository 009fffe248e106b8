"""Grids of torch.nn.functional's pools; slow, and skipped where torch is absent."""

import math

import numpy as np
import pytest

from cnnjax import ops
from tests.conformance.comparison import Comparison
from tests.conformance.functional import FUNCTIONAL, first, last
from tests.conformance.grids import Draw, flat, sizes_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["normal", "ties", "nan", "inf", "-inf", "odd"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_max_pool(torch, rank, kind):
    F, draw, comparison = torch.nn.functional, Draw(torch, 20 + rank), Comparison(f"max_pool{rank}d grid")
    for count in range((20, 16, 10)[rank - 1]):
        window, stride, dilation = draw.ints(rank, 2, 3), draw.ints(rank, 1, 3), draw.ints(rank, 1, 2)
        padding = tuple(draw.int(0, k // 2) for k in window)
        sizes = sizes_for(draw, window, dilation, [(0, 0)] * rank, 4)
        x = draw.array(0 if count == 5 else draw.int(1, 2), 2, *sizes, kind=kind)
        keywords = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": bool(draw.int(0, 1))}
        name = f"max_pool{rank}d"
        keywords |= {"kernel_size": window, "return_indices": True}
        halves = None if kind == "normal" else False
        comparison.against_torch(torch, FUNCTIONAL[name], getattr(F, name), [x], keywords, halves=halves)
        if kind in ("-inf", "odd"):
            continue  # torch's own padding of -inf may win there
        pads = [(draw.int(0, k - 1), draw.int(0, k - 1)) for k in window]

        def padded(x, window=window, stride=stride, pads=pads, name=name):
            return getattr(F, name)(F.pad(x, flat(pads), value=-math.inf), window, stride)

        def ours(x, window=window, stride=stride, pads=pads):
            return first(ops.max_pool(last(x), window, stride=stride, padding=pads))

        comparison.against_torch(torch, ours, padded, [x], {}, halves=halves)
    comparison.assert_none_failed()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_avg_and_lp_pool(torch, rank):
    F, draw, comparison = torch.nn.functional, Draw(torch, 30 + rank), Comparison(f"avg and lp pool{rank}d grid")
    mean = getattr(F, f"avg_pool{rank}d")
    for count in range((50, 40, 25)[rank - 1]):
        window, stride = draw.ints(rank, 1, 4), draw.ints(rank, 1, 3)
        sizes = sizes_for(draw, window, (1,) * rank, [(0, 0)] * rank, 5)
        x = draw.array(draw.int(0, 2) if count % 9 == 0 else 2, 2, *sizes, kind="nan" if count % 10 == 5 else "normal")
        keywords = {"padding": tuple(draw.int(0, k // 2) for k in window), "ceil_mode": bool(draw.int(0, 1))}
        keywords |= {"kernel_size": window, "stride": stride, "count_include_pad": bool(draw.int(0, 1))}
        if rank > 1 and draw.int(0, 3) == 0:
            keywords["divisor_override"] = draw.one(-2, 3, 7)
        halves = None if count % 10 != 5 else False
        comparison.against_torch(torch, FUNCTIONAL[f"avg_pool{rank}d"], mean, [x], keywords, halves=halves)
        pads = [(draw.int(0, k - 1), draw.int(0, k - 1)) for k in window]

        def ours(x, window=window, stride=stride, pads=pads):
            return first(ops.avg_pool(last(x), window, stride=stride, padding=pads))

        def padded(x, window=window, stride=stride, pads=pads):
            ones = F.pad(torch.ones_like(x), flat(pads))
            return mean(F.pad(x, flat(pads)), window, stride) / mean(ones, window, stride)

        comparison.against_torch(torch, ours, padded, [x], {}, halves=halves)

        # torch's lp_pool has no absolute value, ours has; torch scales the windows that ceil_mode cuts short
        def of_magnitudes(x, p, *args):
            args = [a[0] for a in args] if rank == 1 else args
            return getattr(F, f"lp_pool{rank}d")(x.abs(), p, *args)

        if count % 10 == 5:
            continue  # at NaN the derivative of a magnitude is NaN here, and 0 in torch

        p = draw.one(1.0, 2.0, 2.0, 3.0, 2.5, 4.0)
        comparison.against_torch(
            torch, FUNCTIONAL[f"lp_pool{rank}d"], of_magnitudes, [x, p, window, stride], {}, halves=halves
        )
    comparison.assert_none_failed()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_grid_pools_by_index(torch, rank):
    F, draw, comparison = torch.nn.functional, Draw(torch, 40 + rank), Comparison(f"pools by index {rank}d grid")
    for count in range((30, 25, 15)[rank - 1]):
        kind = draw.one("normal", "ties", "nan", "inf")
        x = draw.array(0 if count == 5 else 2, 2, *draw.ints(rank, 4, 8), kind=kind)
        output = tuple(draw.one(None, draw.int(1, 9)) if rank > 1 else draw.int(1, 9) for _ in range(rank))
        halves = None if kind == "normal" else False
        for name, keywords in (("adaptive_avg_pool", {}), ("adaptive_max_pool", {"return_indices": True})):
            name = f"{name}{rank}d"
            if kind == "inf" and "avg" in name:
                continue
            ours, theirs = FUNCTIONAL[name], getattr(F, name)
            comparison.against_torch(torch, ours, theirs, [x, output], keywords, halves=halves)
        if rank > 1 and len(x):
            window = draw.ints(rank, 1, 3)
            most = 1 if rank == 2 else 0  # of three dimensions PyTorch refuses the largest
            output = tuple(draw.int(1, size - k + most) for size, k in zip(x.shape[2:], window, strict=True))
            samples = torch.tensor(draw.rng.uniform(size=(2, 2, rank)))
            keywords = {"output_size": output, "return_indices": True, "_random_samples": samples}
            name = f"fractional_max_pool{rank}d"
            args = [x, window]
            comparison.against_torch(torch, FUNCTIONAL[name], getattr(F, name), args, keywords, halves=halves)
        if len(x):
            sizes = draw.ints(rank, 2, 5)
            plane = math.prod(sizes) * 2**rank
            indices = np.stack([draw.rng.permutation(plane)[: math.prod(sizes)] for _ in range(4)])
            indices = torch.tensor(indices.reshape(2, 2, *sizes))
            name = f"max_unpool{rank}d"
            args = [draw.array(2, 2, *sizes), indices, 2]
            comparison.against_torch(torch, FUNCTIONAL[name], getattr(F, name), args, {})
    comparison.assert_none_failed()
