"""Whether a net overfitted, told only where the test set is large enough to tell."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cnnjax import report

LEAST_RISE = 0.05  # of the test loss over its minimum, however large the test set
DEVIATIONS = 2.0  # standard errors that the rise must exceed


def overfitting(records: Sequence[report.Record], test_examples: int) -> str | None:
    """Returns a sentence if the net overfitted, else None.

    It did if, from the evaluation with the lowest test loss to the end, the mean train loss of an epoch fell and the
    test loss rose beyond the noise of the test set, for good. With the lowest test loss `a`, and `b` the least of the
    later half of the evaluations after it (at least two, so that no single one decides):

        b - a > max(2 sqrt(a^2 / k_a + b^2 / k_b), 0.05 a)

    The root estimates the standard error of `b - a` as of two independent means. A cross-entropy comes mostly from the
    misclassified examples; as a sum over so many of them, which are Poisson distributed, its relative standard error
    is `1 / sqrt(k)` for `k` of them: `k` is `(1 - accuracy) test_examples`, at least 1. Where no accuracy was
    recorded, `k` is `test_examples / 2`, as for squares of normal residuals. Both are evaluated on the same examples,
    so the true error is smaller; the minimum over many evaluations is too low, which goes the other way. With two
    misclassified examples no rise is beyond noise; with 2,600 of 10,000 one of 6 % is.

    Args:
      records: those of `metrics.jsonl`.
      test_examples: number of test examples.
    """
    epochs, tested = report.by_epoch(records, "test_loss")
    trained = dict(zip(*report.by_epoch(records, "train_epoch_loss"), strict=True))
    accuracies = dict(zip(*report.by_epoch(records, "test_accuracy"), strict=True))
    if not tested or not all(map(math.isfinite, tested)):
        return None
    turn = min(range(len(tested)), key=tested.__getitem__)
    after = range(turn + 1, len(tested))
    if len(after) < 2 or not {epochs[turn], epochs[-1]} <= trained.keys():
        return None
    risen = min(after[len(after) // 2 :], key=tested.__getitem__)
    first, last = trained[epochs[turn]], trained[epochs[-1]]
    rise = tested[risen] - tested[turn]

    def standard_error(index: int) -> float:
        accuracy = accuracies.get(epochs[index])
        count = test_examples / 2 if accuracy is None else (1 - accuracy) * test_examples
        return tested[index] / math.sqrt(max(count, 1.0))

    noise = DEVIATIONS * math.hypot(standard_error(turn), standard_error(risen))
    if last >= first or rise <= max(noise, LEAST_RISE * abs(tested[turn])):
        return None
    return (
        f"the test loss turned after epoch {epochs[turn]} ({tested[turn]:.4f}, at the end {tested[-1]:.4f}: more than "
        f"the noise of {test_examples:,} test examples) while the train loss fell from {first:.4f} to {last:.4f}: "
        "the net overfits"
    )
