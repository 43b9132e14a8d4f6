"""A portal in this process, an engine of raw bytes, and a real Chromium that is logged in."""

import asyncio
import re

import pytest

from tests.fakes.upstream import STREAM_HEAD, chunk, event, last_event, sse
from tests.inference.conftest import Portal, engine, gateway, portal, raw_engine, ready_engine

__all__ = ["Portal", "engine", "gateway", "portal", "raw_engine", "ready_engine"]

PASSWORD = "correct horse"


class Watched:
    """A page, and what went wrong on it: messages in its console, failed requests, requests to other hosts, dialogs."""

    def __init__(self, page, url: str) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.set_default_timeout(10_000)
        page.on(
            "console", lambda said: said.type in ("error", "warning") and self.wrong.append(f"console: {said.text}")
        )
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("popup", lambda popup: self.wrong.append(f"popup: {popup.url}"))
        page.on("request", lambda asked: self._asked(asked, url))

    def _asked(self, asked, url: str) -> None:
        if not asked.url.startswith((url + "/", "blob:" + url)):
            self.wrong.append(f"request: {asked.url[:200]}")


@pytest.fixture
def visit(chromium, portal):
    """visit(user, path, **options of a browser's context): a Watched page of somebody who is logged in."""
    contexts = []

    def open_page(user, path: str = "/playground", **options) -> Watched:
        context = chromium.new_context(base_url=portal.url, **options)
        contexts.append(context)
        watched = Watched(context.new_page(), portal.url)
        watched.page.goto(f"/login?next={path}")
        watched.page.fill("[name=username]", user.username)
        watched.page.fill("[name=password]", PASSWORD)
        watched.page.click("main button")
        watched.page.wait_for_url(lambda url: "/login" not in url)
        if path.startswith("/playground"):
            watched.page.wait_for_selector("[data-ready]", state="attached")
        return watched

    yield open_page
    for context in contexts:
        context.close()


def says(*pieces: str, prompt: int = 7, until: str = ""):
    """An engine's answer: a token for each piece, counted along, and its end. `until` anything: the end never comes."""

    async def answer(request, writer) -> None:
        writer.write(STREAM_HEAD)
        for number, piece in enumerate(pieces, 1):
            writer.write(chunk(sse(event(piece, prompt, number))))
            await writer.drain()
        if until:
            await asyncio.Event().wait()
        last = event("", prompt, len(pieces)).replace(b'"finish_reason":null', b'"finish_reason":"stop"')
        end = sse(last, last_event(prompt, len(pieces)), b"[DONE]")
        writer.write(chunk(end) + b"0\r\n\r\n")

    return answer


def asked(engine) -> list[dict]:
    """The bodies of the requests that reached the engine, without those that only count."""
    return [request.json for request in engine.received if re.search(r"completions$", request.path)]
