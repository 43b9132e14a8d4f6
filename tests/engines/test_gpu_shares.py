"""Several engines on one GPU, each with a share of its memory: decision 0024."""

import importlib
from datetime import timedelta

import pytest
from django.apps import apps
from django.db import IntegrityError, transaction
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from engines import gpu_hours, launching, lifecycle, preflight, queueing, reclaiming, starting, starts
from engines.models import Engine, Gpu, GpuLease, GpuSlice
from engines.placement import SLICES, free_slices, slices_for
from engines.preflight import Order
from engines.room import Held, Unit
from engines.states import State
from tests.engines.conftest import NOW
from tests.threads import at_once
from vllm_portal.errors import CallerError

pytestmark = pytest.mark.django_db(transaction=True)

ENGINES = "/api/v1/engines"


@pytest.fixture
def two_gpus(db):
    return [
        Gpu.objects.create(uuid=f"GPU-{index}", index=index, name="Card", memory_bytes=1, seen_at=NOW)
        for index in range(2)
    ]


@pytest.fixture
def on_gpus(setting, monkeypatch):
    """Starts are of engines on GPUs."""
    monkeypatch.setattr(preflight, "chosen_name", lambda: "process")
    setting(device="cuda")


@pytest.fixture
def wants(engine_in):
    """wants(share, **columns): an engine that is QUEUED for that share of a GPU."""
    return lambda share=None, **columns: engine_in(State.QUEUED, device="cuda", gpu_memory_utilization=share, **columns)


def places(*engines):
    """The GPUs of each, after a round of launches in which each comes up at once."""
    for engine in engines:
        launching.launch(engine.pk)
        lifecycle.move(engine, State.LOADING, State.READY, NOW)
    return [sorted(engine.gpu_leases.values_list("gpu__index", flat=True)) for engine in engines]


def test_those_that_fit_share_a_gpu_and_who_wants_one_alone_gets_one(fake, wants, two_gpus):
    assert places(wants(0.3), wants(0.6), wants(), wants(0.1)) == [[0], [0], [1], []]
    assert GpuSlice.objects.filter(gpu=two_gpus[0]).count() == 18
    assert GpuSlice.objects.filter(gpu=two_gpus[1]).count() == SLICES


def test_a_gpu_in_use_is_filled_before_another_is_opened(fake, wants, two_gpus):
    assert places(wants(0.2), wants(0.2), wants(0.2), wants()) == [[0], [0], [0], [1]]


def test_a_share_of_several_gpus_is_of_each(fake, wants, two_gpus):
    assert places(wants(0.5, tensor_parallel_size=2), wants(0.45), wants(0.45), wants(0.05)) == [[0, 1], [0], [1], []]


def test_who_waits_is_told_for_what(fake, wants, two_gpus):
    holder, second, waiting = wants(0.7, tensor_parallel_size=2), wants(0.4), wants(0.1)
    for engine in (holder, second, waiting):
        launching.launch(engine.pk)
    second.refresh_from_db()
    waiting.refresh_from_db()
    assert second.detail == "waiting for 40% of the memory of 1 GPU (0 of 2 have as much left)"
    assert waiting.detail == "waiting for GPUs, behind engines that come first"
    Engine.objects.filter(pk=holder.pk).update(lease_ends_at=NOW + timedelta(hours=1))
    assert queueing.of([second], NOW)[second.pk].expected_at == NOW + timedelta(hours=1)


def test_what_an_engine_held_is_free_after_its_end(fake, wants, two_gpus):
    first = wants(0.9)
    assert places(first) == [[0]]
    assert lifecycle.failed(Engine.objects.get(pk=first.pk), NOW, "stalled", "It hung.")
    assert (GpuLease.objects.count(), GpuSlice.objects.count()) == (0, 0)
    assert places(wants(0.9)) == [[0]]


def test_the_database_refuses_to_give_a_slice_twice(wants, two_gpus):
    gpu, first, second = two_gpus[0], wants(0.5), wants(0.5)
    assert lifecycle.place(first, [gpu], NOW)
    Engine.objects.filter(pk=first.pk).update(state=State.READY)
    assert not lifecycle.place(second, [gpu], NOW), "a shared one keeps a slice"
    lease = GpuLease.objects.create(gpu=gpu, engine=second, slices=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        GpuSlice.objects.create(gpu=gpu, number=9, lease=lease)
    GpuSlice.objects.create(gpu=gpu, number=10, lease=lease)


def test_one_at_a_time_comes_up_on_a_gpu(fake, wants, two_gpus):
    """vLLM would take for its own what another takes meanwhile."""
    first, second, third = (wants(0.2) for _ in range(3))
    for engine in (first, second, third):
        launching.launch(engine.pk)
    assert [engine.gpu_leases.get().gpu.index for engine in (first, second)] == [0, 1]
    third.refresh_from_db()
    assert third.detail == (
        f"waiting until {first.name} or {second.name} has come up on the same GPU, whose memory it measures"
    )
    assert not lifecycle.place(third, two_gpus[:1], NOW)
    assert queueing.of([third], NOW)[third.pk] == (1, None), "how long that takes nobody knows"
    lifecycle.move(Engine.objects.get(pk=second.pk), State.LOADING, State.READY, NOW)
    assert places(third) == [[1]]


def test_who_waits_for_one_that_comes_up_is_told_until_when(fake, wants, two_gpus, monkeypatch):
    whole_one, first, second = wants(), wants(0.2), wants(0.2)
    for engine in (whole_one, first, second):
        launching.launch(engine.pk)
    monkeypatch.setattr(starts, "eta_s", lambda engine, now: 90.0 if engine == first else 5.0)
    assert queueing.of([second], NOW)[second.pk] == (1, NOW + timedelta(seconds=90))
    lifecycle.move(Engine.objects.get(pk=first.pk), State.LOADING, State.READY, NOW)
    assert queueing.of([second], NOW)[second.pk] == (1, NOW)


def test_many_at_once_never_hold_more_than_there_is(fake, wants, two_gpus):
    engines = [wants(0.3) for _ in range(12)]
    for _ in range(6):
        at_once(*[lambda engine=engine: launching.launch(engine.pk) for engine in engines])
        up = [engine.pk for engine in Engine.objects.filter(state=State.LOADING)]
        assert len(up) <= 2
        Engine.objects.filter(pk__in=up).update(state=State.READY)
    placed = [place for place in places(*engines) if place]
    assert sorted(placed) == [[0]] * 3 + [[1]] * 3
    assert GpuSlice.objects.count() == 2 * 18


@given(st.lists(st.integers(1, SLICES), max_size=6), st.integers(1, SLICES))
def test_what_is_free_is_said_alike_everywhere(held, wanted):
    while sum(held) > SLICES:
        held.pop()
    unit = Unit(SLICES, [Held(None, slices, None) for slices in held])
    fits = free_slices(sum(held)) >= wanted
    assert unit.has_room(wanted) is fits
    one = queueing.Waiting(None, 1, wanted)
    assert (queueing.forecast([one], [unit.free_from(NOW, NOW)])[None].expected_at is not None) is fits


def test_vllm_is_told_last_so_that_no_flag_of_the_operators_makes_it_larger(wants, setting):
    setting(engine_extra_args=["--gpu-memory-utilization=0.9"])
    assert launching.launch_spec(wants(0.3)).argv[-2:] == ["--gpu-memory-utilization", "0.3"]
    assert launching.launch_spec(wants()).argv[-1] == "--gpu-memory-utilization=0.9"


class TestIdleOnes:
    @pytest.fixture
    def ready(self, fake, wants, two_gpus, setting):
        """Four that are ready and idle, the longest first: two on either GPU."""
        setting(reclaim_idle_minutes=30)
        engines = [wants(0.45) for _ in range(4)]
        places(*engines)
        for hours, engine in enumerate(engines):
            Engine.objects.filter(pk=engine.pk).update(state=State.READY, used_at=NOW + timedelta(hours=hours))
        return list(Engine.objects.filter(state=State.READY).order_by("used_at"))

    LATER = NOW + timedelta(days=1)

    def test_no_more_give_way_than_the_share_needs(self, ready, wants):
        wants(0.3)
        assert reclaiming.chosen(ready, self.LATER) == ready[:1]

    def test_for_a_whole_gpu_those_of_one_do(self, ready, wants):
        wants()
        gone = reclaiming.chosen(ready, self.LATER)
        assert gone == ready[:2]
        assert {lease.gpu_id for engine in gone for lease in engine.gpu_leases.all()} == {
            ready[0].gpu_leases.get().gpu_id
        }

    def test_none_go_while_there_is_room(self, ready, wants):
        wants(0.1)
        assert reclaiming.chosen(ready, self.LATER) == ready[:1], "two slices are left, and one of them stays free"
        Engine.objects.filter(state=State.QUEUED).delete()
        lifecycle.failed(ready.pop(), NOW, "stalled", "It hung.")
        wants(0.1)
        assert reclaiming.chosen(ready, self.LATER) == []


class TestAsking:
    def test_it_is_asked_for_kept_and_asked_for_again(self, client_of, alice, on_gpus):
        client = client_of(alice)
        first = client.post(ENGINES, {"model": "a/b", "gpu_memory_utilization": "0.3"}, format="json").json()
        assert first["gpu_memory_utilization"] == 0.3
        Engine.objects.update(state=State.FAILED)
        again = client.post(f"{ENGINES}/{first['id']}/retry", {}, format="json").json()
        assert again["gpu_memory_utilization"] == 0.3
        body = {"Model": "a/b", "GPU_MEMORY_UTILIZATION": 0.5, "wait": False}
        assert client.post("/vllm_request/start", body, format="json").status_code == 202
        assert Engine.objects.latest("created_at").gpu_memory_utilization == 0.5

    @pytest.mark.parametrize("share", [0, 0.04, 1.01, -1, "half", True, "nan", "inf"])
    def test_what_is_no_share_is_refused(self, client_of, alice, on_gpus, share):
        answer = client_of(alice).post(ENGINES, {"model": "a/b", "gpu_memory_utilization": share}, format="json")
        assert (answer.status_code, list(answer.json())) == (400, ["gpu_memory_utilization"])

    def test_without_gpus_there_is_nothing_to_share(self, client_of, alice):
        answer = client_of(alice).post(ENGINES, {"model": "a/b", "gpu_memory_utilization": 0.3}, format="json")
        assert answer.json() == {
            "gpu_memory_utilization": ["Engines run without GPUs here, so there is nothing to share."]
        }

    def test_parts_count_as_parts(self, alice, on_gpus, setting):
        setting(gpus_per_user=1, engines_per_user=50)
        for _ in range(2):
            starting.start(alice, Order(model="a/b", gpu_memory_utilization=0.45))
        with pytest.raises(CallerError, match=r"hold or wait for 0\.9 GPUs, and 1 are allowed: 0\.15 more is too many"):
            starting.start(alice, Order(model="a/b", gpu_memory_utilization=0.15))
        starting.start(alice, Order(model="a/b", gpu_memory_utilization=0.1))

    def test_hours_count_as_parts(self, wants):
        engine = wants(0.3, tensor_parallel_size=2)
        changes = [(NOW, State.PLACED), (NOW + timedelta(hours=1), State.STOPPED)]
        period = (NOW, NOW + timedelta(hours=2))
        assert gpu_hours.measured(engine, changes, period).held_s == pytest.approx(3600 * 0.6)


def test_pages_say_how_much_of_it(fake, wants, two_gpus, client_of, alice, root):
    engine, other = wants(0.3), wants(0.25)
    places(engine, other)
    browser = Client()
    browser.force_login(alice)
    assert "30 % of GPU 0 (Card)" in browser.get("/cards").content.decode()
    assert "30 % of GPU 0 (Card)" in browser.get(f"/engine/{engine.pk}").content.decode()
    browser.force_login(root)
    dashboard = browser.get("/admin/").content.decode()
    assert f"{engine.name}</a> of alice, 30 %" in dashboard
    assert f"{other.name}</a> of alice, 25 %" in dashboard
    assert f"{engine.name} 30 %, {other.name} 25 %" in browser.get("/admin/engines/gpu/").content.decode()
    (node,) = client_of(alice).get("/api/v1/nodes").json()["results"]
    assert node["gpus"][0]["engines"] == [
        {"name": engine.name, "gpu_memory_share": 0.3},
        {"name": other.name, "gpu_memory_share": 0.25},
    ]


def test_a_form_that_comes_again_has_the_share(wants, alice):
    engine = wants(0.3)
    browser = Client()
    browser.force_login(alice)
    page = browser.get(f"/engine/new?again={engine.pk}").content.decode()
    assert 'name="gpu_memory_utilization"' in page
    assert 'value="0.3"' in page


def test_no_share_is_the_whole(wants):
    assert (wants().gpu_slices, wants().gpus, slices_for(None)) == (SLICES, 1.0, SLICES)


def test_leases_from_before_hold_whole_gpus(engine_in, two_gpus):
    lease = GpuLease.objects.create(gpu=two_gpus[0], engine=engine_in(State.READY))
    slice_leases = importlib.import_module("engines.migrations.0013_slices_of_leases").slice_leases
    for _ in range(2):
        slice_leases(apps, None)
        assert sorted(lease.parts.values_list("number", flat=True)) == list(range(SLICES))
