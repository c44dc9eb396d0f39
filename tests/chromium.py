"""A headless Chromium, for what only a browser can show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 120_000
"""How many milliseconds to wait for something on a page; a busy machine is slow."""


@contextmanager
def launched() -> Iterator[Any]:
    """Run the browser; skip the test if it is missing. The environment variable CHROMIUM can name another one."""
    sync_api = pytest.importorskip("playwright.sync_api")
    binary = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(binary).exists():
        pytest.skip(f"there is no {binary}")
    with pytest.MonkeyPatch.context() as patch, sync_api.sync_playwright() as playwright:
        # Playwright runs an event loop in this thread, in which Django would refuse to use the database.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=binary, timeout=PATIENCE)
        yield browser
        browser.close()


def new_tab(browser: Any, **options: Any) -> Any:
    """Open a tab in a new context without cookies; `options`: those of Playwright's `new_context`."""
    context = browser.new_context(**options)
    context.set_default_timeout(PATIENCE)
    return context.new_page()
