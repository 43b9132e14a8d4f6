"""What must be true of the ledger whatever happened, and whether it is. Reads only.

    one record per request      no request is both open and ended
    counters                    live counters = the database's numbers + what is on its way there
    reservations                what is reserved = what open requests hold, and each of these has a live lease
    limits                      used + reserved <= limit, unless the limit was lowered since
    sums                        numbers = records + corrections; records = their hourly = their daily sums
    engines                     records = the engine's own counters; where a request was cut off, within its bounds
    log                         no line of the portal's logs holds a secret

Why it can look while the portal works: docs/decisions/0011-the-audit.md.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from django.db import connection, transaction

from accounts import quotas
from inference.audit import counters, engines, logs, reservations, sums
from inference.audit.live import take
from inference.audit.numbers import read

BETWEEN_LOOKS_S = 2.0


class Finding(NamedTuple):
    """`rule` is one of the list above, `about` says whose or what, `text` what is wrong with it, in numbers."""

    rule: str
    about: str
    text: str


def audit(between_looks_s: float = BETWEEN_LOOKS_S) -> list[Finding]:
    """Everything that was broken at two looks in a row: the portal works on meanwhile, and Redis and database cannot
    be read in one moment. Raises redis.RedisError, DatabaseError."""
    first = look()
    if not first:
        return []
    time.sleep(between_looks_s)
    seen = {(finding.rule, finding.about) for finding in first}
    return [finding for finding in look() if (finding.rule, finding.about) in seen]


def look() -> list[Finding]:
    """What is broken just now. For a moment nobody writes the ledger to the database; requests go on."""
    with quotas.holding_ledger():
        live = take()
        numbers = read(live)
        found = [*reservations.check(live, numbers), *counters.check(live, numbers)]
    with _snapshot():
        found += sums.check()
    found += [*engines.check(), *logs.check()]
    return [Finding(*one) for one in found]


@contextmanager
def _snapshot() -> Iterator[None]:
    """A transaction whose queries all see the same rows. SQLite's do so anyway."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
