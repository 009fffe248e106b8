"""What tests/ops/test_meshes.py runs in a process with eight devices: `python -m tests.ops.result_shardings`.

Prints one line of JSON per promise of `cnnjax.ops.public.on_any_mesh`: its name, and the shardings of the results.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from cnnjax import ops
from cnnjax.ops.public import on_any_mesh

MESH = jax.make_mesh((4, 2), ("data", "model"))
RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype("float32")


def put(array: np.ndarray, *spec: str | tuple[str, ...] | None) -> jax.Array:
    return jax.device_put(array, NamedSharding(MESH, P(*spec)))


X, W, STATISTICS = array(8, 8, 8, 4), array(3, 3, 4, 8), array(4)
x, whole = put(X, "data"), put(W)
features_apart = put(W, None, None, None, "model")


def squares(op: Callable) -> Callable:
    return lambda *arrays: sum((leaf**2).sum() for leaf in jax.tree.leaves(op(*arrays)))


@functools.partial(on_any_mesh, has_batch=False)
def no_batch(x: jax.Array, w: jax.Array) -> jax.Array:
    return x[..., :1] * w.sum()


#: What each promise gives.
PROMISES: dict[str, Callable[[], object]] = {
    "batch": lambda: ops.conv(x, whole),
    "batch and rows": lambda: ops.max_pool(put(X, "data", "model"), 2),
    "both mesh axes on the batch": lambda: ops.max_pool(put(X, ("data", "model")), 2),
    "rows that the devices do not divide": lambda: ops.max_pool(put(X, None, "data"), 3, stride=3),
    "channels that stay": lambda: ops.max_pool(put(X, None, None, None, "model"), 2),
    "channels of another number": lambda: ops.glu(put(X, "data", None, None, "model")),
    "features of the kernel": lambda: ops.conv(x, features_apart, put(array(8), "model")),
    "features on the batch's devices": lambda: ops.conv(x, put(W, None, None, None, "data")),
    "a keyword for every array": lambda: ops.conv(w=features_apart, x=x),
    "a NumPy kernel": lambda: ops.conv(x, W),
    "a NumPy input beside a sharded kernel": lambda: ops.conv(X, features_apart),
    "a module's variables": lambda: ops.conv(nnx.Param(x), nnx.Param(features_apart)),
    "a kernel on one device": lambda: ops.conv(x, jnp.asarray(W)),
    "another rank": lambda: ops.global_avg_pool(put(X, "data", "model")),
    "values and indices": lambda: ops.max_pool(x, 2, return_indices=True),
    "statistics": lambda: ops.batch_norm(x, put(STATISTICS), put(STATISTICS)),
    "statistics of sharded channels": lambda: ops.batch_norm(
        put(X, "data", None, None, "model"), put(STATISTICS, "model"), put(STATISTICS, "model")
    ),
    "no batch": lambda: no_batch(x, whole),
    "gradients": lambda: jax.jit(jax.grad(squares(ops.conv), (0, 1)))(x, features_apart),
    "gradients of gradients": lambda: jax.jit(
        jax.grad(lambda x: jax.grad(squares(lambda x: ops.conv(x, whole) ** 2))(x).sum())
    )(x),
    "jvp": lambda: jax.jvp(lambda x: ops.conv(x, whole), (x,), (x,)),
    "vmap": lambda: jax.jit(jax.vmap(lambda x: ops.conv(x[None], whole)))(x),
    "vmap over a whole axis": lambda: jax.jit(jax.vmap(ops.pixel_shuffle, (0, None)), static_argnums=1)(
        put(X[None], None, "data"), 2
    ),
    "scan": lambda: jax.jit(lambda x: jax.lax.scan(lambda x, _: (x + ops.pad(x, ((1, -1), 0)), ()), x, length=2)[0])(x),
    "checkpoint": lambda: jax.jit(jax.grad(squares(jax.checkpoint(lambda x: ops.conv(x, whole)))))(x),
    "shard_map over one axis": lambda: jax.jit(
        jax.grad(
            lambda x, w: squares(
                jax.shard_map(ops.conv, mesh=MESH, in_specs=(P("data"), P()), out_specs=P("data"), axis_names={"data"})
            )(x, w),
            (0, 1),
        )
    )(x, features_apart),
}


def specs(result: object) -> list[str]:
    leaves = [jax.typeof(leaf).sharding for leaf in jax.tree.leaves(result)]
    assert all(AxisType.Explicit in sharding.mesh.axis_types for sharding in leaves)
    return [str(tuple(sharding.spec)) for sharding in leaves]


if __name__ == "__main__":
    for name, run in PROMISES.items():
        try:
            print(json.dumps([name, specs(run())]), flush=True)
        except Exception as error:
            print(json.dumps([name, f"{type(error).__name__}: {error}"[:2000]]), flush=True)
