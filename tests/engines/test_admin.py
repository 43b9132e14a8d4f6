"""Engines in the admin pages."""

import re

import pytest
from django.urls import reverse

from engines import engine_logs
from engines.fit import measures
from engines.models import Engine, Gpu, GpuLease, StartMeasure
from engines.states import State
from tests.engines.conftest import NOW
from vllm_portal.encryption import decrypt

CHANGELIST = "/admin/engines/engine/"


@pytest.fixture
def pages(client, root):
    client.force_login(root)
    return client


def act(pages, action, *engines):
    body = {"action": action, "_selected_action": [str(engine.pk) for engine in engines]}
    return pages.post(CHANGELIST, body, follow=True)


def test_the_list_shows_owner_state_and_cause(pages, engine_in):
    engine_in(State.FAILED)
    content = pages.get(CHANGELIST).content.decode()
    assert all(word in content for word in ("tiny-0001", "alice", "FAILED", "It was killed."))


def test_an_engines_page_shows_its_events_and_no_secret(pages, engine_in):
    engine = engine_in(State.READY, hf_token="hf_secretOfAlice")
    content = pages.get(reverse("admin:engines_engine_change", args=[engine.pk])).content.decode()
    assert "LOADING" in content
    for secret in (
        "hf_secretOfAlice",
        decrypt(engine.engine_key_encrypted),
        engine.engine_key_encrypted,
        engine.hf_token_encrypted,
    ):
        assert secret not in content


def test_an_engines_page_ends_with_its_time_line_and_the_end_of_its_log(pages, engine_in):
    engine = engine_in(State.FAILED)
    engine_logs.copy(engine, "\n".join(f"line {number} <b>" for number in range(1000)))
    content = pages.get(reverse("admin:engines_engine_change", args=[engine.pk])).content.decode()
    assert "line 999 &lt;b&gt;" in content
    assert "line 900 " not in content
    assert f'href="/engine/{engine.pk}#log"' in content
    assert re.search(r"<time[^>]*>[^<]*</time> FAILED", content)


def test_nothing_but_the_sharing_can_be_written_and_none_deleted(pages, engine_in, state_of):
    engine = engine_in(State.READY)
    change = reverse("admin:engines_engine_change", args=[engine.pk])
    pages.post(change, {"state": "FAILED", "name": "other", "owner": "", "desired": "STOP"})
    now = Engine.objects.get()
    assert (now.name, now.owner, now.desired) == (engine.name, engine.owner, engine.desired)
    assert pages.post(reverse("admin:engines_engine_delete", args=[engine.pk]), {"post": "yes"}).status_code == 403
    assert pages.get(reverse("admin:engines_engine_add")).status_code == 403
    assert state_of(engine) == State.READY


def test_stop_asks_those_that_run_to_stop(pages, engine_in, state_of):
    ready, done = engine_in(State.READY), engine_in(State.FAILED)
    assert "Asked 1 engine to stop." in act(pages, "stop", ready, done).content.decode()
    assert (state_of(ready), state_of(done)) == (State.STOPPING, State.FAILED)


def test_start_again_is_a_new_engine_with_the_same_options(pages, engine_in, alice):
    old = engine_in(State.READY, seed=3, max_model_len=64, quantization="awq", shared=True, hf_token="hf_a")
    act(pages, "start_again", old)
    new = Engine.objects.exclude(pk=old.pk).get()
    assert (new.owner, new.state, new.seed, new.max_model_len) == (alice, State.QUEUED, 3, 64)
    assert (new.model, new.quantization, new.shared) == (old.model, "awq", True)
    assert decrypt(new.hf_token_encrypted) == "hf_a"
    assert decrypt(new.engine_key_encrypted) != decrypt(old.engine_key_encrypted)


def test_what_cannot_be_started_again_says_why(pages, engine_in, setting):
    setting(engines_per_user=1)
    assert "as many as allowed" in act(pages, "start_again", engine_in(State.READY)).content.decode()


def test_gpus_and_leases_can_be_looked_at(pages, engine_in):
    gpu = Gpu.objects.create(uuid="GPU-0", index=0, name="Card", memory_bytes=2**30, seen_at=NOW)
    GpuLease.objects.create(gpu=gpu, engine=engine_in(State.READY))
    assert "tiny-0001" in pages.get("/admin/engines/gpu/").content.decode()
    assert "tiny-0001" in pages.get("/admin/engines/gpulease/").content.decode()


def test_a_user_sees_none_of_it(client, alice, db):
    client.force_login(alice)
    assert client.get(CHANGELIST).status_code in (302, 403)


def test_a_measure_that_misleads_may_be_deleted_and_not_changed(pages, engine_in):
    measures.record(engine_in(State.LOADING), "Model loading took 14.99 GiB memory and 4.51 seconds", NOW)
    measure = StartMeasure.objects.get()
    assert "14.99 GiB" in pages.get(reverse("admin:engines_startmeasure_changelist")).content.decode()
    change = reverse("admin:engines_startmeasure_change", args=[measure.pk])
    assert pages.post(change, {"weights_bytes": 1}).status_code == 403
    pages.post(reverse("admin:engines_startmeasure_delete", args=[measure.pk]), {"post": "yes"})
    assert not StartMeasure.objects.exists()


def test_who_is_cut_off_is_disabled_and_their_engines_stop(pages, root, alice, bob, engine_in, state_of):
    alices, bobs = engine_in(State.READY), engine_in(State.READY, owner=bob)
    own = engine_in(State.READY, owner=root)
    body = {"action": "cut_off", "_selected_action": [alice.pk, root.pk]}
    answer = pages.post("/admin/accounts/user/", body, follow=True)
    said = [str(message) for message in answer.context["messages"]]
    assert said == ["You cannot disable yourself; another admin can.", "Disabled 1 user.", "Asked 1 engine to stop."]
    for user, active in ((alice, False), (bob, True), (root, True)):
        user.refresh_from_db()
        assert user.is_active is active
    assert [state_of(one) for one in (alices, bobs, own)] == [State.STOPPING, State.READY, State.READY]
