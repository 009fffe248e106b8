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
from tests.ops.examples import CONV_ALONE


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
    "batch_norm_max_pool": lambda x: ops.batch_norm_max_pool(
        x, jnp.array([0.5, -2], x.dtype), jnp.array([1, 0.3], x.dtype), (2, 1)
    )[0],
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
OF_THE_BATCH = ("toeplitz_matrix", "fractional_max_pool", "stochastic_pool", "batch_norm", "batch_norm_max_pool")


# Two programs per op for all the columns: one of two is compiled sooner than two.


@functools.cache
def once(op):
    """Value, tangent and gradient at a point, as NumPy's: what the checks do with them is not compiled."""
    program = jax.jit(lambda x, dx: (op(x), jax.jvp(op, (x,), (dx,))[1], gradient(op)(x)))
    return lambda x, dx: jax.device_get(program(x, dx))


@functools.cache
def again(op):
    """What transforms value and gradient once more gives at the point of the table."""
    program = jax.jit(
        lambda x, v, xs: {
            "forward over reverse": jax.vmap(lambda t: jax.jvp(gradient(op), (x,), (t,))[1])(jnp.stack([v, x])),
            "reverse over reverse": jax.grad(lambda x: (gradient(op)(x) * v).sum())(x),
            "vmap": jax.vmap(op)(xs),
            "vmap of the gradient": jax.vmap(gradient(op))(xs),
            "checkpoint": gradient(jax.checkpoint(op))(x),
            "scan": jax.lax.scan(lambda x, _: (x - 0.01 * gradient(op)(x), op(x)), x, length=2),
        }
    )
    x = point()
    return jax.device_get(program(x, direction(x, 1.0), several(x)))


def gradient(op):
    return jax.grad(lambda x: (op(x) ** 2).sum())


def point():
    return jax.random.normal(jax.random.key(3), (2, 6, 7, 2), "float64")


def direction(x, start=0.0):
    return jnp.sin(start + jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)


def value_at(op, x):
    return once(op)(x, direction(x))[0]


def gradient_at(op, x):
    return once(op)(x, direction(x))[2]


def several(x):
    return jnp.stack([x, 2 * x, -x])


def check_jit(op, x):
    np.testing.assert_allclose(value_at(op, x), op(x), rtol=1e-12)


def check_jvp(op, x):
    dx = direction(x)
    eps = 1e-6
    slope = (value_at(op, x + eps * dx) - value_at(op, x - eps * dx)) / (2 * eps)
    np.testing.assert_allclose(once(op)(x, dx)[1], slope, rtol=1e-6, atol=1e-6)


def check_grad(op, x):
    dx = direction(x)
    y, tangent, slopes = once(op)(x, dx)
    np.testing.assert_allclose((slopes * dx).sum(), (2 * y * tangent).sum(), rtol=1e-10)


def check_hessian(op, x):
    """Forward over reverse, mapped over tangents as jax.hessian does, and reverse over reverse: against differences."""
    v = direction(x, 1.0)
    eps = 1e-6
    slope = (gradient_at(op, x + eps * v) - gradient_at(op, x - eps * v)) / (2 * eps)
    reverse, (along_v, along_x) = again(op)["reverse over reverse"], again(op)["forward over reverse"]
    np.testing.assert_allclose(reverse, slope, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(along_v, reverse, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose((along_x * v).sum(), (along_v * x).sum(), rtol=1e-10, atol=1e-10)


def check_vmap(op, x):
    many, slopes = again(op)["vmap"], again(op)["vmap of the gradient"]
    np.testing.assert_allclose(many, [value_at(op, x) for x in several(x)], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slopes, [gradient_at(op, x) for x in several(x)], rtol=1e-10, atol=1e-12)


def check_checkpoint(op, x):
    np.testing.assert_allclose(again(op)["checkpoint"], gradient_at(op, x), rtol=1e-12)


def check_scan(op, x):
    last, ys = again(op)["scan"]
    second = x - 0.01 * gradient_at(op, x)
    np.testing.assert_allclose(ys, [value_at(op, x), value_at(op, second)], rtol=1e-10)
    np.testing.assert_allclose(last, second - 0.01 * gradient_at(op, second), rtol=1e-10, atol=1e-12)


def loss_with_weights(op, x):
    y = op(x)
    return (y * y * direction(y, 1.0)).sum(), y  # each output of another weight, so none may change places


def sharded_differences(names):
    """Rows over all devices, one example on each: their largest differences from the rows on a single device."""
    devices = jax.devices()
    mesh, spec = Mesh(np.array(devices), ("batch",)), PartitionSpec("batch")

    def sharded(name):
        op = OPS[name]
        if "mean" in inspect.signature(op).parameters:
            op = functools.partial(op, mean=lambda x: jax.lax.pmean(x.mean(), "batch"))
        return jax.shard_map(op, mesh=mesh, in_specs=spec, out_specs=spec)

    def alone(name):
        if name not in OF_THE_BATCH:
            return OPS[name]
        return lambda x: jnp.concatenate(jax.lax.map(OPS[name], x[:, None]))

    def together(kind):  # one program of all rows is compiled sooner than one for each
        return jax.jit(
            lambda x: {name: jax.value_and_grad(functools.partial(loss_with_weights, kind(name)), has_aux=True)(x)
                       for name in names}
        )  # fmt: skip

    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(3), (len(devices), 6, 7, 2), "float64")
        over_all = together(sharded)(jax.device_put(x, jax.NamedSharding(mesh, spec)))
        on_one = together(alone)(x)
    for name in names:
        (_, y), dx = over_all[name]
        assert len(y.sharding.device_set) == len(dx.sharding.device_set) == len(devices) > 1
        yield (
            name,
            [
                float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / (1e-3 + np.abs(b))))
                for a, b in zip(*map(jax.tree.leaves, (over_all[name], on_one[name])), strict=True)
            ],
        )


PROGRAM = """
import json, sys
from tests.ops.test_transformations import sharded_differences
names = json.loads(sys.argv[1])
try:
    results = list(sharded_differences(names))
except Exception:  # whose it is each row by itself says
    results = []
    for name in names:
        try:
            results.extend(sharded_differences([name]))
        except Exception as error:
            results.append((name, f"{type(error).__name__}: {error}"))
for result in results:
    print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def on_eight_devices(request):
    """What sharded_differences gives for each row that is asked for, from one process with eight devices."""
    items = (item.callspec.params for item in request.session.items if item.path == request.path)
    names = [params["op"] for params in items if params.get("transformation") == "shard_map"]
    printed = processes.program(PROGRAM, json.dumps(names), devices=8)
    return dict(map(json.loads, printed.splitlines()))


CHECKS = {name[6:]: check for name, check in list(globals().items()) if name.startswith("check_")}

#: Every day each op with its default arguments; the variants, whose names go on after a space, are slow.
ROWS = [pytest.param(op, marks=[pytest.mark.slow] if " " in op or op in CONV_ALONE else []) for op in OPS]


#: That jit changes nothing tests/ops/test_jax_tools.py says every day, of all but activation functions.
RARE = {"jit": pytest.mark.slow, "hessian": pytest.mark.thorough, "shard_map": pytest.mark.thorough}
COLUMNS = [pytest.param(name, marks=[RARE[name]] if name in RARE else []) for name in [*CHECKS, "shard_map"]]


@pytest.mark.parametrize("op", [row for row in OPS if row.startswith("activations")])
def test_activations_without_jit(op):
    with jax.enable_x64(True):
        check_jit(OPS[op], point())


@pytest.mark.parametrize("op", ROWS)
@pytest.mark.parametrize("transformation", COLUMNS)
def test_table(op, transformation, request):
    if transformation == "shard_map":
        differences = request.getfixturevalue("on_eight_devices")[op]
        assert not isinstance(differences, str), differences
        assert all(difference < 1e-9 for difference in differences), "value, output or gradient"
        return
    with jax.enable_x64(True):
        CHECKS[transformation](OPS[op], point())
