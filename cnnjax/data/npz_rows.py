"""Rows of the arrays in a file of NumPy, read one by one from their place in the file."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.data.damage import named
from cnnjax.data.npz import (
    check,
    check_images,
    check_names,
    class_names_of,
    clear_errors,
    labels_of,
    share_for_test,
    to_images,
)
from cnnjax.data.reading import ImageSource, OpenDataset, Record
from cnnjax.errors import UserError

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member of a zip file: signature, lengths of its name and extra field
_SIGNATURE = b"PK\x03\x04"


class NotByRows(UserError):
    """Says that an array of a file cannot be read row by row, only as a whole."""


class Member:
    """An array in an npz file, read row by row: nothing of it is mapped or kept, so memory does not grow.

    Args:
      file: the npz file.
      name: of the array.

    Attributes:
      shape: of the array.
      dtype: of the array.

    Raises:
      NotByRows: the array is compressed, or in Fortran's order.
      UserError: the file cannot be read, or the array ends early.
    """

    def __init__(self, file: Path, name: str):
        self._file, self._name, self._handle = file, name, -1
        with zipfile.ZipFile(file) as archive:
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED:
                raise NotByRows(
                    f"{name} of {file} is compressed, so its rows cannot be read one by one: write the file with "
                    "np.savez, not np.savez_compressed."
                )
            with archive.open(info) as member:
                self.shape, fortran, self.dtype = _header(member)
                header_bytes = member.tell()
        if fortran and len(self.shape) > 1:
            raise NotByRows(
                f"{name} of {file} is stored in Fortran's order, so its rows cannot be read one by one: write "
                "np.ascontiguousarray(x)."
            )
        self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._open()
        local = os.pread(self._handle, _LOCAL_HEADER.size, info.header_offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(local.ljust(_LOCAL_HEADER.size))
        self._start = info.header_offset + _LOCAL_HEADER.size + name_bytes + extra_bytes + header_bytes
        end = self._start + len(self) * self._row_bytes
        if signature != _SIGNATURE or end > os.fstat(self._handle).st_size or info.file_size < end - self._start:
            raise UserError(f"{file} cannot be read ({name} ends early); write it again.")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> np.ndarray:
        """Reads a row.

        Raises:
          OSError: it cannot be read.
        """
        content = os.pread(self._handle, self._row_bytes, self._start + row * self._row_bytes)
        if len(content) != self._row_bytes:
            raise OSError("the file ends early")
        return np.frombuffer(content, self.dtype).reshape(self.shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": -1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def _open(self) -> None:
        self._handle = os.open(self._file, os.O_RDONLY)


class NpzSource(ImageSource):
    """Images of an npz file, see `ImageSource`.

    Args:
      images: the array x_train or x_test.
      name: of the array and the file, for errors.
      labels: `(N,)` int32.
      rows: of the array, one per example; by default all.
    """

    def __init__(self, images: Member, name: str, labels: np.ndarray, rows: np.ndarray | None = None):
        self._images, self._name, self._labels, self._rows = images, name, labels, rows
        self.shape = (*images.shape[1:3], *(images.shape[3:] or (1,)))  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self._labels)

    def read(self, index: int) -> Record:
        """Reads a row, and converts it to uint8 as `load_npz` does."""
        row = int(index if self._rows is None else self._rows[index])
        where = f"Row {row} of {self._name}"
        with named(where):
            return Record(to_images(self._images[row][None], where)[0], self._labels[index], where)


def open_npz(path: str | os.PathLike, test_share: float | None = None) -> OpenDataset:
    """Opens a file that `np.savez` wrote, see `load_npz`; images are read when they are needed, labels at once.

    Raises:
      UserError: as for `load_npz`; or the images are compressed, or in Fortran's order.
    """
    file = Path(path).expanduser()
    with clear_errors(file), open(file, "rb") as opened, np.load(opened, allow_pickle=False) as stored:
        has_test = check_names(file, stored.files, test_share)
        parts = ("train", "test") if has_test else ("train",)
        images = {part: _member(file, part) for part in parts}
        labels = {part: labels_of(stored, part, file, len(images[part])) for part in parts}
        rows: dict[str, np.ndarray | None] = dict.fromkeys(("train", "test"))
        if not has_test:
            test = share_for_test(len(labels["train"]), test_share)
            rows = {"train": np.flatnonzero(~test), "test": np.flatnonzero(test)}
            labels = {part: labels["train"][rows[part]] for part in rows}
            images["test"] = images["train"]
        class_names = class_names_of(stored, labels["train"], labels["test"])
    check(file, labels["train"], labels["test"], class_names, images["train"].shape, images["test"].shape)
    sources = {part: NpzSource(images[part], f"x_{part} of {file}", labels[part], rows[part]) for part in rows}
    return OpenDataset(f"npz:{path}", sources["train"], sources["test"], class_names)


def _member(file: Path, part: str) -> Member:
    """Returns the images of a part."""
    member = Member(file, f"x_{part}")
    check_images(member.shape, member.dtype, f"x_{part} of {file}")
    return member


def _header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads shape, Fortran's order and dtype at the start of an array's file."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)
