"""A round where half of many engines wait for their downloads costs what it may cost where all is well."""

import contextlib
import time
from datetime import timedelta

import pytest
from django.utils import timezone

from engines import fetching, health, launching, lifecycle, reconcile, to_fetch
from engines.downloads.files import File
from engines.downloads.folder import Progress
from engines.models import Engine
from engines.states import State
from tests.engines.conftest import join_apart
from tests.fakes.hub import COMMIT

pytestmark = pytest.mark.django_db(transaction=True)
FILES = [File(f"model-{number:05}.safetensors", 10**9, f"{number:064}") for number in range(30)]


@pytest.fixture
def downloads(setting, tmp_path, fake, monkeypatch):
    """downloads(engine): the engine's download, which goes on by itself until the test ends."""
    setting(hf_check=True, hf_cache_dir=str(tmp_path / "hf"), data_dir=tmp_path)
    monkeypatch.setattr("engines.downloads.process.begin", lambda *_: pytest.fail("nothing is to begin"))
    with contextlib.ExitStack() as held:

        def goes_on(engine):
            (part,) = to_fetch.parts(engine)
            part.download.path.mkdir(parents=True)
            part.download.write_files(FILES)
            part.download.write_engine(f"{engine.pk}-{engine.generation}")
            part.download.write_progress(Progress(10**9, 30 * 10**9, 1e8))
            assert held.enter_context(part.download.locked()) is not None
            return part.download

        yield goes_on


@pytest.fixture
def wanted(engine_in):
    number = iter(range(1000))
    return lambda **more: engine_in(
        State.FETCHING,
        **{
            "model": f"acme/model-{next(number)}",
            "revision": COMMIT,
            "launcher": "process",
            "deadline_at": timezone.now() + timedelta(seconds=60),
            **more,
        },
    )


def grow(downloads, done):
    for download in downloads:
        download.write_progress(Progress(done, 30 * 10**9, 1e8))


def test_a_round_over_many_downloads_costs_a_few_queries(downloads, wanted, running, monkeypatch, asked):
    monkeypatch.setattr(health, "is_healthy", lambda host, port: True)
    engines = [wanted() for _ in range(100)]
    for _ in range(100):
        running(State.READY)
    alive = [downloads(engine) for engine in engines]
    took_s = []
    for number in range(2, 12):
        grow(alive, number * 10**9)
        asked.clear()
        began = time.monotonic()
        reconcile.reconcile(timezone.now())
        took_s.append(time.monotonic() - began)
        join_apart()
        assert len(asked) <= 10, asked
        details = set(Engine.objects.filter(state=State.FETCHING).values_list("detail", flat=True))
        assert {detail.partition(",")[0] for detail in details} == {
            f"downloading {100 * number // 30}%: {number}.0 of 30.0 GB"
        }
    print(f"rounds took {', '.join(f'{1000 * one:.0f}' for one in took_s)} ms")


def test_bytes_that_came_move_the_deadline_and_none_do_not(downloads, wanted):
    grows, stands = wanted(), wanted()
    first, second = downloads(grows), downloads(stands)
    reconcile.reconcile(timezone.now())
    before = Engine.objects.get(pk=stands.pk).deadline_at
    now = timezone.now() + timedelta(seconds=30)
    grow([first], 2 * 10**9)
    grow([second], 10**9)
    reconcile.reconcile(now)
    grows.refresh_from_db()
    stands.refresh_from_db()
    assert grows.deadline_at > now + timedelta(seconds=60)
    assert stands.deadline_at == before
    assert (grows.download["bytes_done"], stands.download["bytes_done"]) == (2 * 10**9, 10**9)


def test_what_does_not_go_on_is_seen_to_as_ever(downloads, wanted, long_ago):
    late, killed, there, goes_on = wanted(deadline_at=long_ago), wanted(), wanted(), wanted()
    for engine in (late, goes_on):
        downloads(engine)
    (part,) = to_fetch.parts(late)
    Engine.objects.filter(pk=late.pk).update(download={"most": 10**9, "part": part.name})
    (part,) = to_fetch.parts(there)
    part.download.path.mkdir(parents=True)
    part.download.write_files([])
    seen = list(Engine.objects.filter(state=State.FETCHING))
    assert fetching.watch(seen, timezone.now()) == {goes_on.pk}
    assert Engine.objects.get(pk=killed.pk).download is None
    launching.launch(late.pk)
    launching.launch(there.pk)
    late.refresh_from_db()
    there.refresh_from_db()
    assert (late.cause_code, there.state) == ("stalled", State.LOADING)


def test_one_that_moved_on_meanwhile_is_left_alone(downloads, wanted):
    """Seen before it was stopped, woken, or had its next generation."""
    stopped, newer = wanted(), wanted()
    downloads(stopped)
    downloads(newer)
    seen = list(Engine.objects.filter(state=State.FETCHING))
    assert lifecycle.request_terminate(stopped, timezone.now(), "alice")
    Engine.objects.filter(pk=newer.pk).update(generation=2)
    fetching.watch(seen, timezone.now())
    assert list(Engine.objects.filter(pk__in=[stopped.pk, newer.pk]).values_list("download", flat=True)) == [None, None]
