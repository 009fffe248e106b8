"""Many convolutions at once, as vmap makes them: the numbers of a Python loop over single ones."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import jet

from cnnjax import ops
from cnnjax.ops.conv import primitive
from cnnjax.ops.conv.mapped import as_one
from tests.cases import array

pytestmark = pytest.mark.thorough

K, N = 3, 2
#: shapes of x and w, keywords
CASES = {
    "3x3": ((N, 7, 6, 4), (3, 3, 4, 5), {"padding": 1}),
    "groups": ((N, 7, 6, 4), (3, 2, 2, 6), {"groups": 2, "stride": 2}),
    "depthwise": ((N, 7, 6, 4), (3, 3, 1, 4), {"groups": 4}),
    "sequences": ((N, 9, 3), (4, 3, 2), {"stride": 2}),
    "volumes": ((N, 4, 5, 4, 2), (2, 3, 2, 2, 3), {"padding": 1}),
}
each_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(params=["one by one", "as one"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Computes as a single CPU device does, or as accelerators do."""
    if request.param == "as one":
        monkeypatch.setattr(primitive, "one_by_one", as_one)
        jax.clear_caches()
        yield
        jax.clear_caches()
    else:
        yield


def arrays(case: str, *leading: int) -> tuple[jax.Array, jax.Array, dict]:
    x_shape, w_shape, keywords = CASES[case]
    rng = np.random.default_rng(0)
    return (*(array(rng.normal(size=(*leading, *shape))) for shape in (x_shape, w_shape)), keywords)


def loop(f, axes, *many):
    """Returns what vmap does, by a Python loop."""
    count = next(len(a) for a, axis in zip(many, axes, strict=True) if axis == 0)
    each = [f(*(a[i] if axis == 0 else a for a, axis in zip(many, axes, strict=True))) for i in range(count)]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def check(got, expected) -> None:
    for g, e in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert g.shape == e.shape and g.dtype == e.dtype
        np.testing.assert_allclose(g, e, rtol=0, atol=3e-5 * float(abs(np.asarray(e)).max()))


def all_of(op):
    """Value, gradients, tangents and second derivatives of a convolution, one function of x and w."""

    def loss(x, w):
        return jnp.sin(op(x, w)).sum()

    return lambda x, w: (
        op(x, w),
        jax.grad(loss, (0, 1))(x, w),
        jax.jvp(op, (x, w), (jnp.cos(x), jnp.sin(w)))[1],
        jax.jvp(jax.grad(loss, (0, 1)), (x, w), (jnp.cos(x), jnp.sin(w)))[1],
    )


@each_case
@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)], ids=["both", "one x", "one w"])
def test_all_derivatives_as_in_a_loop(form, case: str, axes) -> None:
    x, w, keywords = arrays(case, K)
    one = [a if axis == 0 else a[0] for a, axis in zip((x, w), axes, strict=True)]
    f = jax.jit(all_of(partial(ops.conv, **keywords)))
    check(jax.jit(jax.vmap(f, axes))(*one), loop(f, axes, *one))


@each_case
@pytest.mark.parametrize("axes", [(0, 0), (None, 0)], ids=["both", "one x"])
def test_derivatives_of_the_whole_as_of_the_sum(form, case: str, axes) -> None:
    """What is one for all problems has the sum of their gradients."""
    x, w, keywords = arrays(case, K)
    x = x if axes[0] == 0 else x[0]
    op = partial(ops.conv, **keywords)

    def of_vmap(x, w):
        return jnp.sin(jax.vmap(op, axes)(x, w)).sum()

    def of_loop(x, w):
        return sum(jnp.sin(op(x[i] if axes[0] == 0 else x, w[i])).sum() for i in range(K))

    def both(f):
        gradient = jax.grad(f, (0, 1))
        return lambda x, w: (gradient(x, w), jax.jvp(gradient, (x, w), (jnp.cos(x), jnp.sin(w)))[1],
                             jax.grad(lambda w: sum((g**2).sum() for g in gradient(x, w)))(w))  # fmt: skip

    check(jax.jit(both(of_vmap))(x, w), jax.jit(both(of_loop))(x, w))


@pytest.mark.parametrize("case", ["3x3", "groups"])
@pytest.mark.parametrize("outer", [(0, 0), (None, 0), (0, None)], ids=["both", "one x", "one w"])
@pytest.mark.parametrize("inner", [(0, 0), (None, 0), (0, None)], ids=["both", "one x", "one w"])
def test_vmap_in_vmap(form, case: str, inner, outer) -> None:
    x, w, keywords = arrays(case, 2, K)
    x = x[(slice(None) if outer[0] == 0 else 0, slice(None) if inner[0] == 0 else 0)]
    w = w[(slice(None) if outer[1] == 0 else 0, slice(None) if inner[1] == 0 else 0)]
    op = partial(ops.conv, **keywords)

    def f(x, w):
        """Value and, of what is one for all inner problems, too, the gradient of the sum."""
        many = jax.vmap(op, inner)
        return many(x, w), jax.grad(lambda x, w: jnp.sin(many(x, w)).sum(), (0, 1))(x, w)

    f = jax.jit(f)
    check(jax.jit(jax.vmap(f, outer))(x, w), loop(f, outer, x, w))


def test_gradients_per_example_of_an_ensemble(form) -> None:
    x, w, keywords = arrays("3x3", K)

    def gradient(w, image):
        return jax.grad(lambda w: jnp.sin(ops.conv(image[None], w, **keywords)).sum())(w)

    per_example = jax.jit(jax.vmap(jax.vmap(gradient, (None, 0)), (0, None)))(w, x[0])
    check(per_example, np.stack([loop(jax.jit(gradient), (None, 0), one, x[0]) for one in w]))


@pytest.mark.parametrize("axes", [(1, 2), (-1, 0), (None, -1)])
def test_any_axis_is_mapped(axes) -> None:
    x, w, keywords = arrays("3x3", K)
    op = partial(ops.conv, **keywords)
    x_moved = x[0] if axes[0] is None else jnp.moveaxis(x, 0, axes[0])
    check(jax.vmap(op, axes)(x_moved, jnp.moveaxis(w, 0, axes[1])),
          loop(op, (None if axes[0] is None else 0, 0), x[0] if axes[0] is None else x, w))  # fmt: skip


def test_taylor_series(form) -> None:
    x, w, keywords = arrays("3x3", K)
    many = jax.vmap(lambda w: jnp.sin(ops.conv(x[0], w, **keywords)))
    direction = jnp.cos(w)
    _, (first, second) = jax.jit(lambda w: jet.jet(many, (w,), ((direction, jnp.zeros_like(w)),)))(w)

    def along(t):
        return many(w + t * direction)

    tangent = jax.jvp(along, (0.0,), (1.0,))[1]
    check((first, second), (tangent, jax.jvp(lambda t: jax.jvp(along, (t,), (1.0,))[1], (0.0,), (1.0,))[1]))


def test_in_a_scan_and_behind_checkpoint() -> None:
    x, w, keywords = arrays("groups", K)
    many = jax.vmap(partial(ops.conv, **keywords))

    def loss(w, x):
        return jnp.sin(many(x, w)).sum()

    def step(w, x):
        return w - 0.1 * jax.grad(jax.checkpoint(loss))(w, x), None

    xs = jnp.stack([x, x[::-1]])
    expected = w
    for each in xs:
        singles = [
            jax.grad(lambda w, x: jnp.sin(ops.conv(x, w, **keywords)).sum())(*pair)
            for pair in zip(expected, each, strict=True)
        ]
        expected = expected - 0.1 * jnp.stack(singles)
    check(jax.jit(lambda w: jax.lax.scan(step, w, xs)[0])(w), expected)


@pytest.mark.parametrize("axes", [(0, 0), (None, 0)], ids=["both", "one x"])
def test_halves_are_summed_in_float32(form, axes) -> None:
    """The gradient of one x is a sum over all kernels: 4,096 ones in bfloat16 would stop at 256."""
    x, w = jnp.ones((1, 1, 1, 1), "bfloat16"), jnp.ones((4096, 1, 1, 1, 1), "bfloat16")
    x = jnp.broadcast_to(x, (4096, *x.shape)) if axes[0] == 0 else x
    grad = jax.jit(jax.grad(lambda x: jax.vmap(ops.conv, axes)(x, w).sum()))(x)
    assert grad.dtype == "bfloat16" and float(grad.max()) == (1 if axes[0] == 0 else 4096)


def test_nothing_is_mapped_over_and_batches_are_empty(form) -> None:
    x, w, keywords = arrays("3x3", K)
    f = jax.vmap(all_of(partial(ops.conv, **keywords)))
    assert f(x[:0], w[:0])[0].shape == (0, N, 7, 6, 5)
    y, (dx, dw), *_ = f(x[:, :0], w)
    assert y.shape == (K, 0, 7, 6, 5) and dx.shape == (K, 0, 7, 6, 4) and not np.asarray(dw).any()


def lowered(platform: str, op, *shapes) -> str:
    many = jax.jit(jax.vmap(op)).trace(*(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes))
    return many.lower(lowering_platforms=(platform,)).as_text()


def test_accelerators_get_groups_and_one_cpu_a_loop() -> None:
    shapes = (K, N, 7, 6, 4), (K, 3, 3, 4, 5)
    text = lowered("cuda", ops.conv, *shapes)
    assert f"feature_group_count = {K}" in text and "while" not in text
    assert "stablehlo.while" in lowered("cpu", ops.conv, *shapes)


def test_exported_programs_hold_groups_with_a_symbolic_batch() -> None:
    (n,) = export.symbolic_shape("n")
    x, w = (jax.ShapeDtypeStruct(shape, "float32") for shape in ((K, n, 7, 6, 4), (K, 3, 3, 4, 5)))
    exported = export.export(jax.jit(jax.vmap(ops.conv)), platforms=["cpu"])(x, w)
    x, w, _ = arrays("3x3", K)
    check(exported.call(x, w), loop(ops.conv, (0, 0), x, w))
