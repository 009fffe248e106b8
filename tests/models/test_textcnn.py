"""TextCNN: its counts, its numbers against NumPy, what each form trains, and a run through the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cnnjax import describe, models, train
from cnnjax.errors import UserError
from cnnjax.models.textcnn import FORMS
from cnnjax.train import devices, optimizers, state, step
from tests.cases import array

SMALL: dict[str, Any] = {"name": "textcnn", "vocabulary": 6, "width": 4, "windows": [2, 3], "maps": 5}
IDS = np.array([[0, 0, 1, 2, 3, 4, 0, 0], [0, 0, 5, 6, 5, 0, 0, 0]], np.int32)


def small(**options: Any) -> nnx.Module:
    """A small net, its dense layer drawn too, so that it shows what comes to it."""
    model = models.build({"model": {**SMALL, **options}, "seed": 3})
    model.dense.kernel[...] = jax.random.normal(jax.random.key(1), model.dense.kernel.shape)
    model.eval()
    return model


def by_hand(model: nnx.Module, vectors: np.ndarray) -> np.ndarray:
    """The logits of `IDS` in NumPy, from the vectors (2, 8, 4) of its words."""
    maxima = []
    for conv, window in zip(model.convs, (2, 3), strict=True):
        kernel, bias = (np.asarray(p[...], np.float64) for p in (conv.kernel, conv.bias))
        sums = [np.einsum("nwc,wcf->nf", vectors[:, at : at + window], kernel) + bias for at in range(8 - window + 1)]
        maxima.append(np.maximum(sums, 0).max(0))
    return 0.5 * np.concatenate(maxima, 1) @ np.asarray(model.dense.kernel[...]) + np.asarray(model.dense.bias[...])


def test_parameters_as_published() -> None:
    shapes = nnx.eval_shape(lambda: models.build({"model": {"name": "textcnn", "vocabulary": 18_765}}))
    sizes = {path: p.size for path, p in jax.tree_util.tree_flatten_with_path(nnx.state(shapes, nnx.Param))[0]}
    words = 18_766 * 300  # and the empty place
    assert words in sizes.values() and sum(sizes.values()) - words == 360_902


@pytest.mark.parametrize("form", FORMS)
def test_logits_by_hand(form: str) -> None:
    model = small(form=form)
    if form != "rand":
        model.set_vectors(array([2, 5], "int32"), array([[1.0, 2, 3, 4], [-1, 0, 1, 0]]))
    table = np.asarray(model.vectors[0].table[...], np.float64)
    if form != "rand":
        np.testing.assert_array_equal(table[[2, 5]], [[1, 2, 3, 4], [-1, 0, 1, 0]])
    assert not table[0].any() and 0.1 < np.abs(table[[1, 3, 4, 6]]).max() <= 0.25
    vectors = table[IDS] * (2 if form == "multichannel" else 1)  # both channels begin alike, and are added
    np.testing.assert_allclose(
        nnx.jit(lambda model, x: model(x))(model, IDS), by_hand(model, vectors), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("form", "trained", "fixed"),
    [("rand", 1, 0), ("static", 0, 1), ("non-static", 1, 0), ("multichannel", 1, 1)],
)
def test_what_each_form_trains(form: str, trained: int, fixed: int) -> None:
    model = small(form=form)
    rule = optimizers.optimizer("adadelta", 1.0)
    net, first = state.initial(model, rule)
    after, _ = jax.jit(train.make_update(net, rule))(first, jnp.asarray(IDS), jnp.array([0, 1], jnp.int32))
    changes = jax.tree.map(lambda a, b: np.asarray(a - b), after.params, first.params)
    assert len(changes.get("vectors", {})) == trained and len(after.rest.get("vectors", {})) == fixed
    for change in changes.get("vectors", {}).values():
        assert change["table"][1:].any(1).any() and not change["table"][0].any(), "the empty place stays empty"
    assert changes["convs"][0]["kernel"].any() and changes["dense"]["kernel"].any()


def test_dropout_takes_half_and_enlarges_nothing() -> None:
    """In training a maximum reaches the dense layer whole or not at all; in evaluation half of it."""
    model = small()
    model.dense.kernel[...] = jnp.eye(10, 2)
    whole = 2 * np.asarray(model(jnp.asarray(IDS)))
    model.train()
    seen = np.asarray(model(jnp.tile(jnp.asarray(IDS), (64, 1)))).reshape(64, 2, 2)
    dropped, kept = seen == 0, np.isclose(seen, whole, rtol=1e-5)
    assert (whole > 1e-4).all() and (dropped | kept).all()
    assert (dropped.sum(0) > 16).all() and (dropped.sum(0) < 48).all()


def test_the_layer_table_knows_words() -> None:
    table = describe(small(), (8,), dtype="int32")
    assert [(row.output, row.receptive_field) for row in table] == [
        ((8, 4), (1,)),
        ((7, 5), (2,)),
        ((5,), (8,)),
        ((6, 5), (3,)),
        ((5,), (8,)),
        ((10,), (8,)),
        ((2,), (8,)),
    ]
    assert table[0].params == 28 and table[1].macs == 7 * 2 * 4 * 5


def test_ids_come_to_the_net_as_they_are() -> None:
    """As float32 the largest two would be one."""
    ids = np.array([[2**24, 2**24 + 1], [1, 2]], np.int32)
    make = step.make_batches(devices.data_mesh(), 0, lambda ids: ids, None)
    x, _ = make(ids, np.zeros(2, np.int32), np.array([[1, 0]], np.int32), np.int32(0))
    np.testing.assert_array_equal(x, ids[None, ::-1])
    assert x.dtype == np.int32


def sentences(count: int, seed: int) -> train.Examples:
    """Random words; the class says whether word 1 is among them."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(2, 7, (count, 8)).astype(np.int32)
    labels = draw.integers(0, 2, count).astype(np.int32)
    ids[labels == 1, 4] = 1
    ids[:, :2] = ids[:, -2:] = 0
    return train.Examples(ids, labels)


def test_a_run_learns_within_the_norm(tmp_path: Path) -> None:
    result = train.fit(
        models.build({"model": {**SMALL, "width": 16, "maps": 16}}),
        {"train": sentences(96, 1), "test": sentences(45, 2)},
        tmp_path,
        epochs=25,
        batch_size=16,
        log_every=50,
        optimizer=optax.chain(optimizers.optimizer("adadelta", 1.0), train.max_norm("dense/kernel", 0.5)),
    )
    assert result.records[-1]["test_accuracy"] > 0.9
    norms = np.linalg.norm(result.state.params["dense"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, 0.5, rtol=1e-5)
    assert not np.asarray(result.state.params["vectors"][0]["table"])[0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "fixed"}, "form must be one of rand, static, non-static, multichannel, was 'fixed'"),
        ({"windows": []}, r"windows must be numbers of words, as \(3, 4, 5\), was \[\]"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        models.build({"model": {**SMALL, **options}})


@pytest.mark.parametrize(
    "ids", [np.zeros((2, 8), np.float32), np.zeros((2, 8, 1), np.int32), np.zeros((2, 2), np.int32)]
)
def test_what_is_no_sentence_is_refused(ids: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"ids must be ints \(N, L\) with L at least 3, was "):
        small()(jnp.asarray(ids))
