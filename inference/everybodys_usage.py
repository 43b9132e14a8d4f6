"""Everybody's numbers of the page /usage, summed up beforehand: it takes seconds where there is much, and a page has
none. The worker does it; where it has not for long, the page does."""

import time
from datetime import datetime, timedelta

from inference.models import UsageDigest
from inference.usage_figures import DAYS, Figures, figures

AGE_S = 10
"""A digest is made anew when it is older."""
SHARE = 100
"""And no sooner than after so many times what it took: each of the four takes at most a hundredth of a core."""
TOO_OLD = 10
"""After so many times that the worker is gone."""


def keep_up(now: datetime) -> None:
    """Makes what is due. Two at once do the same twice."""
    made = {digest.days: digest for digest in UsageDigest.objects.defer("figures")}
    for days in DAYS:
        if days not in made or now - made[days].as_of > _rest(made[days]):
            _make(days, now)


def of(days: int, now: datetime) -> Figures:
    digest = UsageDigest.objects.filter(days=days).first()
    if digest is None or now - digest.as_of > TOO_OLD * _rest(digest):
        return _make(days, now)
    return digest.figures


def _rest(digest: UsageDigest) -> timedelta:
    return max(timedelta(seconds=AGE_S), SHARE * timedelta(milliseconds=digest.took_ms))


def _make(days: int, now: datetime) -> Figures:
    begun = time.monotonic()
    found = figures(days, None, now)
    took_ms = round((time.monotonic() - begun) * 1000)
    UsageDigest.objects.update_or_create(days=days, defaults={"as_of": now, "took_ms": took_ms, "figures": found})
    return found
