"""Pages and numbers of pictures, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnjax.report.figures import pages, percent


def test_five_items_make_three_pages_of_two() -> None:
    assert pages("abcde", 2, Path("x/maps.png")) == [
        (Path("x/maps.png"), ", page 1 of 3", "ab"),
        (Path("x/maps-2.png"), ", page 2 of 3", "cd"),
        (Path("x/maps-3.png"), ", page 3 of 3", "e"),
    ]


@pytest.mark.parametrize("items", ["", "a", "ab"])
def test_an_only_page_is_not_numbered(items: str) -> None:
    assert pages(items, 2, Path("maps.png")) == [(Path("maps.png"), "", items)]


def test_percent() -> None:
    assert percent(0.7649) == "76 %"
    assert percent(358 / 360, 2) == "99.44 %"
