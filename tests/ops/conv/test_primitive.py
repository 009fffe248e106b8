"""The primitive behind conv, with oneDNN and without: XLA's own convolution gives the same in every mode."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.ops.conv import forward, onednn, problem
from cnnjax.ops.geometry import slide
from tests.cases import array

#: images (N, H, W, C), kernel, keywords
CASES = {
    "3x3": ((4, 9, 8, 20), (3, 3, 20, 24), {"padding": 1}),
    "3x3 stride 2": ((2, 9, 10, 20), (3, 3, 20, 24), {"padding": 1, "stride": 2}),
    "uneven": ((2, 9, 8, 17), (3, 2, 17, 19), {"padding": ((2, 0), (1, 3)), "stride": (1, 3)}),
    "dilated": ((2, 9, 9, 20), (3, 3, 20, 18), {"padding": 2, "dilation": 2}),
    "groups": ((2, 7, 7, 12), (3, 3, 4, 18), {"groups": 3, "stride": 2}),
    "depthwise": ((2, 9, 9, 20), (3, 3, 1, 20), {"groups": 20, "stride": 2, "padding": 1}),
    "few channels": ((5, 12, 12, 1), (5, 5, 1, 6), {}),
    "a window cropped": ((2, 8, 8, 20), (3, 3, 20, 18), {"padding": -1}),
    "1x1 stride 2": ((2, 7, 7, 20), (1, 1, 20, 18), {"stride": 2}),
    "sequences": ((3, 11, 20), (4, 10, 24), {"stride": 2, "padding": ((1, 2),), "groups": 2}),
    "a batch": ((16, 15, 6, 34), (3, 3, 17, 32), {"groups": 2, "padding": 1}),
    "many taps": ((1, 23, 23, 3), (11, 11, 3, 32), {"stride": 4}),
    "wide": ((3, 11, 8, 40), (3, 3, 40, 36), {"padding": ((1, 1), (0, 2))}),
    "very wide": ((2, 4, 5, 300), (3, 3, 300, 320), {"padding": 1}),
    "depthwise, dilated": ((2, 9, 9, 20), (3, 3, 1, 20), {"groups": 20, "dilation": 2, "padding": 2}),
}


@pytest.fixture(params=["onednn", "xla"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Runs with oneDNN as it is on this machine, or with XLA alone."""
    if request.param == "onednn":
        if not onednn.is_available():
            pytest.skip("this jaxlib has no oneDNN that was tested")
        yield "onednn"
        return
    monkeypatch.setattr(onednn, "is_available", lambda: False)
    jax.clear_caches()  # of what was lowered with it
    yield "xla"
    jax.clear_caches()


def in_every_mode(conv, x: jax.Array, w: jax.Array, few: bool) -> dict[str, jax.Array]:
    """Value, both gradients, tangents, second derivatives, and the kinds of vmap; or the first three of them."""

    def loss(x, w):
        return (jnp.sin(conv(x, w))).sum()

    xs, ws = np.stack([x, x[::-1]]), np.stack([w, 2 * w])
    shape = jax.eval_shape(conv, x, w).shape
    cotangent = jnp.asarray(np.cos(np.arange(np.prod(shape), dtype="float32")).reshape(shape))

    @jax.jit
    def program(x, w):
        dx, dw = jax.vjp(conv, x, w)[1](cotangent)
        if few:
            return {"value": conv(x, w), "dx": dx, "dw": dw}
        hessian = jax.jvp(jax.grad(loss, (0, 1)), (x, w), (jnp.cos(x), jnp.sin(w)))[1]
        twice = jax.grad(lambda x, w: (jax.grad(loss)(x, w) ** 2).sum(), (0, 1))(x, w)
        return {
            "value": conv(x, w),
            "dx": dx,
            "dw": dw,
            "jvp": jax.jvp(conv, (x, w), (jnp.cos(x), jnp.sin(w)))[1],
            "hessian": hessian,
            "twice": twice,
            "vmap x": jax.vmap(conv, (0, None))(xs, w),
            "vmap w": jax.vmap(conv, (None, 0))(x, ws),
            "vmap both": jax.vmap(conv)(xs, ws),
            "per example": jax.vmap(jax.grad(lambda w, x: loss(x[None], w)), (None, 0))(w, x),
            "vmap dx": jax.vmap(jax.grad(loss), (0, None))(xs, w),
            "scan": jax.lax.scan(lambda total, x: (total + jax.grad(loss, 1)(x, w), None), w, xs)[0],
            "checkpoint": jax.grad(jax.checkpoint(loss), 1)(x, w),
        }

    return program(x, w)


#: Cases that meet each rule of batching and transposing, in every mode; the others, which other forms compute, every
#: day in value and gradients alone.
IN_EVERY_MODE = ("3x3 stride 2", "groups", "few channels", "sequences")


def row(backend: str, case: str, modes: str) -> object:
    """Without oneDNN the forms are those of other tests."""
    everyday = modes == "few" or case in IN_EVERY_MODE if backend == "onednn" else case == "groups" and modes == "all"
    return pytest.param(backend, case, modes, marks=[] if everyday else pytest.mark.slow)


ROWS = [row(backend, case, modes) for backend in ("onednn", "xla") for case in CASES for modes in ("few", "all")
        if modes == "all" or (backend == "onednn" and case not in IN_EVERY_MODE)]  # fmt: skip


@pytest.mark.parametrize(("backend", "case", "modes"), ROWS, indirect=["backend"])
def test_as_xla_in_every_mode(backend: str, case: str, modes: str) -> None:
    x_shape, w_shape, keywords = CASES[case]
    rng = np.random.default_rng(0)
    x, w = (rng.normal(size=shape) for shape in (x_shape, w_shape))
    w /= np.prod(w_shape[:-1]) ** 0.5  # so that outputs are of order 1: sin would magnify the error of large ones
    x, w = array(x), array(w)
    got, expected = (
        in_every_mode(partial(ops.conv, **keywords, algorithm=algorithm), x, w, modes == "few")
        for algorithm in ("auto", "lax")
    )
    for mode, values in expected.items():
        for g, e in zip(*(map(np.asarray, jax.tree.leaves(each)) for each in (got[mode], values)), strict=True):
            assert g.dtype == e.dtype and g.shape == e.shape
            np.testing.assert_allclose(g, e, rtol=0, atol=1e-5 * float(abs(e).max()), err_msg=f"{case}: {mode}")


needs_onednn = pytest.mark.skipif(not onednn.is_available(), reason="this jaxlib has no oneDNN that was tested")


@needs_onednn
@pytest.mark.parametrize("forward_bytes", [4 * 16 * 3 * 3 * 700, 10**9])  # an image at a time, all at once
def test_very_wide_convolutions_are_exact_and_keep_nan_where_it_is(monkeypatch, forward_bytes) -> None:
    monkeypatch.setattr(forward, "WINOGRAD_FORWARD_BYTES", forward_bytes)
    for least in ("LEAST_TILES", "LEAST_TILE_PRODUCTS", "LEAST_FORWARD_SAVING"):
        monkeypatch.setattr(problem, least, 1)
    x, w = (np.random.default_rng(0).normal(size=s).astype("float32") for s in ((2, 7, 5, 300), (3, 3, 300, 400)))
    text = jax.jit(ops.conv).lower(x, w).as_text()
    products = 1 if onednn.has_avx512() else 0  # elsewhere XLA's own
    assert text.count("@__onednn$matmul") == products and text.count("@__onednn$convolution") == 1
    assert text.count("stablehlo.dot_general") >= 1 - products
    y = jax.jit(ops.conv)(x, w)
    with jax.enable_x64(True):
        exact = np.asarray(ops.conv(x.astype(float), w.astype(float)))
    assert abs(np.asarray(y) - exact).max() < 2e-6 * abs(exact).max()
    for bad in (np.nan, np.inf):
        x[1, 2, 0, 5] = bad
        finite = np.isfinite(jax.jit(ops.conv)(x, w)).all(-1)
        assert finite[0].all() and np.argwhere(~finite[1]).tolist() == [[0, 0], [1, 0], [2, 0]]


@needs_onednn
def test_a_precision_keeps_minimal_filtering_away() -> None:
    def gradient(x, w, precision):
        return jax.grad(lambda w: (ops.conv(x, w, precision=precision) ** 2).sum())(w)

    arrays = jnp.ones((2, 10, 10, 40)), jnp.ones((3, 3, 40, 40))
    texts = [jax.jit(partial(gradient, precision=p)).lower(*arrays).as_text() for p in (None, "highest")]
    assert ["36x" in text for text in texts] == [True, False]


def test_what_would_end_the_process_is_refused() -> None:
    windows = slide((8, 8), (3, 3), padding=-1)
    with pytest.raises(ValueError, match="no negative padding"):
        onednn.conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)), windows, 1)
    with pytest.raises(ValueError, match="the output"):
        wrong = slide((8, 8), (3, 3))._replace(output=(5, 6))
        onednn.conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)), wrong, 1)
    x = jnp.ones((1, 8, 8, 4))
    assert not onednn.supports(x.astype("float16"), x)
    assert not onednn.supports(x[:0], x)
