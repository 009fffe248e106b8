"""Poolings as the nets have them: ours, lax's and PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import flags
from jax import lax
from single_ops import Tensor, both_measures, normal
from timing import Result

from cnnjax import ops

FLAGS = flags.FLAGS


class Pool(NamedTuple):
    """Describes a pooling of a net; `window` is the output size where `kind` is adaptive."""

    kind: str
    n: int
    size: int
    c: int
    window: int = 0
    stride: int = 0
    padding: int = 0

    @property
    def name(self) -> str:
        """The case in the table."""
        window = f" {self.window}/{self.stride}" if self.stride else f" {self.window}" if self.window else ""
        return f"{self.kind}{window}{' padded' if self.padding else ''} {self.n}x{self.size}x{self.size}x{self.c}"


POOLS = [
    Pool("max", 128, 28, 6, 2, 2),
    Pool("max", 128, 10, 16, 2, 2),
    Pool("max", 128, 32, 32, 2, 2),
    Pool("max", 128, 16, 64, 2, 2),
    Pool("max", 8, 112, 64, 2, 2),
    Pool("max", 8, 55, 96, 3, 2),
    Pool("max", 32, 27, 256, 3, 2),
    Pool("max", 32, 28, 64, 3, 1, 1),
    Pool("max", 8, 112, 64, 3, 2, 1),
    Pool("avg", 128, 28, 6, 2, 2),
    Pool("avg", 128, 32, 32, 2, 2),
    Pool("avg", 8, 55, 96, 3, 2),
    Pool("avg", 32, 28, 64, 3, 1, 1),
    Pool("adaptive", 8, 13, 256, 6),
    Pool("adaptive", 8, 32, 64, 7),
    Pool("global avg", 32, 8, 512),
    Pool("global avg", 128, 16, 128),
    Pool("global max", 32, 8, 512),
]


def time_pools(peers: list[str]) -> Iterator[Result]:
    """Times the poolings, forward, and forward with backward."""
    for case in POOLS:
        if FLAGS.only not in case.name:
            continue
        (x,) = normal((case.n, case.size, case.size, case.c))
        by_torch_pool = partial(torch_pool, case)
        yield from both_measures(case.name, (x,), own_pool(case), lax_pool(case), by_torch_pool, peers, (0,))


def own_pool(case: Pool) -> Callable[[jax.Array], jax.Array]:
    """Returns the pooling by cnnjax."""
    common: dict[str, Any] = {"window": case.window, "stride": case.stride, "padding": case.padding}
    return {
        "max": lambda x: ops.max_pool(x, **common),
        "avg": lambda x: ops.avg_pool(x, **common, count_include_pad=True),
        "adaptive": lambda x: ops.adaptive_avg_pool(x, case.window),
        "global avg": ops.global_avg_pool,
        "global max": ops.global_max_pool,
    }[case.kind]


def lax_pool(case: Pool) -> Callable[[jax.Array], jax.Array] | None:
    """Returns the pooling as flax and others write it with lax; None where they have none."""
    window, stride = (1, case.window, case.window, 1), (1, case.stride, case.stride, 1)
    padding = ((0, 0), *((case.padding,) * 2,) * 2, (0, 0))
    return {
        "max": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, stride, padding),
        "avg": lambda x: lax.reduce_window(x, 0.0, lax.add, window, stride, padding) / case.window**2,
        "global avg": lambda x: x.mean((1, 2)),
        "global max": lambda x: x.max((1, 2)),
    }.get(case.kind)


def torch_pool(case: Pool, x: Tensor) -> Tensor:
    """Computes the pooling by PyTorch."""
    from torch.nn import functional

    if case.kind in ("max", "avg"):
        pool = functional.max_pool2d if case.kind == "max" else functional.avg_pool2d
        return pool(x, case.window, case.stride, case.padding)
    if case.kind == "adaptive":
        return functional.adaptive_avg_pool2d(x, case.window)
    return x.mean((2, 3)) if case.kind == "global avg" else functional.adaptive_max_pool2d(x, 1)[..., 0, 0]
