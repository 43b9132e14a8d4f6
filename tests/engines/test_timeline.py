"""The phases of a start with their durations, and how long one will still take."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engines import lifecycle, starts
from engines.models import Engine
from engines.states import State
from engines.timeline import phases

LOGS = Path(__file__).with_name("logs")
BEGAN = datetime(2030, 11, 22, 22, 16, 0, tzinfo=UTC)


def line(at, text):
    return f"(EngineCore pid=7) INFO 11-22 {at} [x.py:1] {text}\n"


def begun(log, began=BEGAN):
    return [(phase.phase, phase.started_s) for phase in phases(log, began)]


START = (
    line("22:16:09", "non-default args: {}")
    + line("22:16:20", "Initializing a V1 LLM engine (v0.32.0)")
    + line("22:16:30", "Starting to load model acme/model...")
    + line("22:18:10", "Time spent downloading weights for acme/model: 98.500000 seconds")
    + "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01]\r"
    + line("22:18:20", "Model loading took 14.99 GiB memory and 110.2 seconds")
    + line("22:18:25", "Dynamo bytecode transform time: 5.82 s")
    + line("22:18:50", "torch.compile takes 24.46 s in total")
    + line("22:18:55", "Available KV cache memory: 52.69 GiB")
    + line("22:18:55", "GPU KV cache size: 431,568 tokens, Maximum concurrency for 8,192 tokens per request: 52.68x")
    + "Capturing CUDA graphs (PIECEWISE):   0%|          | 0/67\n"
    + line("22:19:05", "Starting vLLM server on http://0.0.0.0:8000")
)


def test_the_log_tells_when_each_phase_began():
    assert begun(START) == [
        ("configure", 9), ("core", 20), ("download", 31.5), ("load", 130), ("compile", 145), ("kv_cache", 175),
        ("graphs", 175), ("listen", 185),
    ]  # fmt: skip
    details = {phase.phase: phase.detail for phase in phases(START, BEGAN)}
    assert (details["download"], details["load"]) == ("98 s", "14.99 GiB")
    assert (details["compile"], details["kv_cache"]) == ("24.46 s", "431,568 tokens")


@pytest.mark.parametrize("zone_h", [-8, 0, 5.75])
def test_a_log_of_another_time_zone_is_read_the_same(zone_h):
    assert begun(START, BEGAN + timedelta(hours=zone_h)) == begun(START)


def test_a_first_stamp_a_little_early_and_one_that_is_no_time_are_no_harm():
    assert begun(line("22:16:00", "non-default args: {}"), BEGAN + timedelta(seconds=0.7)) == [("configure", 0)]
    assert begun(line("99:99:99", "non-default args: {}")) == [("configure", 0)]
    assert phases("", BEGAN) == []


def test_what_is_downloaded_is_told_with_bytes_and_speed_where_the_log_does():
    log = line("22:16:30", "Starting to load model acme/model...") + (
        "model-00001-of-00004.safetensors:  45%|####5     | 2.10G/4.67G [00:30<00:35, 72.1MB/s]\r"
    )
    assert phases(log, BEGAN)[-1].detail == "45%, 2.10GB of 4.67GB, 72.1MB/s"


def test_a_bar_of_progress_may_come_before_the_first_stamp():
    bar = "model.safetensors:  45%|####5     | 1.13G/2.51G [00:10<00:12, 111MB/s]"
    told = begun(f"{bar}\n{line('22:16:09', 'non-default args: {}')}{bar}\n")
    assert told == [("download", 0.0), ("configure", 9.0)]


def test_a_real_start_has_its_phases():
    names = [phase.phase for phase in phases((LOGS / "good-start-embed.log").read_text(), BEGAN)]
    assert names == ["configure", "core", "load", "listen"]


def at(seconds):
    return BEGAN + timedelta(seconds=seconds)


@pytest.fixture
def started(db, people):
    """started(log, ready_s, **columns): an engine asked for at 0, begun at 10 s, with this log, ready or loading."""

    def make(log, ready_s=None, **columns):
        columns = {"model": "acme/tiny", "launcher": "fake", "device": "cpu", **columns}
        columns["name"] = f"e{Engine.objects.count()}"
        engine = lifecycle.request_start(people["alice"], at(0), **columns)
        assert lifecycle.place(engine, [], at(2))
        for old, new, when in (
            (State.PLACED, State.PULLING, 3),
            (State.PULLING, State.STARTING, 8),
            (State.STARTING, State.LOADING, 10),
        ):
            assert lifecycle.move(engine, old, new, at(when))
        starts.record(engine, log, at(10))
        if ready_s is not None:
            assert lifecycle.move(engine, State.LOADING, State.READY, at(ready_s), ready_at=at(ready_s))
        return engine

    return make


def told(engine):
    return [(step.phase, step.duration_s) for step in starts.timeline(engine)]


LOG = line("22:16:15", "non-default args: {}") + line("22:16:30", "Starting to load model acme/model...")


def test_a_timeline_has_what_went_before_the_log_and_ends_when_it_is_ready(started):
    assert told(started(LOG, ready_s=70)) == [
        ("queue", 3.0), ("pull", 5.0), ("start", 2.0), ("boot", 5.0), ("configure", 15.0), ("load", 40.0),
        ("ready", None),
    ]  # fmt: skip


def test_the_last_phase_goes_on_until_the_engine_ends(started):
    engine = started(LOG)
    assert told(engine)[-1] == ("load", None)
    assert lifecycle.failed(engine, at(50), "killed", "It was killed.")
    assert told(engine)[-1] == ("load", 20.0)
    assert lifecycle.request_terminate(ready := started(LOG, ready_s=70), at(90), "alice")
    assert told(ready)[-1] == ("ready", None)


def test_the_estimate_is_the_median_of_earlier_starts_from_where_it_is(started):
    for ready_s in (60, 70, 300):
        started(LOG, ready_s=ready_s)
    engine = started(LOG)
    assert starts.eta_s(engine, at(35)) == 35  # ready 40 s after the load's beginning at 30
    assert starts.eta_s(engine, at(500)) == 0


@pytest.mark.parametrize("other", [{"model": "acme/other"}, {"image": "other:1"}, {"tensor_parallel_size": 2}])
def test_starts_that_are_not_alike_say_nothing(started, other):
    started(LOG, ready_s=70, **other)
    assert starts.eta_s(started(LOG), at(35)) is None


def test_there_is_no_estimate_for_what_waits_or_is_ready(started, engine_in):
    ready = started(LOG, ready_s=70)
    assert starts.eta_s(ready, at(80)) is None
    assert starts.eta_s(engine_in(State.QUEUED), at(80)) is None


def test_the_api_tells_both(started, client_of, people):
    engine = started(LOG, ready_s=70)
    body = client_of(people["alice"]).get(f"/api/v1/engines/{engine.pk}").json()
    assert [step["phase"] for step in body["timeline"]][-2:] == ["load", "ready"]
    assert body["eta_s"] is None
