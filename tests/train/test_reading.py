"""Batches that are read ahead: in order, from any one on, without the examples that cannot be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grain
import numpy as np
import pytest

from cnnjax import data, train
from cnnjax.errors import UserError
from cnnjax.train import examples, reading
from tests.train import tiny


class Numbers:
    """Example i is (i, 10 i); some are corrupt."""

    def __init__(self, count: int, corrupt: tuple[int, ...] = ()):
        self.count, self.corrupt = count, corrupt

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        assert type(index) is int and 0 <= index < self.count
        if index in self.corrupt:
            raise data.CorruptExample(f"photo {index}.jpg is cut short.")
        return np.float32(index), np.int32(10 * index)


ROWS = np.array([[3, 1, 4], [0, 5, 9], [2, 6, -1]])


def read(split: Any, first: int = 0, *, skipped: reading.Skipped | None = None, replace: bool = True) -> Iterator[Any]:
    return reading.read_batches(split, ROWS.__getitem__, first, 3, workers=2, skipped=skipped, replace=replace)


@pytest.mark.parametrize("kind", ["arrays", "source", "rows of arrays", "rows of a source"])
def test_batches_come_in_order_from_any_one_on(kind: str) -> None:
    numbers = np.arange(20)
    arrays, source = train.Examples(numbers.astype(np.float32), 10 * numbers.astype(np.int32)), Numbers(20)
    split = arrays if "arrays" in kind else source
    if "rows" in kind:
        split = examples.Rows(split, numbers[5:15])  # type: ignore[arg-type]
    for first in (0, 2):
        found = list(read(split, first))
        assert len(found) == 3 - first
        for one, rows in zip(found, ROWS[first:], strict=True):
            expected = (rows + 5 * ("rows" in kind)) * (rows >= 0)
            np.testing.assert_array_equal(one.examples.x, expected)
            np.testing.assert_array_equal(one.examples.y, 10 * expected)
            np.testing.assert_array_equal(one.there, rows >= 0)


def test_numbers_beyond_the_length_are_those_of_later_epochs() -> None:
    dataset = grain.MapDataset.source(list(range(10))).seed(1).random_map(lambda n, draw: (n, draw.random()))
    first, second = examples.gather(dataset, [3, 4]), examples.gather(dataset, [13, 14])
    np.testing.assert_array_equal(first.x, second.x)
    assert not np.isin(first.y, second.y).any(), "drawn anew"
    held = examples.Rows(dataset, np.array([4, 7]))
    assert examples.gather(held, [2]).y == second.y[1], "epoch 1 of the rows is epoch 1 of the source"
    np.testing.assert_array_equal(examples.gather(Numbers(10), [13]).x, [3])


def test_the_next_example_takes_the_place_of_a_corrupt_one() -> None:
    skipped = reading.Skipped()
    found = [one.examples.x.tolist() for one in read(Numbers(10, (1, 2, 9)), skipped=skipped)]
    assert found == [[3, 3, 4], [0, 5, 0], [3, 6, 0]]
    assert sorted(skipped.take_new()) == [f"photo {number}.jpg is cut short." for number in (1, 2, 9)]
    assert skipped.take_new() == [] and len(skipped) == 3


def test_an_evaluation_leaves_it_out() -> None:
    found = list(read(Numbers(10, (1, 9)), skipped=reading.Skipped(), replace=False))
    assert [one.there.tolist() for one in found] == [[True, False, True], [True, True, False], [True, True, False]]
    assert found[0].examples.x.tolist() == [3, 0, 4]


def test_a_corrupt_example_ends_the_run_and_its_threads() -> None:
    before = threading.active_count()
    with pytest.raises(data.CorruptExample, match=r"photo 5\.jpg is cut short\."):
        list(read(Numbers(10, (5,))))
    patience = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_too_many_in_a_row_are_no_accident() -> None:
    with pytest.raises(UserError, match=r"100 examples in a row cannot be read, the last one: photo \d+\.jpg is cut"):
        list(read(Numbers(300, tuple(range(5, 250))), skipped=reading.Skipped()))
    with pytest.raises(UserError, match="none of the first 100 examples of `data` can be read"):
        examples.specs(Numbers(300, tuple(range(250))))


def test_a_run_warns_of_what_it_skips(caplog: pytest.LogCaptureFixture) -> None:
    x, y = tiny.examples(32, 1)

    class Damaged(Numbers):
        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            super().__getitem__(index)
            return x[index], y[index]

    def fit(**options: Any) -> train.Result:
        splits = {"train": Damaged(32, (7,)), "test": Damaged(32, (8, 9))}
        return tiny.fit(None, train.Options(epochs=2, batch_size=8, optimizer="sgd"), data=splits, **options)

    result = fit(skip_corrupt=True)
    assert result.labels.tolist() == np.delete(y, [8, 9]).tolist() and result.outputs.shape == (30, 4)
    for line in (*(f"skipped: photo {number}.jpg is cut short." for number in (7, 8, 9)),
                 "3 corrupt examples were skipped"):  # fmt: skip
        assert caplog.text.count(line) == 1
    with pytest.raises(data.CorruptExample, match=r"photo [789]\.jpg is cut short"):
        fit()
    before = train.BeforeEpoch(32, lambda params, x, y: {})
    assert fit(skip_corrupt=True, before_epoch=before).finished
    with pytest.raises(data.CorruptExample, match=r"photo [789]\.jpg is cut short"):
        fit(before_epoch=before)
