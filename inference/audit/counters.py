"""Live counters against the database."""

from collections.abc import Iterator

from inference.audit.live import Live
from inference.audit.numbers import Numbers


def check(live: Live, numbers: Numbers) -> Iterator[tuple[str, str, str]]:
    on_the_way = live.on_the_way()
    for subject, quota in live.quotas.items():
        if subject not in numbers.subjects:
            continue  # removed a moment ago
        spent = numbers.subjects[subject].spent
        coming = on_the_way.get(subject, (0, 0))
        for kind, used, written, more in zip(("prompt", "generated"), quota.used, spent, coming, strict=True):
            if used != written + more:
                text = f"{used} tokens used, the database has {written} and {more} are on their way there"
                yield "counters", f"{subject} {kind}", text
