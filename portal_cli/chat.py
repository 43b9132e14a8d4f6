"""`chat`: one prompt, or a talk; `models`: whom to talk to."""

import contextlib
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from portal_cli.credentials import find
from portal_cli.events import events, lines
from portal_cli.failures import ExitCode, Failure
from portal_cli.portal import Portal, exit_code_of
from portal_cli.screen import Screen

HELP = "Ctrl-C ends an answer, Ctrl-D the talk; /new begins anew."

Said = dict[str, str]


def models(given: Namespace, screen: Screen) -> None:
    found = Portal(find(given)).ask("GET", "/v1/models")["data"]
    rows = [(one["id"], one.get("max_model_len"), ", ".join(one.get("engines") or ())) for one in found]
    if not found:
        screen.note("No engine is ready: start one with `portal launch MODEL --wait`.")
    screen.table(("MODEL", "CONTEXT", "ENGINES"), rows, found)


def chat(given: Namespace, screen: Screen) -> None:
    prompt = _prompt(given)
    if screen.as_json and prompt is None:
        raise Failure("With --json there is one prompt: --message.", ExitCode.USAGE)
    portal = Portal(find(given))
    model = given.model or _only_model(portal)
    is_kept = given.memory or given.new or given.conversation is not None
    talk = _Remembered(portal, model, given) if is_kept else _Talk(portal, model, given)
    if prompt is None:
        _converse(talk, model, screen)
    elif screen.as_json:
        screen.data(talk.whole_answer(prompt))
    else:
        _show(talk.answer(prompt), screen)


def _prompt(given: Namespace) -> str | None:
    """None: there is somebody to talk to."""
    if given.message is not None and given.message != "-":
        return given.message
    if given.message is None and sys.stdin.isatty():
        return None
    prompt = sys.stdin.read()
    if not prompt.strip():
        raise Failure("There is no prompt.", ExitCode.USAGE)
    return prompt


def _only_model(portal: Portal) -> str:
    names = [one["id"] for one in portal.ask("GET", "/v1/models")["data"]]
    if not names:
        raise Failure("No engine is ready: start one with `portal launch MODEL --wait`.", ExitCode.NOT_FOUND)
    if len(names) > 1:
        raise Failure(f"Say which model, of {', '.join(names)}.", ExitCode.USAGE)
    return names[0]


def _show(pieces: Iterator[str], screen: Screen) -> str:
    text = ""
    with contextlib.closing(pieces):
        for piece in pieces:
            text += piece
            screen.text(piece, end="")
    screen.text("")
    return text


def _converse(talk: "_Talk | _Remembered", model: str, screen: Screen) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (input() then has a history)
    screen.note(f"{model}. {HELP}")
    while True:
        try:
            prompt = input("> ").strip()
        except EOFError:
            screen.text("")
            return
        if prompt == "/new":
            talk.begin_anew()
            continue
        if not prompt:
            continue
        try:
            _show(talk.answer(prompt), screen)
        except KeyboardInterrupt:
            screen.note("…")
        except Failure as failure:
            screen.failure(failure)


class _Talk:
    """Over OpenAI's endpoint; the history is here and ends with us."""

    def __init__(self, portal: Portal, model: str, given: Namespace) -> None:
        self._portal = portal
        self._wish: dict[str, Any] = {"model": model}
        self._wish |= {
            name: getattr(given, name) for name in ("max_tokens", "temperature") if getattr(given, name) is not None
        }
        self._system = [{"role": "system", "content": given.system}] if given.system else []
        self._history: list[Said] = []

    def begin_anew(self) -> None:
        self._history = []

    def _asking(self, prompt: str) -> dict[str, Any]:
        said = [*self._system, *self._history, {"role": "user", "content": prompt}]
        return {**self._wish, "messages": said}

    def whole_answer(self, prompt: str) -> Any:
        return self._portal.ask("POST", "/v1/chat/completions", json=self._asking(prompt), generation=True)

    def answer(self, prompt: str) -> Iterator[str]:
        """Piece by piece. A turn that was cut off is not remembered."""
        wish = {**self._asking(prompt), "stream": True}
        text = ""
        for event in _data(self._portal.stream("POST", "/v1/chat/completions", json=wish)):
            for choice in event.get("choices") or ():
                piece = (choice.get("delta") or {}).get("content") or ""
                text += piece
                yield piece
        self._history += [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]


class _Remembered:
    """Over `/llm_request`: the portal keeps the conversation, and knows it the next time."""

    def __init__(self, portal: Portal, model: str, given: Namespace) -> None:
        self._portal = portal
        self._wish: dict[str, Any] = {"model": model, "memory": True}
        named = {"max_tokens": given.max_tokens, "temperature": given.temperature, "system": given.system}
        self._wish |= {name: value for name, value in named.items() if value is not None}
        if given.new:
            self.begin_anew()
        elif given.conversation is not None:
            self._wish["conversation_number"] = given.conversation

    def begin_anew(self) -> None:
        made = self._portal.ask("POST", "/api/v1/conversations", json={})
        self._wish["conversation_number"] = made["number"]

    def whole_answer(self, prompt: str) -> Any:
        return self._portal.ask("POST", "/llm_request", json={**self._wish, "prompt": prompt}, generation=True)

    def answer(self, prompt: str) -> Iterator[str]:
        wish = {**self._wish, "prompt": prompt, "stream": True}
        for event in _data(self._portal.stream("POST", "/llm_request", json=wish)):
            if "data" not in event:
                raise Failure(str(event.get("detail") or "The answer broke off."))
            yield str(event["data"])


def _data(pieces: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON of a stream's events up to its [DONE]. Raises Failure for an error in its middle, and without [DONE]."""
    with contextlib.closing(pieces):
        for event in events(lines(pieces)):
            if event.data.strip() == "[DONE]":
                return
            try:
                data = json.loads(event.data)
            except ValueError:
                raise Failure("The portal sends something that is no JSON.") from None
            if isinstance(data, dict) and (error := data.get("error")):
                message = error.get("message") if isinstance(error, dict) else error
                raise Failure(str(message), exit_code_of(200, data))
            if isinstance(data, dict):
                yield data
    raise Failure("The answer broke off.", ExitCode.UNREACHABLE)
