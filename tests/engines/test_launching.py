"""From QUEUED to LOADING, with launchers that misbehave."""

import threading

import pytest
from django.contrib.auth.models import Group
from django.utils import timezone

from accounts.models import GroupPriority
from engines import ending, launching, lifecycle
from engines.errors import LauncherError, StartFailed
from engines.launchers.base import Status
from engines.models import Engine, Gpu, GpuLease
from engines.states import State
from tests.engines.conftest import NOW
from tests.fakes.launchers import raising
from tests.threads import at_once
from tests.waiting import wait_until
from vllm_portal.encryption import decrypt
from vllm_portal.secret_keys import portal_id

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def three_gpus():
    return [
        Gpu.objects.create(uuid=f"GPU-{index}", index=index, name="Card", memory_bytes=1, seen_at=NOW)
        for index in range(3)
    ]


def ways(engine):
    return [event.new_state for event in engine.events.all()]


def test_an_engine_goes_all_the_way_and_what_the_launcher_says_is_kept(fake, engine_in):
    engine = engine_in()
    launching.launch(engine.pk)
    engine.refresh_from_db()
    assert ways(engine) == ["QUEUED", "PLACED", "STARTING", "LOADING"]
    assert (engine.container_id, engine.host, engine.port) == (f"{1:064x}", "127.0.0.1", 9)
    assert engine.deadline_at > timezone.now()
    assert fake.calls == ["start"]


def test_with_docker_the_image_is_fetched_first_and_people_see_how_it_goes(fake, engine_in):
    engine = engine_in(launcher="docker", image="acme/vllm:1")
    seen = []

    def pull(progress):
        progress("pulling acme/vllm:1: 3 of 12 layers")
        row = Engine.objects.get(pk=engine.pk)
        seen.append((row.state, row.detail))

    fake.before_prepare = pull
    launching.launch(engine.pk)
    assert seen == [(State.PULLING, "pulling acme/vllm:1: 3 of 12 layers")]
    assert ways(engine) == ["QUEUED", "PULLING", "QUEUED", "PLACED", "STARTING", "LOADING"]
    assert fake.calls == ["prepare", "start"]


def test_the_launcher_gets_the_options_and_no_secret_in_the_arguments(fake, engine_in, setting):
    setting(engine_extra_args=["--enforce-eager"], engine_env={"A": "b"}, hf_endpoint="http://mirror.example")
    engine = engine_in(hf_token="hf_secret", seed=3, max_model_len=64)
    launching.launch(engine.pk)
    spec = fake.containers[engine.container_name].spec
    assert (spec.portal_id, spec.engine_id, spec.generation) == (portal_id(), str(engine.pk), 1)
    assert spec.argv[:4] == ["acme/tiny", "--served-model-name", "acme/tiny", engine.name]
    assert (spec.env["A"], spec.env["HF_ENDPOINT"]) == ("b", "http://mirror.example")
    assert (spec.hf_token, spec.engine_key) == ("hf_secret", decrypt(engine.engine_key_encrypted))
    assert not {spec.hf_token, spec.engine_key} & {*spec.argv, *spec.env.values()}
    assert spec.model_dir is None


def test_a_model_folder_is_told_to_the_launcher(fake, engine_in, tmp_path):
    engine = engine_in(model=str(tmp_path))
    launching.launch(engine.pk)
    assert fake.containers[engine.container_name].spec.model_dir == str(tmp_path)


def test_of_many_launches_at_once_one_container_comes(fake, engine_in):
    engine = engine_in()
    at_once(*[lambda: launching.launch(engine.pk)] * 6)
    assert fake.started == 1
    assert ways(engine) == ["QUEUED", "PLACED", "STARTING", "LOADING"]


@pytest.mark.parametrize("state", [State.READY, State.STOPPING, State.STOPPED, State.FAILED])
def test_what_needs_no_launch_gets_none(fake, engine_in, state):
    launching.launch(engine_in(state).pk)
    assert fake.calls == []


def test_an_engine_that_is_no_more_gets_no_launch(fake, engine_in):
    engine = engine_in()
    identity = engine.pk
    engine.delete()
    launching.launch(identity)
    assert fake.calls == []


@pytest.mark.parametrize("state", [State.PLACED, State.STARTING])
def test_a_launch_that_was_cut_short_goes_on(fake, engine_in, state):
    engine = engine_in(state)
    launching.launch(engine.pk)
    assert ways(engine)[-1] == "LOADING"


def test_a_container_that_was_made_before_the_worker_died_is_adopted(running, fake):
    engine = running(State.STARTING)
    launching.launch(engine.pk)
    engine.refresh_from_db()
    assert (engine.state, fake.started) == (State.LOADING, 1)


class TestGpus:
    def test_they_are_leased_and_named_to_the_launcher(self, fake, engine_in, three_gpus):
        engine = engine_in(device="cuda", tensor_parallel_size=2)
        launching.launch(engine.pk)
        assert fake.containers[engine.container_name].spec.gpu_uuids == ("GPU-0", "GPU-1")
        assert GpuLease.objects.filter(engine=engine).count() == 2

    def test_too_few_free_ones_are_waited_for(self, fake, engine_in, three_gpus):
        first = engine_in(device="cuda", tensor_parallel_size=2)
        second = engine_in(device="cuda", tensor_parallel_size=2)
        launching.launch(first.pk)
        launching.launch(second.pk)
        second.refresh_from_db()
        assert (second.state, second.detail) == (State.QUEUED, "waiting for 2 free GPUs (1 of 3 are free)")
        ending.fail(Engine.objects.get(pk=first.pk), launching.Diagnosis("x", "x"))
        launching.launch(second.pk)
        second.refresh_from_db()
        assert second.state == State.LOADING

    def test_nobody_overtakes_a_large_engine_for_ever(self, fake, engine_in, three_gpus):
        launching.launch(engine_in(device="cuda", tensor_parallel_size=1).pk)
        large = engine_in(device="cuda", tensor_parallel_size=3)
        launching.launch(large.pk)
        small = engine_in(device="cuda", tensor_parallel_size=1)
        launching.launch(small.pk)
        small.refresh_from_db()
        assert (small.state, small.detail) == (
            State.QUEUED, "waiting for GPUs, behind engines that come first",
        )  # fmt: skip

    def test_an_engine_that_can_never_be_placed_holds_up_nobody(self, fake, engine_in, three_gpus):
        engine_in(device="cuda", tensor_parallel_size=4)
        small = engine_in(device="cuda", tensor_parallel_size=1)
        launching.launch(small.pk)
        small.refresh_from_db()
        assert small.state == State.LOADING

    def test_gpus_that_are_gone_are_not_given(self, fake, engine_in, three_gpus):
        Gpu.objects.filter(index__gt=0).update(present=False)
        engine = engine_in(device="cuda", tensor_parallel_size=1)
        launching.launch(engine.pk)
        assert fake.containers[engine.container_name].spec.gpu_uuids == ("GPU-0",)

    def test_while_the_driver_is_away_nobody_gets_a_gpu_that_another_holds(self, fake, engine_in, three_gpus):
        Gpu.objects.update(present=False)
        engine = engine_in(device="cuda")
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, fake.containers) == (State.QUEUED, {})
        assert "their driver does not answer" in engine.detail
        Gpu.objects.update(present=True)
        launching.launch(engine.pk)
        assert len(fake.containers[engine.container_name].spec.gpu_uuids) == 1

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_none_are_leased_where_none_are_needed_or_known(self, fake, engine_in, device):
        engine = engine_in(device=device, tensor_parallel_size=2)
        launching.launch(engine.pk)
        assert fake.containers[engine.container_name].spec.gpu_uuids == ()

    def test_many_at_once_share_them_without_a_quarrel(self, fake, engine_in, three_gpus):
        engines = [engine_in(device="cuda") for _ in range(5)]
        at_once(*[lambda engine=engine: launching.launch(engine.pk) for engine in engines])
        for engine in engines:
            launching.launch(engine.pk)
        assert GpuLease.objects.count() == 3
        assert Engine.objects.filter(state=State.LOADING).count() == 3
        assert Engine.objects.filter(state=State.QUEUED).count() == 2

    def test_whose_group_has_priority_comes_first_and_nobody_overtakes_them(self, fake, engine_in, three_gpus, people):
        course, guests = Group.objects.create(name="course"), Group.objects.create(name="guests")
        GroupPriority.objects.create(group=course, value=5)
        GroupPriority.objects.create(group=guests, value=-1)
        people["bob"].groups.add(course, guests)
        people["root"].groups.add(guests)
        Gpu.objects.filter(index__gt=0).delete()
        holder = engine_in(State.LOADING, device="cuda")
        GpuLease.objects.create(gpu=Gpu.objects.get(), engine=holder)
        last, first, second = (engine_in(device="cuda", owner=people[name]) for name in ("root", "alice", "bob"))
        assert [(each.pk, each.priority) for each in Engine.objects.in_line(on_cpu=False)] == [
            (second.pk, 5), (first.pk, 0), (last.pk, -1),
        ]  # fmt: skip
        for expected in (second, first, last):
            GpuLease.objects.all().delete()
            for engine in (last, first, second):
                launching.launch(engine.pk)
            assert GpuLease.objects.get().engine_id == expected.pk

    def test_of_fifty_at_once_two_hold_the_two_gpus_and_the_others_follow_in_order(self, fake, engine_in, three_gpus):
        Gpu.objects.filter(index=2).delete()
        engines = [engine_in(device="cuda") for _ in range(50)]
        names, came_up, most_held = [engine.name for engine in engines], [], 0

        def started(spec):
            nonlocal most_held
            most_held = max(most_held, GpuLease.objects.values("engine").distinct().count())

        fake.before_start = started
        while len(came_up) < len(engines):
            waiting = [engine for engine in engines if engine.name not in came_up][:8]
            at_once(*[lambda engine=engine: launching.launch(engine.pk) for engine in reversed(waiting)])
            # Those whose turn had not come when they were looked at are launched again, as the reconciler does.
            for engine in waiting:
                launching.launch(engine.pk)
            for engine in Engine.objects.filter(state=State.LOADING).order_by("created_at"):
                came_up.append(engine.name)
                ending.fail(engine, launching.Diagnosis("x", "x"))
        assert (came_up, most_held) == (names, 2)


class TestWhatGoesWrong:
    @pytest.mark.parametrize(("launcher", "hook"), [("docker", "before_prepare"), ("fake", "before_start")])
    def test_a_start_that_cannot_succeed_fails_with_its_cause(self, fake, engine_in, launcher, hook):
        engine = engine_in(launcher=launcher)
        setattr(fake, hook, raising(StartFailed("no_gpu_runtime", "Docker gives no GPU.", "Install one.")))
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.cause_code) == (State.FAILED, "no_gpu_runtime")
        assert (engine.cause, engine.advice) == ("Docker gives no GPU.", "Install one.")
        assert fake.calls[-1] == "stop"

    @pytest.mark.parametrize(("launcher", "hook"), [("docker", "before_prepare"), ("fake", "before_start")])
    def test_a_launcher_in_trouble_is_tried_again(self, fake, engine_in, launcher, hook):
        engine = engine_in(launcher=launcher)
        setattr(fake, hook, raising(LauncherError("no daemon")))
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert engine.state in (State.PULLING, State.STARTING)
        assert engine.detail == "tries again: no daemon"
        setattr(fake, hook, lambda *_: None)
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.detail) == (State.LOADING, "")

    def test_trying_again_ends_at_the_deadline(self, fake, engine_in, long_ago):
        engine = engine_in(State.STARTING, deadline_at=long_ago, detail="tries again: no daemon")
        Engine.objects.filter(pk=engine.pk).update(detail="tries again: no daemon")
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.cause_code) == (State.FAILED, "launch_timeout")
        assert "no daemon" in engine.cause
        assert fake.calls == ["stop"]

    def test_it_has_not_failed_while_it_may_live(self, fake, engine_in, long_ago):
        engine = engine_in(State.STARTING, deadline_at=long_ago)
        fake.unknown = True
        launching.launch(engine.pk)
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.cause_code) == (State.STARTING, "launch_timeout")
        fake.unknown = False
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert engine.state == State.FAILED

    def test_a_container_that_ends_at_once_has_failed_of_what_its_log_says(self, running, fake):
        engine = running(State.STARTING)
        fake.die(engine.container_name, "vllm: error: unrecognized arguments: --nope\n", exit_code=2)
        launching.launch(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, engine.cause_code) == (State.FAILED, "arguments_wrong")
        assert engine.container_name not in fake.containers


class TestStopsInBetween:
    def test_a_stop_while_the_image_is_pulled_ends_the_pull(self, fake, engine_in):
        engine = engine_in(launcher="docker")
        pulled = []

        def pull(progress):
            lifecycle.request_terminate(Engine.objects.get(pk=engine.pk), NOW, "alice")
            progress("1 of 2 layers")
            pulled.append("all")

        fake.before_prepare = pull
        launching.launch(engine.pk)
        ending.stop(engine.pk)
        engine.refresh_from_db()
        assert (engine.state, pulled, fake.started) == (State.STOPPED, [], 0)

    def test_a_stop_while_the_container_is_made_waits_for_it_and_ends_it(self, fake, engine_in):
        engine = engine_in()
        being_made, go_on = threading.Event(), threading.Event()

        def make(spec):
            being_made.set()
            assert go_on.wait(10)

        def stop():
            assert being_made.wait(10)
            lifecycle.request_terminate(Engine.objects.get(pk=engine.pk), NOW, "alice")
            threading.Timer(0.2, go_on.set).start()
            ending.stop(engine.pk)

        fake.before_start = make
        at_once(lambda: launching.launch(engine.pk), stop)
        engine.refresh_from_db()
        assert (engine.state, fake.started, fake.containers) == (State.STOPPED, 1, {})

    def test_a_container_whose_engine_has_ended_meanwhile_is_cleared_away(self, fake, engine_in):
        engine = engine_in()

        def ends_meanwhile(spec):
            row = Engine.objects.get(pk=engine.pk)
            lifecycle.request_terminate(row, NOW, "alice")
            lifecycle.stopped(row, NOW)

        fake.before_start = ends_meanwhile
        launching.launch(engine.pk)
        assert fake.started == 1
        assert fake.containers == {}


def test_a_launch_is_killed_nowhere_without_a_way_on(fake, engine_in, monkeypatch):
    """The worker dies after the container was made and before the row says so."""
    engine = engine_in()
    real = lifecycle.move

    def dies(engine, old, new, *args, **columns):
        if new is State.LOADING:
            raise KeyboardInterrupt
        return real(engine, old, new, *args, **columns)

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "move", dies)
        with pytest.raises(KeyboardInterrupt):
            launching.launch(engine.pk)
    assert fake.poll(engine.container_name).status is Status.RUNNING
    wait_until(lambda: launching.launch(engine.pk) or Engine.objects.get(pk=engine.pk).state == State.LOADING)
    assert fake.started == 1
