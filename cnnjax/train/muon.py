"""Muon: momentum, orthogonalised by a Newton-Schulz iteration."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of a x + b x^3 + c x^5, whose slope at 0 is as large as it may be."""


class MuonState(NamedTuple):
    """Holds the number of updates done and the momentum."""

    done: jax.Array
    momentum: optax.Updates


def orthogonalize(g: jax.Array, steps: int = 3) -> jax.Array:
    """Brings all singular values of a matrix near 1, by iterations on its own products.

        X <- G / (|G|_F + 1e-7),   then so many times   X <- a X + (b A + c A A) X,   A = X X^T

    With a, b, c of `COEFFICIENTS` they end between about 0.7 and 1.2 where they were not too small. A is the smaller of
    X X^T and X^T X.

    Args:
      g: `(M, N)`.
      steps: number of iterations.

    References:
      Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024.
    """
    a, b, c = COEFFICIENTS
    x = g / (jnp.linalg.norm(g) + 1e-7)
    wide = g.shape[0] <= g.shape[1]
    x = x if wide else x.T
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.T


def muon(
    learning_rate: optax.ScalarOrSchedule, *, momentum: float = 0.6, steps: int = 3
) -> optax.GradientTransformation:
    """Returns Muon for convolution kernels, as airbench has it.

        m <- momentum m + g,   w <- w sqrt(F) / |w|_F - learning_rate orthogonalize(g + momentum m)

    A kernel `(*window, C, F)` is a matrix of F filters for it, and keeps the norm of F filters of norm 1. (optax's
    `contrib.muon` averages the gradients, scales by the shape of the matrix, and has no such norm.)

    Args:
      learning_rate: a number or a schedule.
      momentum: kept of the last updates; Nesterov's.
      steps: Newton-Schulz iterations.

    References:
      Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; airbench94_muon, 2024.
    """

    def init(params: optax.Params) -> MuonState:
        return MuonState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: MuonState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MuonState]:
        if params is None:
            raise ValueError("params must be the parameters, was None: muon brings them to a norm")
        rate = learning_rate(state.done) if callable(learning_rate) else learning_rate
        kept = jax.tree.map(lambda m, g: momentum * m + g, state.momentum, updates)

        def change(g: jax.Array, m: jax.Array, w: jax.Array) -> jax.Array:
            filters = g.shape[-1]
            direction = orthogonalize((g + momentum * m).reshape(-1, filters), steps).reshape(g.shape)
            return w * (jnp.sqrt(jnp.float32(filters)) / jnp.linalg.norm(w.ravel()) - 1) - rate * direction

        return jax.tree.map(change, updates, kept, params), MuonState(state.done + 1, kept)

    return optax.GradientTransformation(init, update)
