"""Draws all weights of a net by one program."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax._src.core import trace_state_clean

#: Drawing runs once, so compiling it thoroughly does not pay. The bits are those of the thorough program.
FAST_TO_COMPILE = {"xla_backend_optimization_level": 1}


def draw_at_once(make: Callable[..., nnx.Module], keywords: Mapping[str, Any], seed: int) -> nnx.Module:
    """Returns `make(**keywords, rngs=nnx.Rngs(seed))`, to the bit.

    Called as it is, JAX compiles a program for every operation and shape; here it compiles one, which serves every
    seed. `make` must be traceable: no weight may decide what is made, or be kept but in a variable.
    """
    if not trace_state_clean():  # a program is being traced already
        return make(**keywords, rngs=nnx.Rngs(seed))
    state = _program(_Call(make, repr(sorted(keywords.items())), keywords))(np.int64(seed))
    net = nnx.eval_shape(lambda: make(**keywords, rngs=nnx.Rngs(0)))
    nnx.update(net, state)
    return net


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call, equal to another where the keywords read alike."""

    make: Callable[..., nnx.Module]
    text: str
    keywords: Mapping[str, Any] = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=8)
def _program(call: _Call) -> Callable[[np.int64], nnx.State]:
    """Returns the jitted draw of a net's state."""

    def draw(seed: jax.Array) -> nnx.State:
        return nnx.state(call.make(**call.keywords, rngs=nnx.Rngs(jax.random.key(seed))))

    return jax.jit(draw, compiler_options=FAST_TO_COMPILE if jax.default_backend() == "cpu" else None)
