"""Open requests, what they hold, and that nobody holds more than there is."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from inference.audit.live import Live, Quota, subjects_of
from inference.audit.numbers import Numbers, newest_start

LATE_MS = 60_000
"""A lease that ran out is settled by the web process within seconds, unless there is none."""


def check(live: Live, numbers: Numbers) -> Iterator[tuple[str, str, str]]:
    yield from _ended_once(live, numbers)
    yield from _leases(live)
    prompt, generated, at_once = Counter[str](), Counter[str](), Counter[str]()
    for request in live.open.values():
        for subject in request.subjects:
            prompt[subject] += request.prompt
            generated[subject] += request.generated
        at_once.update(request.at_once)
    for subject, quota in live.quotas.items():
        held = (prompt[subject], generated[subject])
        if quota.reserved != held:
            yield "reservations", subject, f"{_tokens(quota.reserved)} are reserved, open requests hold {_tokens(held)}"
        if quota.at_once is not None and quota.at_once != at_once[subject]:
            yield "reservations", f"{subject} at once", f"{quota.at_once} counted, {at_once[subject]} are open"
        if _beyond(quota) and _admitted_since_change(subject, live, numbers):
            whole = tuple(map(sum, zip(quota.used, quota.reserved, strict=True)))
            yield "limits", subject, f"{_tokens(whole)} used and reserved, the limits are {_tokens(quota.limits)}"


def _ended_once(live: Live, numbers: Numbers) -> Iterator[tuple[str, str, str]]:
    for record in live.outbox:
        if record.request_id in live.open:
            yield "one record per request", record.request_id, "it has ended, and is open"
    for request in numbers.recorded:
        yield "one record per request", request, "it has a record, and is open"


def _leases(live: Live) -> Iterator[tuple[str, str, str]]:
    for request, opened in live.open.items():
        end = live.leases.get(opened.process)
        if end is None:
            yield "reservations", request, "it is open without a lease: nobody would ever settle it"
        elif live.now_ms - end > LATE_MS:
            late_s = (live.now_ms - end) // 1000
            yield "reservations", request, f"its lease ran out {late_s} s ago, and nobody settled it"


def _beyond(quota: Quota) -> bool:
    parts = zip(quota.used, quota.reserved, quota.limits, strict=True)
    return any(used + reserved > limit for used, reserved, limit in parts)


def _admitted_since_change(subject: str, live: Live, numbers: Numbers) -> bool:
    """Whether a request began after the limits and numbers were last changed by hand: then they did not hold it."""
    known = numbers.subjects.get(subject)
    if known is None:
        return False
    starts = [request.started_ms for request in live.open.values() if subject in request.subjects]
    starts += [record.started_ms for record in live.outbox if subject in subjects_of(record)]
    newest = datetime.fromtimestamp(max(starts) / 1000, UTC) if starts else newest_start(subject)
    return newest is not None and (known.changed_at is None or newest > known.changed_at)


def _tokens(pair: tuple[int, ...]) -> str:
    return f"{pair[0]} prompt and {pair[1]} generated tokens"
