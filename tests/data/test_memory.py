"""The memory that is free, and images that would not fit."""

from __future__ import annotations

import builtins
import io
import os

import numpy as np
import pytest

from cnnjax import data
from cnnjax.data import memory
from cnnjax.errors import UserError

MEMINFO = "MemTotal:       24684556 kB\nMemFree:         1024000 kB\nMemAvailable:    3145728 kB\nBuffers: 0 kB\n"


def pretend_meminfo(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    def open_file(path, *args, **kwargs):
        if path != "/proc/meminfo":
            return opened(path, *args, **kwargs)
        if text is None:
            raise FileNotFoundError(path)
        return io.StringIO(text)

    opened = builtins.open
    monkeypatch.setattr(builtins, "open", open_file)


def test_memory_is_what_linux_calls_available(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_meminfo(monkeypatch, MEMINFO)
    assert memory.available() == 3 * 2**30


@pytest.mark.parametrize("text", [None, "", "MemAvailable: much"])
def test_elsewhere_it_is_the_machines(text: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_meminfo(monkeypatch, text)
    assert memory.available() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") > 2**28


def test_images_are_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2 * 10 * 6 * 4 * 3)
    memory.check_images(10, 6, 4, 3)
    with pytest.raises(UserError, match=r"^The 11 images of photos at 6x4 pixels need 0\.0 GiB of memory; 0\.0 GiB"):
        memory.check_images(11, 6, 4, 3, "photos")


@pytest.mark.parametrize(
    "enlarge",
    [
        lambda images: data.resize(images, 200_000),
        lambda images: data.pad_to_square(images, 200_000),
        lambda images: data.InputSpec(size=200_000, channels=3).on_host(images),
    ],
)
def test_nothing_is_allocated_that_does_not_fit(enlarge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    with pytest.raises(UserError, match=r"The 2 images at 200000x200000 pixels need .* GiB of memory; 1\.0 GiB are"):
        enlarge(np.zeros((2, 8, 8, 3), np.uint8))


def test_both_parts_of_a_data_set_are_counted_before_either_is_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: 2**30)
    message = r"The 1,797 images of digits at 1000x500 pixels need 1\.7 GiB of memory; 1\.0 GiB are free\. Choose a"
    with pytest.raises(UserError, match=message):
        data.load("digits", size=(1000, 500))
