"""The cache file: whole and unchanged, or not used."""

import os
import threading
import warnings

import numpy as np
import pytest

from cnnjax.data import cache

ARRAYS = {
    "images": np.arange(2000, dtype=np.uint8).reshape(10, 20, 10),
    "labels": np.arange(10, dtype=np.int32),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "data.npz"


def test_what_was_written_is_read(path):
    cache.write(path, ARRAYS)
    arrays = cache.read(path)
    assert arrays is not None and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert os.listdir(path.parent) == ["data.npz"]


def test_no_file_is_no_warning(path):
    assert cache.read(path) is None


@pytest.mark.parametrize("size", [0, 1, 1000, -1])
def test_a_truncated_file_is_named_and_not_used(path, size):
    cache.write(path, ARRAYS)
    os.truncate(path, size % path.stat().st_size)
    with pytest.warns(UserWarning, match=r"data\.npz cannot be used"):
        assert cache.read(path) is None


def test_no_flipped_bit_goes_unnoticed(path):
    """Bits in every part of the file: either it is refused, or (the zip's time stamps) nothing changed."""
    cache.write(path, ARRAYS)
    whole = path.read_bytes()
    refused = 0
    offsets = range(0, len(whole), 7)
    for offset in offsets:
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << (offset % 8)
        path.write_bytes(damaged)
        with pytest.warns() as caught:
            arrays = cache.read(path)
            if arrays is not None:
                warnings.warn("accepted", stacklevel=1)
        if arrays is None:
            refused += 1
            assert "data.npz" in str(caught[0].message)
        else:
            assert cache.digest(arrays) == cache.digest(ARRAYS)
    assert refused > 0.8 * len(offsets)


def test_content_that_fits_its_zip_but_not_its_digest_is_refused(path):
    path.parent.mkdir()
    np.savez(path, sha256=np.array(cache.digest(ARRAYS)), **{**ARRAYS, "labels": ARRAYS["labels"] + 1})
    with pytest.warns(UserWarning, match="does not match its SHA-256"):
        assert cache.read(path) is None


def test_a_directory_that_cannot_be_made_is_one_warning(tmp_path):
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "data.npz"
    assert cache.read(path) is None
    with pytest.warns(UserWarning, match="going on without it") as caught:
        cache.write(path, ARRAYS)
    assert len(caught) == 1


def test_a_full_disk_is_one_warning_and_leaves_nothing(path, monkeypatch):
    def no_space(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.warns(UserWarning, match="No space left") as caught:
        cache.write(path, ARRAYS)
    assert len(caught) == 1
    assert os.listdir(path.parent) == []


def test_writers_at_once_leave_one_whole_file(path):
    threads = [threading.Thread(target=cache.write, args=(path, ARRAYS)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(path.parent) == ["data.npz"]
    assert cache.read(path) is not None


def test_the_directory_honours_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "cnnjax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.directory() == tmp_path / "home" / ".cache" / "cnnjax"
