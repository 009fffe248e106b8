"""The primitive behind conv, with oneDNN's door open and closed: XLA's own convolution gives the same in every mode."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.ops import conv_onednn, conv_trilinear
from cnnjax.ops.geometry import slide

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
    "many taps": ((1, 23, 23, 3), (11, 11, 3, 18), {"stride": 4}),
}


@pytest.fixture(params=["open", "closed"])
def door(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """oneDNN's door as it is on this machine, or closed."""
    if request.param == "closed":
        monkeypatch.setattr(conv_onednn, "is_open", lambda: False)
    elif not conv_onednn.is_open():
        pytest.skip("this jaxlib has no door to oneDNN that was tested")
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


def in_every_mode(conv, x: jax.Array, w: jax.Array) -> dict[str, jax.Array]:
    """Value, both gradients, tangents, second derivatives, and the kinds of vmap, in one program."""

    def loss(x, w):
        return (jnp.sin(conv(x, w))).sum()

    xs, ws = jnp.stack([x, x[::-1]]), jnp.stack([w, 2 * w])
    cotangent = jnp.cos(jnp.arange(conv(x, w).size, dtype="float32")).reshape(conv(x, w).shape)

    @jax.jit
    def program(x, w):
        dx, dw = jax.vjp(conv, x, w)[1](cotangent)
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


SHUT = [pytest.param("closed", case, marks=[] if case == "groups" else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("door", "case"), [*(("open", case) for case in CASES), *SHUT], indirect=["door"])
def test_as_xla_in_every_mode(door: str, case: str) -> None:
    x_shape, w_shape, keywords = CASES[case]
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), "float32") for shape in (x_shape, w_shape))
    got = in_every_mode(functools.partial(ops.conv, **keywords), x, w)
    expected = in_every_mode(functools.partial(ops.conv, **keywords, algorithm="lax"), x, w)
    for mode, values in expected.items():
        for g, e in zip(jax.tree.leaves(got[mode]), jax.tree.leaves(values), strict=True):
            assert g.dtype == e.dtype and g.shape == e.shape
            np.testing.assert_allclose(g, e, rtol=0, atol=1e-5 * float(abs(e).max()), err_msg=f"{case}: {mode}")


@pytest.mark.parametrize("tile_bytes", [1, 9 * 20 * 7 * 4 * 3, 9 * 20 * 7 * 4 * 14])  # a row, three rows, two images
def test_kernel_gradient_by_tiles(monkeypatch: pytest.MonkeyPatch, tile_bytes: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 7, 7, 20)).astype("float32"), rng.normal(size=(4, 7, 7, 18)).astype("float32")
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(float)
    expected = np.array(
        [[np.einsum("nhwc,nhwf->cf", padded[:, i : i + 7, j : j + 7], y) for j in range(3)] for i in range(3)]
    )
    monkeypatch.setattr(conv_trilinear, "TILE_BYTES", tile_bytes)
    got = conv_trilinear._kernel_gradient_by_tiles(jnp.asarray(x), jnp.asarray(y), slide((7, 7), (3, 3), padding=1))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.skipif(not conv_onednn.is_open(), reason="this jaxlib has no door to oneDNN that was tested")
@pytest.mark.parametrize(
    ("size", "kernel", "keywords"),
    [
        pytest.param((8, 8), (3, 3), {"padding": 1}, id="one tile"),
        pytest.param((14, 6), (3, 3), {"padding": 1}, id="tiles of 7 rows"),
        pytest.param((17, 5), (2, 3), {"padding": ((1, 0), (0, 2))}, id="tiles of a row, uneven padding"),
        pytest.param((33, 16), (5, 4), {"stride": (2, 3), "padding": 1}, id="strides that leave a rest"),
        pytest.param((20, 19), (3, 3), {"dilation": (2, 3), "stride": 2, "padding": 2}, id="dilated"),
        pytest.param((16, 9), (3, 3), {"padding": ((-1, 1), (2, -2))}, id="cropped"),
        pytest.param((1, 40), (1, 5), {"padding": ((0, 0), (2, 2))}, id="images of one row"),
    ],
)
def test_kernel_gradient_by_images(size, kernel, keywords) -> None:
    windows = slide(size, kernel, **keywords)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(17, *size, 19)).astype("float32")
    y = rng.normal(size=(17, *windows.output, 18)).astype("float32")
    got = jax.jit(lambda x, y: conv_trilinear._kernel_gradient_by_images(x, y, windows))(x, y)
    (top, bottom), (left, right) = windows.padding
    padded = np.pad(x, [(0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0)]).astype(float)
    padded = padded[:, max(-top, 0) :, max(-left, 0) :]
    (height, width), (down, along), (far, wide) = windows.output, windows.stride, windows.dilation
    expected = np.zeros((*kernel, 19, 18))
    for i, j in np.ndindex(*kernel):
        seen = padded[:, i * far : i * far + height * down : down, j * wide : j * wide + width * along : along]
        expected[i, j] = np.einsum("nhwc,nhwf->cf", seen[:, :height, :width], y)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * abs(expected).max())


def test_accelerators_get_xlas_convolutions() -> None:
    def gradients(x, w):
        return jax.grad(lambda x, w: (ops.conv(x, w, padding=1) ** 2).sum(), (0, 1))(x, w)

    arrays = jnp.ones((2, 8, 8, 20)), jnp.ones((3, 3, 20, 24))
    for platform in ("cuda", "tpu"):
        text = jax.jit(gradients).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()
        assert text.count("stablehlo.convolution(") == 3 and "onednn" not in text and "while" not in text
    if conv_onednn.is_open():
        text = jax.jit(gradients).trace(*arrays).lower(lowering_platforms=("cpu",)).as_text()
        assert text.count("@__onednn$convolution") == 2 and "stablehlo.convolution" not in text


def test_what_would_end_the_process_is_refused() -> None:
    windows = slide((8, 8), (3, 3), padding=-1)
    with pytest.raises(ValueError, match="no negative padding"):
        conv_onednn.conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)), windows, 1)
    with pytest.raises(ValueError, match="the output"):
        wrong = slide((8, 8), (3, 3))._replace(output=(5, 6))
        conv_onednn.conv(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4)), wrong, 1)
    x = jnp.ones((1, 8, 8, 4))
    assert not conv_onednn.serves(x.astype("float16"), x)
    assert not conv_onednn.serves(x[:0], x)
