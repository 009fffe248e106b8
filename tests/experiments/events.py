"""What TensorBoard will find in a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def summaries(folder: Path) -> Iterator[Any]:
    """The summaries of all events of a run."""
    from tensorboardX.proto.event_pb2 import Event

    for file in (folder / "events").rglob("*tfevents*"):
        content = file.read_bytes()
        while content:  # a record: its length (8 bytes), a checksum (4), the event, a checksum (4)
            length = int.from_bytes(content[:8], "little")
            yield from Event.FromString(content[12 : 12 + length]).summary.value
            content = content[16 + length :]


def tags(folder: Path) -> set[str]:
    """The names of scalars and pictures."""
    return {value.tag for value in summaries(folder) if not value.tag.startswith("_hparams_")}


def hyperparameters(folder: Path) -> dict[str, Any]:
    """The hyper-parameters of the hparams view."""
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    for value in summaries(folder):
        if value.tag == "_hparams_/session_start_info":
            found = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info.hparams
            return {name: getattr(one, one.WhichOneof("kind")) for name, one in found.items()}
    return {}
