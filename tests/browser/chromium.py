"""A real Chromium without a screen, and what is watched on each page that it opens. A missing Chromium is a failure."""

import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}
SERIOUS = ("serious", "critical")


@contextmanager
def launched():
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "there is no chromium on the PATH: make test-browser installs it"
    # Playwright's loop runs in this thread, and Django would refuse it the database for that.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="session")
def chromium():
    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    script = Path(__file__).parent / "ensure_chromium.sh"
    done = subprocess.run([script], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip().splitlines()[-1]).read_text()


class Visit:
    """A browser of its own at a portal. `wrong` collects what must not be: what the console says, scripts' errors,
    requests that fail or go to another host, and policies that were violated. A test that provokes some of it
    `excuses` the words: told late or early, again or once, they are left out."""

    def __init__(self, chromium, url: str, **options) -> None:
        self.url = url
        self._wrong: list[str] = []
        self._excused: tuple[str, ...] = ()
        self.context = chromium.new_context(base_url=url, **{"viewport": DESKTOP, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self._wrong.append(f"error: {error}"))
        self.page.on("request", self._asked)
        self.page.on("response", self._answered)
        self.page.on("requestfailed", self._failed)

    @property
    def wrong(self) -> list[str]:
        return [text for text in self._wrong if not any(excused in text for excused in self._excused)]

    def excuses(self, *texts: str) -> "Visit":
        self._excused += texts
        return self

    def log_in(self, username: str, password: str) -> "Visit":
        self.page.goto("/login")
        self.page.fill("[name=username]", username)
        self.page.fill("[name=password]", password)
        self.page.click("main button")
        self.page.wait_for_url(self.url + "/")
        return self

    def findings(self, axe: str) -> list[str]:
        """What axe-core finds on the page, of what is serious. Run past the page's policy, which would refuse it."""
        self.page.evaluate(axe + "; 0")
        found = self.page.evaluate("() => axe.run().then((result) => result.violations)")
        return [
            f"{rule['id']}: {rule['help']} at {rule['nodes'][0]['target']} {rule['nodes'][0]['html'][:200]}"
            for rule in found
            if rule["impact"] in SERIOUS
        ]

    def shifts(self) -> float:
        """How much of the page moved while it was drawn (0: nothing), as browsers measure it."""
        return self.page.evaluate(
            "() => new Promise((done) => { let sum = 0; new PerformanceObserver((list) => {"
            "for (const one of list.getEntries()) if (!one.hadRecentInput) sum += one.value; })"
            ".observe({ type: 'layout-shift', buffered: true });"
            "requestAnimationFrame(() => requestAnimationFrame(() => done(sum))); })"
        )

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth")

    def close(self) -> None:
        self.context.close()

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self._wrong.append(f"console: {message.text}")

    def _asked(self, request) -> None:
        if not request.url.startswith((self.url + "/", "data:", "blob:" + self.url)):
            self._wrong.append(f"elsewhere: {request.url[:200]}")

    def _answered(self, response) -> None:
        if response.status >= 400:
            self._wrong.append(f"{response.status}: {response.url}")

    def _failed(self, request) -> None:
        # Streams and questions under way end with their page, or with a newer question: that is no failure.
        if request.failure != "net::ERR_ABORTED":
            self._wrong.append(f"failed: {request.url} {request.failure}")
