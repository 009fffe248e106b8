"""How many updates one compiled call makes."""

from __future__ import annotations

VALUES_PER_CALL = 2**24
"""Input values of the updates in a call on an accelerator: 64 MB in float32."""


def default_updates_per_call(
    platform: str, values_per_update: int, per_epoch: int, log_every: int, checkpoint_every: int
) -> int:
    """Returns the updates in a call where the user gives none: 1 on the CPU, more on accelerators.

    An accelerator waits for Python's calls where updates are short, which they are where batches are small. So a call
    has as many updates as `VALUES_PER_CALL` allows, but none waits longer for its record or checkpoint than it would
    alone. Of such numbers down to a half of the largest, the largest that divides the epoch is taken: then the last
    call of an epoch needs no program of its own.

    Args:
      platform: as JAX names it: `"cpu"`, `"gpu"` or `"tpu"`.
      values_per_update: elements of the inputs of a batch.
      per_epoch: updates in an epoch.
      log_every: updates between records.
      checkpoint_every: updates between checkpoints.
    """
    if platform == "cpu":
        return 1
    most = max(1, min(VALUES_PER_CALL // max(1, values_per_update), per_epoch, log_every, checkpoint_every))
    return next((number for number in range(most, most // 2, -1) if per_epoch % number == 0), most)


def updates_in_call(done: int, updates_per_call: int, per_epoch: int, total: int | None = None) -> int:
    """Returns the number of updates in the next call, after `done` updates.

    Calls start at multiples of `updates_per_call` within an epoch and end with it. Their bounds decide the bits, so
    they depend on nothing but the configuration. The last call ends at `total`, where given: in the middle of an epoch
    where a run has a fraction of one.
    """
    within = done % per_epoch
    count = min(updates_per_call - within % updates_per_call, per_epoch - within)
    return count if total is None else min(count, total - done)
