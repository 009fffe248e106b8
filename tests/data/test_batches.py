"""Keys, permutations and batch indices: functions of their arguments alone."""

import jax
import numpy as np
import pytest

from cnnjax.data import rng
from cnnjax.data.batches import indices, permutation, steps_per_epoch, updates_of_run
from cnnjax.errors import UserError


def test_permutation_holds_every_example_once():
    np.testing.assert_array_equal(np.sort(permutation(3, 0, 1000)), np.arange(1000))
    assert permutation(3, 0, 1000).dtype == np.int32


def test_permutation_is_a_function_of_seed_and_epoch():
    first = permutation(3, 0, 1000).copy()
    permutation.cache_clear()
    np.testing.assert_array_equal(permutation(3, 0, 1000), first)
    assert (permutation(3, 1, 1000) != first).any()
    assert (permutation(4, 0, 1000) != first).any()


def test_permutation_is_recorded():
    """If this fails, runs of earlier versions can no longer be resumed or repeated: say so in the release."""
    assert permutation(0, 0, 8).tolist() == [5, 3, 4, 6, 1, 0, 7, 2]


def test_permutation_cannot_be_spoilt_for_the_next_caller():
    with pytest.raises(ValueError, match="read-only"):
        permutation(3, 0, 10)[0] = 1


def test_permutation_ignores_the_configured_generator_and_x64():
    expected = permutation(5, 2, 100).copy()
    permutation.cache_clear()
    with jax.default_prng_impl("rbg"), jax.enable_x64(True):
        np.testing.assert_array_equal(permutation(5, 2, 100), expected)


def test_keys_differ_by_seed_purpose_and_index():
    keys = [
        rng.key(seed, purpose, index)
        for seed in (0, 1)
        for purpose in (rng.INIT, rng.SHUFFLE, rng.AUGMENT, rng.HOLD_OUT, rng.DROPOUT)
        for index in (0, 1)
    ]
    assert len({tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in keys}) == 20


def test_key_is_the_same_for_a_traced_index():
    traced = jax.jit(lambda step: jax.random.key_data(rng.key(7, rng.AUGMENT, step)))(12)
    np.testing.assert_array_equal(traced, jax.random.key_data(rng.key(7, rng.AUGMENT, 12)))


def test_indices_cross_the_epoch_like_a_plain_loop():
    n, batch_size, seed = 23, 5, 9  # four batches an epoch, three examples dropped
    plain = []
    for epoch in range(4):
        order = permutation(seed, epoch, n).tolist()
        for start in range(0, n - batch_size + 1, batch_size):
            plain.append(order[start : start + batch_size])
    got = indices(seed, 0, 16, n, batch_size)
    assert got.dtype == np.int32
    assert got.tolist() == plain
    for step, count in [(3, 1), (3, 2), (2, 9), (15, 1)]:
        assert indices(seed, step, count, n, batch_size).tolist() == plain[step : step + count]
    assert indices(seed, 5, 0, n, batch_size).shape == (0, 5)


def test_a_batch_of_all_examples_is_an_epoch():
    assert steps_per_epoch(10, 10) == 1
    assert sorted(indices(0, 3, 1, 10, 10)[0].tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("batch_size", "sentence"),
    [(11, "The batch size is 11, more than the 10"), (0, "at least 1"), (-3, "is -3")],
)
def test_impossible_batch_sizes(batch_size, sentence):
    with pytest.raises(UserError, match=sentence):
        indices(0, 0, 1, 10, batch_size)


def test_a_run_of_a_fraction_of_an_epoch_is_rounded_up():
    assert updates_of_run(50_000, 1024, 9.9) == 476  # 48 updates an epoch
    assert updates_of_run(50_000, 1024, 10) == 480
    assert updates_of_run(300, 10, 0.1) == 3, "though 30 x 0.1 is more than 3 in floating point"
