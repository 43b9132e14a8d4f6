"""What a process that was killed had settled, and nobody knows whether Redis heard of it: it is told again."""

import logging
import time
from pathlib import Path

from inference.admission import KEEP_MS
from inference.journal import Dead, inherited, left_in
from inference.ledger_link import LedgerAway, LedgerLink

logger = logging.getLogger(__name__)


async def inherit(directory: Path, redis_url: str) -> set[int]:
    """Settles for all who died on this machine, then ends their leases: what they had open is settled at its last
    checkpoint by whoever reaps. Returns the users whose live counters are to be loaded anew: where Redis crashed, too,
    what they spent is in its outbox now and not in its counters. Raises LedgerAway; then it is done another time."""
    touched: set[int] = set()
    for path in left_in(directory):
        with inherited(path) as dead:
            if dead is not None:
                touched |= await _settle(dead, redis_url)
    return touched


async def _settle(dead: Dead, redis_url: str) -> set[int]:
    latest_ms = dead.entries[-1].when_ms if dead.entries else 0
    entries = [entry for entry in dead.entries if entry.when_ms >= latest_ms - KEEP_MS]
    logger.warning("process %s of the data plane died; settling for it what may be missing", dead.process.decode())
    known = [entry for entry in entries if entry.operation.startswith(b"S")]
    strange = [entry for entry in entries if not entry.operation.startswith(b"S")]
    if strange:  # of a portal before this version; most have reached Redis
        logger.error("%d settlements cannot be read: they are of another version", len(strange))
    link = LedgerLink(redis_url)
    link.header = dead.process, b"-1", time.strftime("%Y%m", time.gmtime()).encode()
    try:
        await link.open()
        settled: list[bytes | LedgerAway] = []
        for entry in known:
            link.send(settled.append, entry.operation)
        await link.ask(b"alive")
    finally:
        await link.close()
    if any(isinstance(answer, LedgerAway) for answer in settled):
        raise LedgerAway("not all was settled")
    lost = [entry for entry, answer in zip(known, settled, strict=True) if answer != b"1"]
    return {entry.user_id for entry in strange + lost}
