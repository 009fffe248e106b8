"""A browser for the tests of the page: Debian's Chromium, started once for each file of tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

#: As root in a sandbox without a network, and without calls of its own.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    """A Chromium, 1440 x 1000."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if chromium is None or driver is None:
        pytest.skip("there is no chromium, or no chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, "--window-size=1440,1000", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    started.set_script_timeout(60)
    yield started
    started.quit()


@pytest.fixture(scope="module")
def scripts(browser, tmp_path_factory: pytest.TempPathFactory):
    """The browser, on a page that has the arithmetic of the page alone."""
    from cnnjax.app.look.page import read

    path: Path = tmp_path_factory.mktemp("page") / "arithmetic.html"
    names = ("layers", "net")
    path.write_text(f"<!doctype html><title>-</title><script>{''.join(read(f'{name}.js') for name in names)}</script>")
    browser.get(path.as_uri())
    return browser
