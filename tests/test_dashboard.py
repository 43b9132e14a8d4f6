"""The admins' pages that belong to no table: the dashboard, the settings in force, who changed what."""

import os
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone
from pydantic import SecretStr
from rest_framework.test import APIClient

from accounts import keys
from accounts.models import User
from engines import lifecycle
from engines.models import Gpu, GpuLease
from engines.states import State
from inference import auditing
from inference.audit import Finding
from inference.models import AuditRun, Conversation, UsageRecord, UsageRollup
from vllm_portal import flags
from vllm_portal import settings_in_force as in_force
from vllm_portal.config import Config, origin

NOW = timezone.now()


@pytest.fixture
def admin(client, root):
    client.force_login(root)
    return client


@pytest.fixture
def engine(alice):
    def make(name, *states, **columns):
        made = lifecycle.request_start(
            alice, NOW, name=name, model="acme/tiny", launcher="simulator", device="cuda", **columns
        )
        for before, state in zip([State.QUEUED, *states], states, strict=False):
            assert lifecycle.move(made, before, state, NOW)
        return made

    return make


@pytest.mark.django_db
def test_it_shows_what_runs_waits_and_failed(admin, engine, alice):
    placed = engine("placed", State.PLACED)
    lifecycle.progress(engine("waiting"), NOW, "waiting for 2 free GPUs")
    lifecycle.failed(engine("broken"), NOW, "gpu_out_of_memory", "It does not fit.", "Take a smaller one.")
    long_ago = engine("forgotten")
    lifecycle.failed(long_ago, NOW - timedelta(days=2), "stalled", "Long ago.")
    gpu = Gpu.objects.create(uuid="GPU-1", index=0, name="H100", memory_bytes=80 * 2**30, seen_at=NOW)
    Gpu.objects.create(uuid="GPU-2", index=1, name="H100", memory_bytes=80 * 2**30, seen_at=NOW)
    GpuLease.objects.create(gpu=gpu, engine=placed)
    page = admin.get("/admin/").content.decode()
    for text in ("waiting for 2 free GPUs", "It does not fit.", "Take a smaller one.", ">placed</a> of alice", "free"):
        assert text in page
    assert "Long ago." not in page
    assert f'href="/admin/engines/engine/{placed.pk}/change/"' in page
    assert 'href="/admin/engines/engine/?state__exact=QUEUED"' in page
    assert page.count('<li class="held">') == page.count('<li class="free">') == 1


@pytest.mark.django_db
def test_it_sums_up_today(admin, alice, root):
    midnight = timezone.now().replace(hour=0, minute=0, second=0, microsecond=0)

    def spent(user, start, tokens):
        UsageRollup.objects.create(
            period="day", start=start, user=user, model="m", requests=1, prompt_tokens=tokens, generated_tokens=1
        )

    spent(alice, midnight, 99)
    spent(root, midnight, 49)
    spent(None, midnight, 9)
    spent(alice, midnight - timedelta(days=1), 1000)
    today = admin.get("/admin/").context["today"]
    assert (today["requests"], today["prompt"], today["generated"]) == (3, 157, 3)
    assert [tuple(user) for user in today["users"]] == [
        ("alice", 1, 100, 100), ("root", 1, 50, 50), ("(removed)", 1, 10, 10),
    ]  # fmt: skip


@pytest.mark.django_db
def test_it_takes_few_queries_whatever_there_is(admin, engine, django_assert_max_num_queries):
    for number in range(30):
        lifecycle.failed(engine(f"broken-{number}"), NOW, "stalled", "It hung.")
        engine(f"waiting-{number}")
    with django_assert_max_num_queries(15):
        admin.get("/admin/")


@pytest.mark.django_db
def test_what_an_audit_found_is_kept_and_shown(admin, monkeypatch):
    assert "Not audited yet" in admin.get("/admin/").content.decode()
    monkeypatch.setattr(auditing, "audit", lambda: [])
    auditing.run(NOW - timedelta(hours=1))
    assert "All is as it must be" in admin.get("/admin/").content.decode()
    monkeypatch.setattr(auditing, "audit", lambda: [Finding("sums", "alice", "5 are not 6")] * 60)
    run = auditing.run(NOW)
    assert "60 things broken" in admin.get("/admin/").content.decode()
    page = admin.get(f"/admin/inference/auditrun/{run.pk}/change/").content.decode()
    assert "sums: alice: 5 are not 6" in page
    assert "and 10 more" in page


@pytest.mark.django_db
def test_old_audits_go(monkeypatch):
    monkeypatch.setattr(auditing, "audit", lambda: [])
    monkeypatch.setattr(auditing, "KEPT", 2)
    for hour in range(4):
        auditing.run(NOW + timedelta(hours=hour))
    assert [run.at for run in AuditRun.objects.all()] == [NOW + timedelta(hours=3), NOW + timedelta(hours=2)]


@pytest.mark.django_db(transaction=True)  # it begins a transaction of its own
def test_a_real_audit_runs():
    assert str(auditing.run(NOW)) == "all is as it must be"


@pytest.mark.django_db
def test_an_admin_asks_for_an_audit(admin, client, alice, monkeypatch):
    asked = []
    monkeypatch.setattr(auditing.app, "send_task", lambda name, **options: asked.append(name))
    assert admin.post("/admin/audit/").url == "/admin/"
    assert asked == ["inference.tasks.audit_ledger"]
    client.force_login(alice)
    client.post("/admin/audit/")
    assert len(asked) == 1


@pytest.mark.django_db
def test_settings_are_shown_with_their_origin_and_without_secrets(admin, monkeypatch):
    given = Config(admin_password="hunter22", port=1234, engine_env={"TOKEN": "hunter22"}, engine_extra_args=["-x"])
    monkeypatch.setattr(in_force, "get_config", lambda: given)
    monkeypatch.setattr("vllm_portal.config.get_config", lambda: given)
    monkeypatch.setenv("PORTAL_PORT", "1234")
    page = admin.get("/admin/settings/").content.decode()
    assert "hunter22" not in page
    shown = {setting.name: setting for setting in in_force.settings_in_force()}
    assert (shown["port"].value, shown["port"].origin) == ("1234", "environment")
    assert (shown["admin_password"].value, shown["admin_password"].origin) == ("set (secret)", "file")
    assert shown["engine_env"].value == "TOKEN"
    assert (shown["web_processes"].value, shown["web_processes"].origin) == ("1", "default")
    assert all(setting.description for setting in shown.values())


def test_every_secret_is_kept_back():
    secrets = {name for name, field in Config.model_fields.items() if "SecretStr" in str(field.annotation)}
    values = Config(**dict.fromkeys(secrets, "hunter22"))
    assert secrets
    assert {in_force._shown(getattr(values, name)) for name in secrets} == {"set (secret)"}
    assert isinstance(values.admin_password, SecretStr)


def test_a_flag_is_told_from_the_environment(monkeypatch):
    monkeypatch.setattr(os, "environ", {**os.environ, "PORTAL_HOST": "127.0.0.1"})
    flags.apply(["--port", "8090", "--verbosity", "2"])
    assert (origin("port"), origin("host"), origin("web_processes")) == ("flag", "environment", "default")


def test_the_endpoint_of_the_hub_has_a_variable_of_its_own(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    assert origin("hf_endpoint") == "environment"


@pytest.mark.django_db
def test_changes_are_listed_and_stay(admin, root, alice):
    admin.post("/admin/accounts/user/", {"action": "disable", "_selected_action": [alice.pk]})
    entry = LogEntry.objects.log_actions(root.pk, [alice], 2, "[]", single_object=True)
    page = admin.get("/admin/admin/logentry/").content.decode()
    assert "alice" in page
    assert "disabled" in page
    assert "object repr" not in page.lower()
    for path in ("add/", f"{entry.pk}/delete/"):
        assert admin.get(f"/admin/admin/logentry/{path}").status_code == 403


@pytest.mark.django_db
def test_a_search_lists_a_few_of_each_table_and_where_the_others_are(admin, root):
    for number in range(12):
        user = User.objects.create_user(f"zoe-{number}")
        Conversation.objects.create(user=user, number=1, name="Plans", created_at=NOW, updated_at=NOW)
    page = admin.get("/admin/search/?s=zoe&extended=1").content.decode()
    assert page.count("/admin/accounts/user/") == 9
    assert 'href="/admin/accounts/user/?q=zoe"' in page
    assert page.count("/admin/inference/conversation/") == 9
    assert "href" not in admin.get("/admin/search/?s=xyzzy&extended=1").content.decode()


@pytest.mark.django_db
def test_the_pages_are_the_admins_alone(client, alice):
    client.force_login(alice)
    for path in ("", "settings/", "admin/logentry/", "search/"):
        assert client.get(f"/admin/{path}").status_code == 302


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path",
    [
        "accounts/user", "accounts/apikey", "engines/engine", "engines/gpu", "engines/gpulease",
        "inference/usagerecord", "inference/conversation", "admin/logentry",
    ],
)  # fmt: skip
def test_a_list_takes_as_few_queries_for_many_rows(admin, root, engine, path, django_assert_max_num_queries):
    for number in range(30):
        user = User.objects.create_user(f"user-{number}")
        key, _ = keys.make(user, {"name": "a key"})
        made = engine(f"engine-{number}", State.PLACED)
        gpu = Gpu.objects.create(uuid=f"GPU-{number}", index=number, name="H100", memory_bytes=2**36, seen_at=NOW)
        GpuLease.objects.create(gpu=gpu, engine=made)
        Conversation.objects.create(user=user, number=1, name="Plans", created_at=NOW, updated_at=NOW)
        UsageRecord.objects.create(
            request_id=f"r{number}", user=user, api_key=key, engine=made, model="m", path="/v1/x", prompt_tokens=1,
            generated_tokens=1, exact=True, outcome="completed", started_at=NOW, duration_ms=1,
        )  # fmt: skip
        LogEntry.objects.log_actions(root.pk, [user], 1, "[]", single_object=True)
    with django_assert_max_num_queries(15):
        page = admin.get(f"/admin/{path}/")
    assert len(page.context["cl"].result_list) == 15


@pytest.mark.django_db
def test_what_admins_change_through_the_api_is_listed_without_secrets(admin, root, alice):
    api = APIClient()
    api.force_authenticate(root)
    api.post("/db_request/add_user/", {"username": "carol", "password": "hunter22x"}, format="json")
    api.post("/db_request/update_token_limit/", {"username": "alice", "gen_token_limit": 5}, format="json")
    api.post("/db_request/update_token_number/", {"username": "alice", "prompt_token_number": 6}, format="json")
    api.put("/db_request/disable_user/", {"username": "alice"}, format="json")
    api.put("/db_request/enable_user/", {"username": "alice"}, format="json")
    api.post("/api/v1/users", {"username": "dave", "password": "hunter22x"}, format="json")
    change = {"weight": 2, "password": "hunter23x", "tokens_per_day": 7, "gen_token_limit": 8}
    assert api.patch(f"/api/v1/users/{alice.pk}", change, format="json").status_code == 200
    assert api.delete("/db_request/delete_user", {"username": "carol"}, format="json").status_code == 200
    entries = [(entry.object_repr, entry.change_message) for entry in LogEntry.objects.order_by("pk")]
    through = "changed through the API: "
    assert entries == [
        ("carol", "added through the API"),
        ("alice", through + "gen_token_limit = 5"),
        ("alice", through + "prompt_token_number = 6"),
        ("alice", through + "is_active = False"),
        ("alice", through + "is_active = True"),
        ("dave", "added through the API"),
        ("alice", through + "password, weight = 2.0, gen_token_limit = 8, tokens_per_day = 7"),
        ("carol", "removed through the API"),
    ]
    assert "tokens_per_day = 7" in admin.get("/admin/admin/logentry/").content.decode()
