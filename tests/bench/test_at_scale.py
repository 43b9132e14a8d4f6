"""Each page takes as few queries where there is much as where there is little. The benchmark says how long it takes."""

import pytest
from django.db import transaction
from django.utils import timezone

from bench.at_scale import pages, rows, visits
from bench.at_scale.__main__ import MOST_QUERIES
from inference import everybodys_usage
from vllm_portal.redis_client import client

LITTLE, MUCH = rows.Sizes(users=10, engines=10, records=100), rows.Sizes(users=60, engines=60, records=1500)


def queries(sizes: rows.Sizes) -> dict[str, int]:
    """By page and user. The data are gone afterwards."""
    client().flushall()
    with transaction.atomic():
        rows.fill(sizes, say=lambda text: None)
        everybodys_usage.keep_up(timezone.now())
        seen = {f"{page.name}, {page.who}": visits.measured(page, 1).queries for page in pages.all_of_them()}
        transaction.set_rollback(True)
    return seen


@pytest.mark.django_db
def test_no_page_asks_once_for_each_row():
    little, much = queries(LITTLE), queries(MUCH)
    assert len(much) > 100
    assert {name: count for name, count in much.items() if count > MOST_QUERIES} == {}
    # Of some kinds of rows there may be none among few.
    assert {name: (little[name], count) for name, count in much.items() if count > little[name] + 3} == {}
