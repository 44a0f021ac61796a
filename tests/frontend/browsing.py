"""A browser before the running service, that notices whatever goes wrong in it."""

import re
import shutil
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect

from tests.service.running import ROOT, RunningService

CHROMIUM = shutil.which("chromium")
# Debian's Chromium as it runs anywhere: as root, without a GPU, and asking nobody for updates.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
# However busy the machine is: what is waited for comes, or the test fails.
expect.set_options(timeout=30_000)
SCREENS = ROOT / "artefacts/screens"
AXE = Path(__file__).parent / "vendor/axe-core/axe.min.js"
WIDTHS = {360: 740, 1280: 800}
# What a browser says of an answer that a test asks for on purpose.
REFUSED = r"Failed to load resource: the server responded with a status of {status}"


class Watcher:
    """What went wrong in the pages of a context: errors of scripts and of the console (the content security policy's among
    them), and requests that leave the host.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self._host = urlsplit(origin).netloc
        self._expected: list[str] = []
        self.seen: list[str] = []
        self.bytes: dict[str, int] = {}
        context.on("console", self._console)
        context.on("weberror", lambda error: self.seen.append(f"error: {error.error}"))
        context.on("request", self._request)

    def expect(self, pattern: str) -> None:
        """Let pass what the test brings about on purpose."""
        self._expected.append(pattern)

    def expect_status(self, *statuses: int) -> None:
        for status in statuses:
            self.expect(REFUSED.format(status=status))

    def check(self) -> None:
        wrong = [what for what in self.seen if not any(re.search(pattern, what) for pattern in self._expected)]
        assert wrong == []

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.seen.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != self._host:
            self.seen.append(f"request: {request.url}")


@contextmanager
def visiting(browser: Browser, service: RunningService, **options):
    """A page of a browser that nobody has used before; `page.watcher` says afterwards that nothing went wrong."""
    context = browser.new_context(
        base_url=service.url,
        viewport={"width": 1280, "height": 800},
        reduced_motion="reduce",  # else colours are measured while they change
        **options,
    )
    context.set_default_timeout(30_000)
    try:
        page = context.new_page()
        page.watcher = Watcher(context, service.url)
        yield page
        page.watcher.check()
    finally:
        context.close()


def sign_in(page: Page, key: str, path: str = "/") -> None:
    """As a person does it; ends on the page at `path`."""
    page.goto(path)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def shoot(page: Page, name: str, *, whole: bool = True) -> None:
    """Pictures of the page as it is now, narrow and wide, light and dark, for somebody to look at; and nothing hangs over.

    Args:
        whole: the page, not only what is in the window; not for dialogs, which lie over the window.
    """
    SCREENS.mkdir(parents=True, exist_ok=True)
    size = page.viewport_size
    for width, height in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": height})
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, f"{name} is {over} px wider than a window of {width} px"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=SCREENS / f"{name}-{width}-{scheme}.png", full_page=whole, animations="disabled")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(size)


def serious_violations(page: Page) -> list[str]:
    """What axe-core finds that keeps people out, in light and in dark."""
    page.evaluate(AXE.read_text("utf-8"))
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for violation in page.evaluate("axe.run()")["violations"]:
            if violation["impact"] in ("serious", "critical"):
                targets = "; ".join(str(node["target"]) for node in violation["nodes"][:5])
                found.append(f"{scheme}: {violation['id']}: {violation['help']}: {targets}")
    page.emulate_media(color_scheme="light")
    return found
