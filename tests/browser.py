"""A headless Chromium for tests and screenshots: Debian's, or Playwright's own."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Error, sync_playwright


def find_chromium() -> str | None:
    """Return the program of an installed Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def opened_browser() -> Iterator[Browser | None]:
    """Provide a browser, or None where none is installed."""
    # Root cannot use Chromium's sandbox. /dev/shm is small in containers.
    flags = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        except Error:
            yield None
            return
        yield browser
        browser.close()
