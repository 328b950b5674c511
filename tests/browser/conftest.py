"""A real Chromium, and pages that tell on themselves: no error in the console, no request to another host."""

import shutil
from urllib.parse import urlsplit

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def chromium():
    """One browser for all tests; Debian's, which Playwright drives."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.fail("no chromium on the PATH: `make test-browser` installs Debian's")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page in a profile of its own, 1280 × 900. Besides Playwright's own it has ``errors`` (of the console, and
    exceptions) and ``requests`` (URLs); after the test there may be no error, and no request to another host.

    A test that means to see an error empties ``page.errors`` when it has.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.errors, page.requests = [], []
    page.on("console", lambda m: page.errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("dialog", lambda dialog: (page.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: page.requests.append(request.url))
    yield page
    own = urlsplit(page.url).netloc
    errors, requests = list(page.errors), list(page.requests)
    context.close()
    assert not errors, f"the console says: {errors}"
    foreign = [url for url in requests if not url.startswith(("data:", "blob:")) and urlsplit(url).netloc != own]
    assert not foreign, f"requested from other hosts: {foreign}"
