"""An installed Chromium, driven by Playwright: tests of pages are skipped where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: Milliseconds until a page that does not come is given up. A machine with other work needs many.
_PATIENCE = 180_000


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright's. It is of a test, not of a session: its loop of events would be in others' way."""
    api = pytest.importorskip("playwright.sync_api", reason="there is no Playwright (pip install 'autopeft[browser]')")
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        # Root, as in a container, has no sandbox.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Any, address: str | Path, width: int = 1200, height: int = 900, dark: bool = False) -> Any:
    """A page at an address or of a file; what its scripts complain of is in `page.complaints`."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
    context.set_default_timeout(_PATIENCE)
    page = context.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
    page.goto(address.as_uri() if isinstance(address, Path) else address)
    return page


def width_of(page: Any) -> int:
    """How wide a page is, with what reaches out of the window."""
    return int(page.evaluate("document.documentElement.scrollWidth"))
