"""Fixtures that test files share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from browser import launch, visit
from hypothesis import settings

os.environ["TIGHTBOUND_PROGRESS"] = "off"  # the file of whoever runs the tests is not ours
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def book():
    """The folder of the pages, built if they are missing or older than what they are made of."""
    built = subprocess.run([sys.executable, ROOT / "tools/book.py", "--no-open"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return ROOT / "_build" / "html"


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, one for each worker."""
    with launch() as browser:
        yield browser


@pytest.fixture
def open_page(chromium):
    """Opens a page: ``open_page(url, **context_options)`` gives a `browser.Visit`. At the end of the test every page
    must have been silent: no errors, and no request to another machine."""
    opened = []

    def open_it(url: str = "about:blank", **options):
        context = visit(chromium, url, **options)
        opened.append((context, context.__enter__()))
        return opened[-1][1]

    yield open_it
    try:
        for _, seen in opened:
            seen.assert_clean()
    finally:
        for context, _ in opened:
            context.__exit__(None, None, None)
