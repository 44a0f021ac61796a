"""Debian's Chromium, driven by Playwright, before the service that other tests share."""

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.frontend.browsing import CHROMIUM, FLAGS, sign_in, visiting


@pytest.fixture(scope="module")
def browser() -> Browser:
    """For a module, not longer: while it is open, no other test of the process can run an event loop."""
    if CHROMIUM is None:
        pytest.skip("Chromium is missing; on Debian and Ubuntu: apt-get install chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield launched
        launched.close()


@pytest.fixture
def visitor(browser, service):
    """A page before which nobody has signed in."""
    with visiting(browser, service) as page:
        yield page


@pytest.fixture
def page(browser, service):
    """A page of somebody who has signed in with the admin key."""
    with visiting(browser, service) as opened:
        sign_in(opened, service.key)
        yield opened
