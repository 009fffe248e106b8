"""Records of a TFDS data set read one by one, their images decoded by Pillow as those of files are."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from cnnjax.data.damage import CorruptExample
from cnnjax.data.reading import ImageSource, Record
from cnnjax.errors import UserError

RESTORE = "restore it, or remove its folder and prepare the data set again"
_OPENED_AT_ONCE = 16  # record files: opening one waits for the disk or the network
_SPARE_FILES = 256  # that a process may open beside the record files
# Random access: nothing is read ahead, and a buffer of 32 KiB serves each file.
_READER = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 2**15}


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
      features: parses a record: the values of its features by their keys.
    """

    name: str
    dataset: str
    image_key: str
    label_key: str
    shape: tuple[int | None, int | None, int]
    classes: int
    files: tuple[str, ...]
    lengths: tuple[int, ...]
    features: Callable[[bytes], Mapping[str, Any]]


class TfdsSource(ImageSource):
    """The examples of a split, see `ImageSource`. Its files are open as long as it lives.

    TFDS's own source takes 15 times as long for a record.

    Args:
      split: which one.

    Raises:
      UserError: a record file is missing, cannot be opened, or holds fewer records than its index says.
    """

    upright = False  # TFDS takes no notice of Exif

    def __init__(self, split: Split):
        self.split, self.shape = split, split.shape
        self._ends = list(itertools.accumulate(split.lengths))
        self._readers = _open_all(split)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, index: int) -> Record:
        """Reads a record with a label."""
        record = self.record(index)
        if not 0 <= record.label < self.split.classes:
            raise UserError(
                f"{record.where} has the label {record.label}; it must be 0 to {self.split.classes - 1}. The examples "
                f"of the {self.split.name} split are not all labelled: choose another data set."
            )
        return record

    def record(self, index: int) -> Record:
        """Reads a record, labelled or not."""
        number = bisect.bisect_right(self._ends, index)
        row = int(index) - self._ends[number] + self.split.lengths[number]
        where = f"Record {row} of {self.split.files[number]} of {self.split.dataset}"
        try:
            # Asked for as a range: a single record is handed to threads, which takes longer than to read it.
            (content,) = self._readers[number].read(row, row + 1)
            features = self.split.features(content)
            (image,) = features[self.split.image_key].bytes_list.value
            (label,) = features[self.split.label_key].int64_list.value
        except Exception as error:
            raise CorruptExample(f"{where} is damaged ({first_line(error)}); {RESTORE}.") from error
        return Record(image, np.int32(label), where)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._readers = _open_all(self.split)


def first_line(error: BaseException) -> str:
    """Returns the cause of an error in one line; TFDS wraps it in longer text."""
    error = error.__cause__ or error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _open_all(split: Split) -> Sequence[Any]:
    """Returns a reader for each file; raises UserError where one cannot be used."""
    _allow_open_files(len(split.files))
    with ThreadPoolExecutor(_OPENED_AT_ONCE) as pool:
        readers = list(pool.map(_open, split.files))
    for path, length, reader in zip(split.files, split.lengths, readers, strict=True):
        if reader.num_records() < length:
            raise UserError(
                f"The record file {path} of {split.dataset} has {reader.num_records()} records, and {length} by its "
                f"index; {RESTORE}."
            )
    return readers


def _open(path: str) -> Any:
    from array_record.python import array_record_module

    try:
        os.stat(path)
        return array_record_module.ArrayRecordReader(path, **_READER)
    except OSError as error:
        raise UserError(f"The record file {path} cannot be read ({error.strerror}); {RESTORE}.") from error
    except Exception as error:
        raise UserError(f"The record file {path} is damaged ({first_line(error)}); {RESTORE}.") from error


def _allow_open_files(count: int) -> None:
    """Raises the limit of open files, as far as the system lets it, where a data set has more of them."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(soft + count, hard) if hard != resource.RLIM_INFINITY else soft + count
    if count + _SPARE_FILES > soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
