"""Whether oneDNN is called, and what is said where it is not."""

from __future__ import annotations

import platform

import jaxlib
import pytest

from cnnjax.ops.conv import onednn


@pytest.fixture(autouse=True)
def on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv("CNNJAX_ONEDNN", raising=False)


@pytest.mark.parametrize("version", [*onednn.TESTED_JAXLIBS, "0.12.0.1"])
def test_nothing_is_said_of_a_jaxlib_that_was_tried(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxlib, "__version__", version)
    assert onednn.untried() is None and onednn.is_available.__wrapped__()


def test_a_jaxlib_that_was_never_tried_is_named_with_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxlib, "__version__", "0.99.1")
    assert not onednn.is_available.__wrapped__()
    said = onednn.untried()
    assert said is not None and said.startswith("jaxlib 0.99.1 was never tried with oneDNN") and "2 to 7 times" in said


def test_nothing_is_said_where_there_is_no_onednn_or_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxlib, "__version__", "0.99.1")
    monkeypatch.setenv("CNNJAX_ONEDNN", "0")
    assert onednn.untried() is None
    monkeypatch.delenv("CNNJAX_ONEDNN")
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert onednn.untried() is None and not onednn.is_available.__wrapped__()
