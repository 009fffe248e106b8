"""Arguments of NumPy's kinds, and arrays that no op takes."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from tests.ops.examples import NAMES, X, example_of

x = jnp.asarray(np.random.default_rng(0).normal(size=X), "float32")
w = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 2, 6)), "float32")


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (lambda: ops.conv(x, w, groups=np.int64(2)), lambda: ops.conv(x, w, groups=2)),
        (lambda: ops.conv(x, w, groups=np.array(2)), lambda: ops.conv(x, w, groups=2)),
        (
            lambda: ops.conv(x, w, groups=2, stride=np.array([1, 2]), padding=np.array([[1, 0], [2, 1]])),
            lambda: ops.conv(x, w, groups=2, stride=(1, 2), padding=((1, 0), (2, 1))),
        ),
        (
            lambda: ops.conv_transpose(x, w[..., :4], groups=np.int32(2), stride=np.int32(2)),
            lambda: ops.conv_transpose(x, w[..., :4], groups=2, stride=2),
        ),
        (
            lambda: ops.toeplitz_matrix(w, (4, 5), groups=np.int64(2)),
            lambda: ops.toeplitz_matrix(w, (4, 5), groups=2),
        ),
        (
            lambda: ops.conv_kernel_grad(x, ops.conv(x, w, groups=2), w.shape, groups=np.array(2)),
            lambda: ops.conv_kernel_grad(x, ops.conv(x, w, groups=2), w.shape, groups=2),
        ),
        (
            lambda: ops.deform_conv(x, w, jnp.zeros((*ops.conv(x, w, groups=2).shape[:3], 18)), groups=np.array(2)),
            lambda: ops.deform_conv(x, w, jnp.zeros((*ops.conv(x, w, groups=2).shape[:3], 18)), groups=2),
        ),
        (lambda: ops.channel_shuffle(x, np.int64(2)), lambda: ops.channel_shuffle(x, 2)),
        (lambda: ops.pixel_shuffle(x, np.array([2, 1])), lambda: ops.pixel_shuffle(x, (2, 1))),
        (lambda: ops.pad(x, np.array([1, 2]), value=np.float32(3)), lambda: ops.pad(x, (1, 2), value=3)),
        (lambda: ops.unfold(x, np.array([2, 3])), lambda: ops.unfold(x, (2, 3))),
        (
            lambda: ops.fold(x[..., :4], np.array([7, 9]), np.int64(2)),
            lambda: ops.fold(x[..., :4], (7, 9), 2),
        ),
        (
            lambda: ops.max_pool(x, np.array([2, 3]), padding=np.int64(1), ceil_mode=np.bool_(True)),
            lambda: ops.max_pool(x, (2, 3), padding=1, ceil_mode=True),
        ),
        (
            lambda: ops.local_response_norm(x, size=np.int64(3), alpha=np.array(0.5), k=np.float64(1)),
            lambda: ops.local_response_norm(x, size=3, alpha=0.5, k=1),
        ),
        (lambda: ops.maxout(x, np.int64(2), axis=np.array(-1)), lambda: ops.maxout(x, 2)),
        (lambda: ops.leaky_relu(x, np.float32(0.5)), lambda: ops.leaky_relu(x, 0.5)),
    ],
)
def test_numpys_numbers_and_arrays_are_taken(given, plain) -> None:
    np.testing.assert_array_equal(given(), plain())


def test_a_count_or_shape_from_numpy() -> None:
    assert ops.output_shape(np.array([8, 9]), np.int64(3), padding=np.array([[1, 1], [0, 1]])) == (8, 8)
    assert ops.receptive_field([np.int64(3), (np.array([3, 3]), 2), np.array([3, 1])]) == (9, 9)


def test_what_is_no_number_is_still_refused() -> None:
    for groups in (True, np.bool_(True), 2.0, np.float32(2)):
        with pytest.raises(TypeError, match=r"groups must be an int, got "):
            ops.conv(x, w, groups=groups)
    for groups in (2.0, np.bool_(True), np.array([2])):
        with pytest.raises(TypeError, match=r"groups must be made of ints, got "):
            ops.channel_shuffle(x, groups)
    with pytest.raises(TypeError, match=r"k must be a number, got array\(\[1\]\)"):
        ops.local_response_norm(x, k=np.array([1]))


@pytest.mark.parametrize("name", NAMES)
def test_complex_numbers_are_told_to_come_apart(name: str) -> None:
    each = example_of(name)
    first, *others = each.arrays("float32")
    if name == "stochastic_pool":  # which is given |x|
        return
    with pytest.raises(TypeError, match=r"got complex64: complex is not supported; take (\w+)\.real and \1\.imag, or"):
        each.op(first.astype("complex64"), *others)
