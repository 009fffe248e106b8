"""What the tests of ops share: small arrays, random geometries, an op with its gradients in one compiled program."""

import random

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.ops.geometry import slide

INF, NAN = float("inf"), float("nan")

#: The algorithms of conv that serve all arguments.
UNIVERSAL = ["lax", "direct", "im2col", "fft", "toeplitz"]


def array(values, dtype="float32"):
    """An array of JAX's that NumPy made: jnp.array compiles a program for every shape and dtype."""
    return jax.device_put(np.array(values).astype(jnp.dtype(dtype)))


def line(*values, dtype="float32"):
    """One sequence of one channel."""
    return array(np.array(values).reshape(1, -1, 1), dtype)


def random_arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape) for shape in shapes]


def cotangent(shape, dtype="float64"):
    """The same random numbers for the same shape."""
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def value_and_gradients(f, *args, has_aux=False):
    """A fixed random cotangent; and f's value, its gradients for it, and any second result, compiled as one."""
    ct, (results,) = values_and_gradients([f], *args, has_aux=has_aux)
    return ct, results


def values_and_gradients(functions, *args, has_aux=False):
    """As value_and_gradients, of several functions of results of one shape: a list, compiled as one program."""

    def of(f, *args):
        y, pull, *aux = jax.vjp(f, *args, has_aux=has_aux)
        return y, *pull(cotangent(y.shape, y.dtype)), *aux

    results = jax.jit(lambda *args: [of(f, *args) for f in functions])(*args)
    return cotangent(results[0][0].shape, results[0][0].dtype), results


def transposed_case(seed):
    """One geometry of a conv: x's shape, w's shape, the keywords, and those with the padding in full."""
    draw = random.Random(seed)
    rank = 1 + seed % 3
    while True:
        sizes = tuple(draw.randint(1, {1: 9, 2: 6, 3: 4}[rank]) for _ in range(rank))
        window = [draw.randint(1, 3) for _ in range(rank)]
        stride, dilation = ([draw.choice([1, 2, 3]) for _ in range(rank)] for _ in range(2))
        groups = draw.choice([1, 1, 2, 3])
        padding = tuple((draw.randint(-1, 2), draw.randint(-1, 2)) for _ in range(rank))
        if draw.random() < 0.4:
            padding = draw.choice(["VALID", "SAME", "SAME_LOWER", "FULL"])
        geometry = {"stride": stride, "padding": padding, "dilation": dilation}
        try:
            windows = slide(sizes, window, **geometry)
        except ValueError:
            continue
        per_group, out = draw.randint(1, 2), draw.randint(1, 2) * groups
        shapes = (draw.randint(1, 2), *sizes, per_group * groups), (*window, per_group, out)
        full = {"stride": stride, "padding": windows.padding, "dilation": dilation, "groups": groups}
        return *shapes, geometry | {"groups": groups}, full, windows.output


def softmax_pool(windows, axis):
    return (windows * jax.nn.softmax(windows, axis)).sum(axis)


#: Reducers for `ops.pool`: each as JAX has it, and as NumPy says it of a list.
REDUCERS = {
    "prod": (jnp.prod, np.prod),
    "logsumexp": (jax.nn.logsumexp, lambda met: np.log(np.sum(np.exp(met)))),
    "median": (jnp.median, np.median),
    "softmax": (softmax_pool, lambda met: np.sum(met * np.exp(met)) / np.sum(np.exp(met))),
}
