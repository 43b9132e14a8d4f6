"""`doctor`: from the network to an answer, step by step, and what to do at the first that fails."""

import ipaddress
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from portal_cli.credentials import find
from portal_cli.failures import ExitCode, Failure
from portal_cli.portal import Portal
from portal_cli.screen import Screen

_SKEW_S = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """`mark` is ok, warn or fail."""

    what: str
    mark: str
    told: str


def doctor(given: Namespace, screen: Screen) -> int:
    """The exit code of the first step that fails: without it the ones after it cannot be taken."""
    findings: list[Finding] = []
    code = ExitCode.OK
    try:
        portal = Portal(find(given))
    except Failure as failure:
        findings.append(Finding("login", "fail", str(failure)))
        portal, code = None, failure.exit_code
    for what, step in _STEPS if portal else ():
        try:
            findings.append(Finding(what, *step(portal)))
        except Failure as failure:
            findings.append(Finding(what, "fail", str(failure)))
            code = failure.exit_code
            break
    screen.table(("STEP", "", "FOUND"), [(f.what, f.mark, f.told) for f in findings], [asdict(f) for f in findings])
    return code


def _reach(portal: Portal) -> tuple[str, str]:
    began = time.monotonic()
    portal.send("GET", "/healthz")
    return "ok", f"{portal.url} answers in {(time.monotonic() - began) * 1000:.0f} ms"


def _encryption(portal: Portal) -> tuple[str, str]:
    parts = urlsplit(portal.url)
    if parts.scheme == "https":
        return "ok", "TLS, with a certificate that this machine trusts"
    if _is_here(parts.hostname or ""):
        return "ok", "none, and none needed: the portal is on this machine"
    return "warn", "none: who is on the way can read your key and all you say; use https://"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _clock(portal: Portal) -> tuple[str, str]:
    sent = portal.send("GET", "/healthz").headers.get("date")
    try:
        skew = abs((parsedate_to_datetime(sent or "") - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return "warn", "the portal does not say what time it has"
    if skew > _SKEW_S:
        return "warn", f"this machine and the portal are {skew:.0f} s apart; expiry times seem wrong by that"
    return "ok", "as the portal's"


def _key(portal: Portal) -> tuple[str, str]:
    caller = portal.ask("GET", "/api/v1/key")
    key = caller.get("key")
    told = f"{caller['username']}, {caller['role']}"
    if key:
        told += f"; key {key['name']} ({key['shown']}) is for {', '.join(key['scopes'])}"
    return "ok", told


def _launcher(portal: Portal) -> tuple[str, str]:
    try:
        nodes = list(portal.pages("/api/v1/nodes"))
    except Failure as failure:
        if failure.exit_code in (ExitCode.NOT_ALLOWED, ExitCode.NOT_FOUND):
            return "warn", f"not told: {failure}"
        raise
    if not nodes:
        return "fail", "there is no machine for engines"
    told = "; ".join(f"{node['id']}: {node['launcher']}, {len(node['gpus'])} GPUs" for node in nodes)
    simulated = any(node["launcher"] == "simulator" for node in nodes)
    return ("warn", f"{told}. Engines are stand-ins: their answers are made up") if simulated else ("ok", told)


def _answer(portal: Portal) -> tuple[str, str]:
    models = portal.ask("GET", "/v1/models")["data"]
    if not models:
        return "ok", "no engine is ready; `portal launch MODEL --wait` starts one"
    name = models[0]["id"]
    wish = {"model": name, "max_tokens": 1, "messages": [{"role": "user", "content": "Hello"}]}
    began = time.monotonic()
    try:
        portal.ask("POST", "/v1/chat/completions", json=wish, generation=True)
    except Failure as failure:
        if failure.status == 400 or failure.exit_code in (ExitCode.NOT_ALLOWED, ExitCode.NOT_FOUND):
            return "warn", f"{name} does not chat: {failure}"
        raise
    return "ok", f"{name} gave a token in {(time.monotonic() - began) * 1000:.0f} ms"


_STEPS: tuple[tuple[str, Callable[[Portal], tuple[str, str]]], ...] = (
    ("portal", _reach), ("encryption", _encryption), ("clock", _clock), ("key", _key), ("launcher", _launcher),
    ("answer", _answer),
)  # fmt: skip
