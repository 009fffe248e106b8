"""Checkpoints: written by Orbax, verified by SHA-256.

Orbax alone restores flipped bits silently.

`WORKDIR/checkpoints/N` holds the state after N updates. Its metadata have a hash of every array, taken before the
array was written; `SHA256SUMS` has a hash of every file, taken afterwards (`sha256sum -c` reads it). A checkpoint that
fails a check is moved to `WORKDIR/damaged` and never deleted.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.errors import UserError
from cnnjax.train import devices
from cnnjax.train.state import TrainState, by_name, nested, to_arrays

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

Arrays = dict[str, np.ndarray]
SUMS = "SHA256SUMS"
NET = ("params/", "rest/", "average/", "slow/")
"""Parts of a state whose arrays must be finite."""


class DamagedCheckpoint(UserError):
    """Raised for a checkpoint that cannot be read or whose content is not what was saved."""


def fingerprint(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the SHA-256 of each array, over its path, dtype, shape and bytes."""
    return {
        name: hashlib.sha256(f"{name} {a.dtype} {a.shape} ".encode() + np.ascontiguousarray(a).tobytes()).hexdigest()
        for name, a in arrays.items()
    }


class Checkpoints:
    """Saves the checkpoints of one workdir; with several processes each writes its own parts, as Orbax shares them.

    Keeps the last `keep` and the one with the lowest validation loss. Saving is asynchronous and atomic.
    Call `set_aside` for damaged ones before: Orbax may fail to open a folder that holds them. It is imported and opens
    the folder at the first save, so that the first update does not wait for it.

    Args:
      workdir: the run's folder.
      keep: number of the last checkpoints to keep.
      validated: whether saves come with a validation loss.
    """

    def __init__(self, workdir: Path, keep: int, *, validated: bool = True):
        self.folder = workdir / "checkpoints"
        self._keep, self._validated = keep, validated
        self._saving: int | None = None
        self._saved = max(steps(workdir), default=None)

    @functools.cached_property
    def _manager(self) -> ocp.CheckpointManager:
        """Orbax's manager of the folder."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as managers

        best = managers.BestN(get_metric_fn=_rank, n=1, keep_checkpoints_without_metrics=False)
        with _clear_errors(self.folder, "opening"):
            return ocp.CheckpointManager(
                self.folder.resolve(),
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(self._keep), best]),
                    # overruled by the policy, but without it Orbax writes no metrics; with it, it asks for them
                    best_fn=_rank if self._validated else None,
                    cleanup_tmp_directories=True,  # of saves that a kill interrupted
                ),
            )

    def save(
        self,
        state: TrainState,
        config: Mapping[str, Any],
        validation_loss: float | None = None,
        means: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to save the state; does nothing for a step that is saved already.

        Waits for the previous save first.

        Args:
          state: what to save.
          config: what decides the numbers, as JSON values.
          validation_loss: by which the best checkpoint is chosen.
          means: of the interval and the epoch under way, for the records of the run that goes on.

        Raises:
          UserError: a save fails (a full disk), or the state holds NaN or infinity. The old checkpoints are kept.
        """
        import orbax.checkpoint as ocp

        arrays = to_arrays(devices.to_host(state))
        step = int(arrays["step"])
        if step == (self._saved if self._saving is None else self._saving):
            return
        self.wait()
        for name, array in arrays.items():
            if not name.startswith(NET):  # an optimiser may start from an infinite best loss
                continue
            if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
                raise UserError(
                    f"{name} became NaN or infinite at update {step}; {self.last_good()}. "
                    "Start a new `workdir` with a lower `learning_rate` or with `grad_clip`."
                )
        meta = {"step": step, "config": dict(config), "means": means or {}, "arrays": fingerprint(arrays)}
        meta["sha256"] = _digest(meta)
        # Orbax wants global arrays of several processes; copies, as the next update overwrites the state
        written = arrays if jax.process_count() == 1 else jax.tree.map(jnp.copy, by_name(state))
        with _clear_errors(self.folder, f"saving checkpoint {step} in", self.last_good):
            self._manager.save(
                step,
                args=ocp.args.Composite(state=ocp.args.StandardSave(written), meta=ocp.args.JsonSave(meta)),
                metrics=None if validation_loss is None else {"validation_loss": validation_loss},
            )
        self._saving = step

    def wait(self) -> None:
        """Waits until the save under way is safe on disk; UserError where it failed."""
        step, self._saving = self._saving, None  # where it failed, that is said once
        if step is None:
            return
        with _clear_errors(self.folder, f"saving checkpoint {step} in", self.last_good):
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            if devices.is_main():
                _write_sums(self.folder / str(step))
        self._saved = step

    def last_good(self) -> str:
        """Returns a clause that names the last saved checkpoint."""
        if self._saved is None:
            return "no checkpoint was saved before"
        return f"the last good checkpoint is {self.folder / str(self._saved)}"

    def close(self) -> None:
        """Waits for the save under way and stops Orbax's threads."""
        try:
            self.wait()
        finally:
            if "_manager" in vars(self):
                self._manager.close()


class Restored(NamedTuple):
    """Holds a verified checkpoint, and a sentence for each newer one that is damaged."""

    arrays: Arrays
    config: dict[str, Any]
    means: dict[str, Any]
    damaged: list[str]


def steps(workdir: Path) -> list[int]:
    """Returns the steps of the checkpoint folders of a workdir, oldest first, intact or not."""
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


def read(workdir: Path, step: int) -> Restored:
    """Reads and verifies one checkpoint.

    DamagedCheckpoint names its folder where a bit has changed.
    """
    import orbax.checkpoint as ocp

    path = (workdir / "checkpoints" / str(step)).resolve()
    if not path.is_dir():
        raise UserError(f"{workdir} has no checkpoint {step}; it has {steps(workdir) or 'none'}.")
    if wrong_files := _check_sums(path):
        raise DamagedCheckpoint(
            f"the checkpoint {path} is damaged: {wrong_files[0]} is missing or not as it was written"
        )
    try:
        meta = _restore(path, meta=ocp.args.JsonRestore()).meta
        digest = meta.pop("sha256")
        as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in meta["arrays"]}
        found = _restore(path, state=ocp.args.PyTreeRestore(restore_args=as_numpy)).state
        arrays = {name: np.asarray(array) for name, array in found.items()}
    except Exception as error:  # Orbax and TensorStore raise a dozen types for a damaged file
        reason = str(error).strip().split("\n")[0][:200]
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: {type(error).__name__}: {reason}") from error
    if digest != _digest(meta):
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: its metadata do not match their SHA-256")
    if wrong := sorted(set(meta["arrays"].items()) ^ set(fingerprint(arrays).items())):
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: {wrong[0][0]} does not match its SHA-256")
    return Restored(arrays, meta["config"], meta.get("means", {}), [])


def _restore(path: Path, **parts: Any) -> Any:
    """Reads parts of a checkpoint, whole, by this process alone: other numbers of processes may have written it."""
    import orbax.checkpoint as ocp

    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"read{process}"
    )
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        return reader.restore(path, args=ocp.args.Composite(**parts))


def read_newest(workdir: Path) -> Restored | None:
    """Reads the newest intact checkpoint; None where there is no checkpoint at all.

    Raises:
      DamagedCheckpoint: there are checkpoints and none is intact.
    """
    damaged: list[str] = []
    for step in reversed(steps(workdir)):
        try:
            return read(workdir, step)._replace(damaged=damaged)
        except DamagedCheckpoint as error:
            damaged.append(str(error))
    if damaged:
        raise DamagedCheckpoint("; ".join(damaged) + ". No sound one is left: start again with another `workdir`.")
    return None


def set_aside(workdir: Path, newer_than: int) -> list[Path]:
    """Moves checkpoints newer than a step to `WORKDIR/damaged`.

    Their steps can then be saved again.
    """
    folder, aside = workdir / "checkpoints", workdir / "damaged"
    moved = []
    for step in steps(workdir):
        if step > newer_than:
            aside.mkdir(exist_ok=True)
            target = next(path for n in itertools.count() if not (path := aside / f"{step}.{n}").exists())
            moved.append((folder / str(step)).rename(target))
    return moved


def best_step(workdir: Path) -> int | None:
    """Returns the step with the lowest validation loss; None if none was validated."""
    losses = {}
    for step in steps(workdir):
        try:
            metrics = json.loads((workdir / "checkpoints" / str(step) / "metrics/metrics").read_text())
            losses[step] = metrics["validation_loss"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return min(losses, key=losses.__getitem__, default=None)


def restore(workdir: str | Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a run's checkpoint, verified bit by bit.

    `cnnjax.models.build(config)` makes the model of a script's run, and
    `cnnjax.train.load(model, state.get("average", state["params"]), state["rest"])` fills it: the net that was scored.

    Args:
      workdir: the run's folder.
      step: which checkpoint; by default the one with the lowest validation loss if the run held out a validation
        set, else the newest intact one.

    Returns:
      `(state, config)`: state is the nested dict `{"params": ..., "rest": ..., "opt_state": ..., "step": ...}` of
      NumPy arrays, with `"average"` where a moving average of the parameters was kept;
      config is what the run's `config.json` held when the checkpoint was saved.

    Raises:
      UserError: no such workdir or checkpoint, or a damaged one.
    """
    workdir = Path(workdir)
    if not steps(workdir):
        raise UserError(f"{workdir} holds no checkpoint: give the `workdir` of a run that has saved one.")
    if step is None:
        step = best_step(workdir)
    found = read_newest(workdir) if step is None else read(workdir, step)
    assert found is not None
    state = nested(found.arrays)
    return {"rest": {}, "opt_state": {}, **state}, found.config


def _rank(metrics: Mapping[str, float]) -> float:
    return -metrics["validation_loss"]


def _write_sums(path: Path) -> None:
    """Writes the hashes of a finished checkpoint's files, as `sha256sum` does.

    A kill may prevent it.
    """
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    lines = [f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    fresh = path.parent.parent / "SHA256SUMS.new"  # not in the checkpoint, where a half-written one would stay
    fresh.write_text("".join(lines))
    os.replace(fresh, path / SUMS)


def _check_sums(path: Path) -> list[str]:
    """Returns the files that are missing or differ from SHA256SUMS, if it exists."""
    if not (path / SUMS).exists():
        return []
    try:
        entries = [line.split("  ", 1) for line in (path / SUMS).read_text().splitlines()]
        return [
            name
            for digest, name in entries
            if not (path / name).is_file() or hashlib.sha256((path / name).read_bytes()).hexdigest() != digest
        ]
    except (UnicodeDecodeError, ValueError):
        return [SUMS]


def _digest(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _clear_errors(
    folder: Path, doing: str, last_good: Callable[[], str] = lambda: "nothing was changed"
) -> Iterator[None]:
    """Turns whatever Orbax raises while writing into one UserError.

    It says which checkpoint is left.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # TensorStore's own types for a full disk, OSError, ValueError, ...
        reason = str(error).strip().split("\n")[0]
        if len(reason) > 300:  # TensorStore begins with the array and ends with the cause
            reason = f"{reason[:120]} ... {reason[-180:]}"
        raise UserError(
            f"{doing} {folder} failed: {type(error).__name__}: {reason}; {last_good()}. "
            "See that the disk has room and is writable, then run the same command again."
        ) from error
