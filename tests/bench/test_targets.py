"""Ratios are taken within a round, and what was not measured is never met."""

import pytest

from bench import table, targets
from bench.compare import ANSWERS, Round
from bench.measuring import Measurement


def measured(gateway, cpu_us=None, p50=100, problems=()):
    percentiles = {"p50": p50, "p99": 2 * p50}
    load = {"requests": 10, "chunks": 0, "requests_in_window": 10, "chunks_in_window": 0, "latency_us": percentiles}
    return Measurement(gateway, ANSWERS, 64, 1.0, load, cpu_us or {}, list(problems))


def round_(portal_us, router_us, redis_us=10, load=(ANSWERS, 64), **problems):
    gateways = [
        measured("direct", p50=100),
        measured("portal", {"web": portal_us, "redis": redis_us}, p50=400),
        measured("vllm-router", {"all": router_us}, p50=200, problems=problems.get("router", ())),
    ]
    return Round(load, {each.gateway: each for each in gateways})


def named(rounds, what):
    (target,) = [target for target in targets.compared(rounds) if target.what == what]
    return target


OWN = "CPU per request, 64 at once, web process, to vllm-router"
WHOLE = "CPU per request, 64 at once, web process and Redis, to vllm-router"


def test_the_measured_ratio_is_the_median_of_the_rounds_ratios():
    rounds = [round_(100, 100), round_(900, 300), round_(400, 200)]

    assert named(rounds, OWN).measured == 2.0


def test_redis_counts_where_the_target_says_so():
    rounds = [round_(100, 100, redis_us=50)]

    assert (named(rounds, OWN).measured, named(rounds, WHOLE).measured) == (1.0, 1.5)


def test_a_latency_is_what_is_added_to_the_direct_one():
    rounds = [round_(1, 1, load=(ANSWERS, 1))]

    assert named(rounds, "added p50 of an answer, 1 at once, to vllm-router").measured == 3.0


def test_a_peer_that_adds_nothing_makes_no_ratio_below_zero():
    rounds = [round_(1, 1, load=(ANSWERS, 1))]
    rounds[0].by_gateway["vllm-router"].load["latency_us"]["p50"] = 90

    assert named(rounds, "added p50 of an answer, 1 at once, to vllm-router").measured == 300.0


def test_a_round_in_which_the_peer_went_wrong_does_not_count():
    rounds = [round_(100, 1, router=["errors"]), round_(100, 50)]

    assert named(rounds, OWN).measured == 2.0


def test_a_peer_that_is_not_there_leaves_its_targets_unmeasured_and_unmet():
    target = named([round_(100, 100, load=(ANSWERS, 64))], "CPU per request, 64 at once, web process, to nginx")

    assert (target.measured, target.met, target.verdict) == (None, False, "NOT MEASURED")


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(0.6, "met, as wanted"), (0.61, "met"), (1.0, "met"), (1.01, "MISSED"), (None, "NOT MEASURED")],
)
def test_the_verdict(ratio, verdict):
    assert targets.Target("", 1.0, 0.6, ratio).verdict == verdict


@pytest.mark.parametrize(("value", "text"), [(1.234, "1.23x"), (1 / 400, "1/400"), (0, "0.00x"), (None, "-")])
def test_a_small_ratio_is_told_as_a_fraction(value, text):
    assert targets.figure(value) == text


def test_a_cell_is_the_median_of_its_rounds():
    rounds = [round_(100, 1), round_(300, 1), round_(200, 1)]

    (cell,) = [cell for cell in table.cells(rounds, ["direct", "portal"]) if cell.gateway == "portal"]
    assert (cell.cpu_us_per_request, cell.redis_us_per_request, cell.added_p50_us) == (20.0, 1.0, 300.0)
