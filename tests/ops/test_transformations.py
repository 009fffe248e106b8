"""Every op under every transformation of JAX: one row per op, one column per transformation."""

import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from cnnjax import ops
from tests import processes


def with_kernel(op=ops.conv, **keywords):
    """conv, or its like, as a function of x alone, through a kernel that depends on x by its mean."""

    def through(x, mean=jnp.mean):
        w = mean(x) + jnp.arange(float(3 * 3 * 4)).reshape(3, 3, 2, 2) / 36
        return op(x, w.astype(x.dtype), **keywords)

    return through


OPS = {
    "conv": with_kernel(),
    "conv lax": with_kernel(algorithm="lax", stride=2, padding=1),
    "conv direct": with_kernel(algorithm="direct"),
    "conv im2col": with_kernel(algorithm="im2col", padding="SAME", padding_mode="reflect"),
    "conv fft": with_kernel(algorithm="fft", stride=2, padding=1),
    "conv winograd": with_kernel(algorithm="winograd"),
    "conv winograd4": with_kernel(algorithm="winograd4", padding="SAME"),
    "conv toeplitz": with_kernel(algorithm="toeplitz", padding=1),
    "toeplitz_matrix": lambda x: ops.toeplitz_matrix(x[0, :2, :3].reshape(2, 3, 2, 1), (3, 4), padding=1) * x.mean(),
    "conv_transpose": with_kernel(op=ops.conv_transpose),
    "conv_transpose strided": with_kernel(op=ops.conv_transpose, stride=2, padding=1, output_padding=1),
    "conv_input_grad": with_kernel(
        op=lambda x, w: ops.conv_input_grad(x, w, (x.shape[0], 8, x.shape[2] + 2, 2)),
    ),
    "conv_kernel_grad": lambda x: jax.vmap(
        lambda one: ops.conv_kernel_grad(one[None], one[None, :4, :5], (3, 3, 2, 2)),
    )(x),
    "depthwise_conv": with_kernel(op=ops.depthwise_conv),
    "separable_conv": with_kernel(op=lambda x, w: ops.separable_conv(x, w, w[:2, 0].reshape(4, 2))),
    "true_conv": with_kernel(op=ops.true_conv),
    "local_conv": lambda x, mean=jnp.mean: ops.local_conv(
        x, jnp.sin(mean(x) + jnp.arange(5.0 * 5 * 12 * 3)).reshape(5, 5, 12, 3)
    ),
    "connected_conv": with_kernel(op=lambda x, w: ops.connected_conv(x, w, jnp.array([[True, False], [True, True]]))),
    "deform_conv": with_kernel(
        op=lambda x, w: ops.deform_conv(x, w, jnp.sin(jnp.tile(3 * x[:, :4, :5], 9)), jnp.tile(x[:, 1:5, :5, 1:], 9))
    ),
    "pad": lambda x: ops.pad(x, 2, mode="reflect") * ops.pad(x, ((3, 1), (4, 0)), value=0.5),
    "unfold": lambda x: ops.unfold(x, (2, 3)),
    "fold": lambda x: ops.fold(jnp.concatenate([x, jnp.sin(x)], -1), (7, 8), 2, padding=0) ** 2,
    "pixel_shuffle": lambda x: ops.pixel_shuffle(jnp.concatenate([x, x * x], -1), 2),
    "pixel_unshuffle": lambda x: ops.pixel_unshuffle(x[:, :, :6], 2) ** 2,
    "channel_shuffle": lambda x: ops.channel_shuffle(x, 2) ** 2,
    "max_pool": lambda x: ops.max_pool(x, 2),
    "max_pool overlapping": lambda x: ops.max_pool(x, 3, stride=1, padding=1, dilation=2),
    "max_pool large": lambda x: ops.max_pool(x, (5, 6), stride=1) * ops.max_pool(x, 1, padding=0)[:, :1, :1],
    "min_pool": lambda x: ops.min_pool(x, 2),
    "avg_pool": lambda x: ops.avg_pool(x, 2),
    "avg_pool overlapping": lambda x: ops.avg_pool(x, 3, stride=1, padding=1),
    "lp_pool": lambda x: ops.lp_pool(x, 2),
    "lp_pool cubic": lambda x: ops.lp_pool(x, 3, p=3, stride=2, padding=1),
    "lp_pool largest": lambda x: ops.lp_pool(x, 2, p=float("inf")),
    "pool": lambda x: ops.pool(x, 2, jnp.prod),
    "pool logsumexp": lambda x: ops.pool(x, 3, jax.nn.logsumexp, stride=1, padding=1, pad_value=0),
    "pool median": lambda x: ops.pool(x, (1, 3), jnp.median),
    "global_avg_pool": ops.global_avg_pool,
    "global_max_pool": ops.global_max_pool,
    "adaptive_avg_pool": lambda x: ops.adaptive_avg_pool(x, (4, 7)),
    "adaptive_max_pool": lambda x: ops.adaptive_max_pool(x, (4, 3)),
    "fractional_max_pool": lambda x: ops.fractional_max_pool(x, 2, output_size=4, key=jax.random.key(0)),
    "stochastic_pool": lambda x: ops.stochastic_pool(abs(x), 2, key=jax.random.key(0)),
    "stochastic_pool mean": lambda x: ops.stochastic_pool(abs(x), 2, key=None, deterministic=True),
    "local_response_norm": lambda x: ops.local_response_norm(x, size=2, alpha=0.5),
    "batch_norm": lambda x: ops.batch_norm(x, jnp.array([0.5, 2], x.dtype), jnp.array([1, 0.3], x.dtype))[0],
    "activations": lambda x: sum(
        f(x)
        for f in (
            *(ops.scaled_tanh, ops.gelu, ops.softplus, ops.exponential, ops.hard_tanh),
            *(ops.softshrink, ops.hardshrink, ops.tanhshrink, ops.rrelu),
            *(ops.celu, ops.elu, ops.hard_sigmoid, ops.hard_silu, ops.identity, ops.leaky_relu, ops.log_sigmoid),
            *(ops.mish, ops.relu, ops.relu6, ops.selu, ops.sigmoid, ops.silu, ops.soft_sign, ops.sparse_plus),
            *(ops.sparse_sigmoid, ops.squareplus, ops.tanh),
            lambda x: ops.threshold(x, 0.2),
            lambda x: ops.prelu(x, jnp.asarray(0.3, x.dtype)),
            lambda x: ops.swish(x, jnp.asarray(0.6, x.dtype)),
            lambda x: ops.scaled_sigmoid(x, jnp.asarray(0.9, x.dtype)),
            lambda x: ops.elu(x, jnp.asarray(0.7, x.dtype)),
        )
    ),
    "activations_along_an_axis": lambda x: sum(
        f(x) for f in (ops.softmax, ops.log_softmax, ops.softmin, ops.sparsemax, ops.glu, lambda x: ops.maxout(x, 2))
    ),
    "activations_along_an_axis others": lambda x: (
        sum(f(x) for f in (ops.reglu, ops.geglu, ops.swiglu)) * ops.crelu(x)[..., :1]
    ),
    "max_unpool": lambda x: ops.max_unpool(*ops.max_pool(x, 2, return_indices=True), (6, 7)),
}


#: Rows whose numbers belong to the batch as a whole: on a device they are those of the device's own examples.
OF_THE_BATCH = ("toeplitz_matrix", "fractional_max_pool", "stochastic_pool", "batch_norm")


# Compiled once per op, for all the columns.


@functools.cache
def forward(op):
    return jax.jit(op)


@functools.cache
def tangent(op):
    return jax.jit(lambda x, dx: jax.jvp(op, (x,), (dx,))[1])


@functools.cache
def gradient(op):
    return jax.jit(jax.grad(lambda x: (op(x) ** 2).sum()))


def direction(x, start=0.0):
    return jnp.sin(start + jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)


def check_jit(op, x):
    np.testing.assert_allclose(forward(op)(x), op(x), rtol=1e-12)


def check_jvp(op, x):
    dx = direction(x)
    eps = 1e-6
    slope = (forward(op)(x + eps * dx) - forward(op)(x - eps * dx)) / (2 * eps)
    np.testing.assert_allclose(tangent(op)(x, dx), slope, rtol=1e-6, atol=1e-6)


def check_grad(op, x):
    dx = direction(x)
    slope = (2 * forward(op)(x) * tangent(op)(x, dx)).sum()
    np.testing.assert_allclose((gradient(op)(x) * dx).sum(), slope, rtol=1e-10)


def check_hessian(op, x):
    """Forward over reverse and reverse over reverse, against differences of the gradient."""
    v = direction(x, 1.0)
    eps = 1e-6
    slope = (gradient(op)(x + eps * v) - gradient(op)(x - eps * v)) / (2 * eps)
    whole = jax.jit(jax.hessian(lambda x: (op(x) ** 2).sum()))(x)
    reverse = jax.jit(jax.grad(lambda x: (gradient(op)(x) * v).sum()))(x)
    np.testing.assert_allclose(reverse, slope, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(jnp.tensordot(whole, v, x.ndim), reverse, rtol=1e-10, atol=1e-10)


def check_vmap(op, x):
    xs = jnp.stack([x, 2 * x, -x])
    many, slopes = jax.jit(lambda xs: (jax.vmap(op)(xs), jax.vmap(gradient(op))(xs)))(xs)
    np.testing.assert_allclose(many, jnp.stack([forward(op)(x) for x in xs]), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slopes, jnp.stack([gradient(op)(x) for x in xs]), rtol=1e-10, atol=1e-12)


def check_checkpoint(op, x):
    again = jax.jit(jax.grad(lambda x: (jax.checkpoint(op)(x) ** 2).sum()))
    np.testing.assert_allclose(again(x), gradient(op)(x), rtol=1e-12)


def check_scan(op, x):
    def step(x, _):
        return x - 0.01 * gradient(op)(x), op(x)

    last, ys = jax.lax.scan(step, x, length=2)
    second = x - 0.01 * gradient(op)(x)
    np.testing.assert_allclose(ys, [forward(op)(x), forward(op)(second)], rtol=1e-10)
    np.testing.assert_allclose(last, second - 0.01 * gradient(op)(second), rtol=1e-10, atol=1e-12)


def sharded_differences(name):
    """One row over all devices, one example on each: its largest differences from the row on a single device."""
    op, devices = OPS[name], jax.devices()
    mesh, spec = Mesh(np.array(devices), ("batch",)), PartitionSpec("batch")
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(3), (len(devices), 6, 7, 2), "float64")
    local = op
    if "mean" in inspect.signature(op).parameters:
        local = functools.partial(op, mean=lambda x: jax.lax.pmean(x.mean(), "batch"))

    def loss(op, x):
        y = op(x)
        return (y * y * direction(y, 1.0)).sum(), y  # each output of another weight, so none may change places

    def by_example(x):
        return jnp.concatenate([op(one) for one in jnp.split(x, len(devices))])

    sharded = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec)
    alone = by_example if name in OF_THE_BATCH else op
    with jax.enable_x64(True):
        runs = [
            jax.jit(jax.value_and_grad(functools.partial(loss, op), has_aux=True))(at)
            for op, at in ((sharded, jax.device_put(x, jax.NamedSharding(mesh, spec))), (alone, x))
        ]
    (_, y), dx = runs[0]
    assert len(y.sharding.device_set) == len(dx.sharding.device_set) == len(devices) > 1
    return [
        float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / (1e-3 + np.abs(b))))
        for a, b in zip(*map(jax.tree.leaves, runs), strict=True)
    ]


PROGRAM = """
import json, sys
from tests.ops.test_transformations import sharded_differences
for name in json.loads(sys.argv[1]):
    try:
        result = sharded_differences(name)
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    print(json.dumps([name, result]))
"""


@pytest.fixture(scope="module")
def on_eight_devices(request):
    """What sharded_differences gives for each row that is asked for, from one process with eight devices."""
    items = (item.callspec.params for item in request.session.items if item.path == request.path)
    names = [params["op"] for params in items if params["transformation"] == "shard_map"]
    printed = processes.program(PROGRAM, json.dumps(names), devices=8)
    return dict(map(json.loads, printed.splitlines()))


CHECKS = {name[6:]: check for name, check in list(globals().items()) if name.startswith("check_")}

#: Every day each op with its default arguments; the variants, whose names go on after a space, are slow.
ROWS = [pytest.param(op, marks=[pytest.mark.slow] if " " in op else []) for op in OPS]


@pytest.mark.parametrize("op", ROWS)
@pytest.mark.parametrize("transformation", [*CHECKS, "shard_map"])
def test_table(op, transformation, request):
    if transformation == "shard_map":
        differences = request.getfixturevalue("on_eight_devices")[op]
        assert not isinstance(differences, str), differences
        assert all(difference < 1e-9 for difference in differences), "value, output or gradient"
        return
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(3), (2, 6, 7, 2), "float64")
        CHECKS[transformation](OPS[op], x)
