"""Records of a TFDS data set read one by one, their images decoded by Pillow as those of files are."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from cnnjax.data.damage import CorruptExample
from cnnjax.data.reading import ImageSource, Record
from cnnjax.errors import UserError

RESTORE = "restore it, or remove its folder and prepare the data set again"
_OPENED_AT_ONCE = 16  # record files: opening one waits for the disk or the network


class Examples(Protocol):
    """What `as_data_source` of TFDS returns."""

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    def __getitems__(self, indices: Sequence[int]) -> Sequence[Mapping[str, Any]]: ...


class Split(NamedTuple):
    """Describes a split.

    Attributes:
      name: of the split.
      dataset: the name of the data set, for errors.
      image_key: of the image in an example.
      label_key: of the label.
      shape: of the images, (height, width, channels), None where they differ.
      classes: number of classes.
      files: its array_record files, in order.
      lengths: how many examples each of them holds.
    """

    name: str
    dataset: str
    image_key: str
    label_key: str
    shape: tuple[int | None, int | None, int]
    classes: int
    files: tuple[str, ...]
    lengths: tuple[int, ...]


class TfdsSource(ImageSource):
    """The examples of a split, see `ImageSource`.

    Args:
      split: which one.
      examples: they, with encoded images.
    """

    upright = False  # TFDS takes no notice of Exif

    def __init__(self, split: Split, examples: Examples):
        self.split, self._examples, self.shape = split, examples, split.shape
        self._ends = list(itertools.accumulate(split.lengths))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, index: int) -> Record:
        """Reads a record."""
        index = int(index)  # TFDS takes no integers of NumPy
        where = self.where(index)
        try:
            record = self._record(self._examples[index], where)
        except Exception as error:
            raise CorruptExample(f"{where} is damaged ({first_line(error)}); {RESTORE}.") from error
        if not 0 <= record.label < self.split.classes:
            raise UserError(
                f"{where} has the label {record.label}; it must be 0 to {self.split.classes - 1}. The examples of the "
                f"{self.split.name} split are not all labelled: choose another data set."
            )
        return record

    def read_many(self, rows: range) -> list[Record]:
        """Reads records in parallel, labelled or not."""
        return [
            self._record(example, self.where(row))
            for row, example in zip(rows, self._examples.__getitems__(rows), strict=True)
        ]

    def where(self, index: int) -> str:
        """Names the record and its file."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        first = self._ends[number] - self.split.lengths[number]
        return f"Record {index - first} of {self.split.files[number]} of {self.split.dataset}"

    def _record(self, example: Mapping[str, Any], where: str) -> Record:
        return Record(bytes(example[self.split.image_key]), np.int32(example[self.split.label_key]), where)


def check_files(split: Split) -> None:
    """Raises UserError where a record file is missing, cannot be opened, or holds fewer records than its index says."""
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        counts = pool.map(_count_records, split.files)
        for path, length, count in zip(split.files, split.lengths, counts, strict=True):
            if count < length:
                raise UserError(
                    f"The record file {path} of {split.dataset} has {count} records, and {length} by its "
                    f"index; {RESTORE}."
                )


def first_line(error: BaseException) -> str:
    """Returns the cause of an error in one line; TFDS wraps it in longer text."""
    error = error.__cause__ or error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _count_records(path: str) -> int:
    from array_record.python import array_record_module

    try:
        os.stat(path)
        reader = array_record_module.ArrayRecordReader(path)
        count = reader.num_records()
        reader.close()
    except OSError as error:
        raise UserError(f"The record file {path} cannot be read ({error.strerror}); {RESTORE}.") from error
    except Exception as error:
        raise UserError(f"The record file {path} is damaged ({first_line(error)}); {RESTORE}.") from error
    return count
