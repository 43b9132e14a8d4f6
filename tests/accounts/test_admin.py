"""People in Django's admin."""

import re
from html import unescape

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from accounts import quotas
from accounts.auth import issue_tokens
from accounts.models import Role, TokenLimit, User
from inference import conversations
from tests.accounts.conftest import NOW

PEOPLE = "/admin/accounts/user/"


@pytest.fixture
def admin(root) -> Client:
    client = Client()
    client.force_login(root)
    return client


def form_of(client: Client, user: User) -> dict[str, str | list[str]]:
    """What a browser would send from the user's page, were nothing changed."""
    return fields_of(client, f"{PEOPLE}{user.pk}/change/", "user_form")


def fields_of(client: Client, address: str, form_id: str) -> dict[str, str | list[str]]:
    page = client.get(address).content.decode()
    page = page[page.index(f'id="{form_id}"') : page.index("submit-row")]
    fields: dict[str, str | list[str]] = {}
    for tag in re.findall(r"<input[^>]*>", page):
        name, value = (re.search(rf' {key}="([^"]*)"', tag) for key in ("name", "value"))
        if name and not ('type="checkbox"' in tag and not re.search(r"\schecked[\s/>]", tag)):
            fields[name[1]] = unescape(value[1]) if value else "on" * ('type="checkbox"' in tag)
    for name, more, options in re.findall(r'<select name="([^"]*)"(.*?)>(.*?)</select>', page, re.DOTALL):
        chosen = re.findall(r'value="([^"]*)" selected', options)
        fields[name] = chosen if "multiple" in more else chosen[0]
    return fields


def save(client: Client, user: User, form: dict[str, str], **changes: object) -> None:
    answer = client.post(f"{PEOPLE}{user.pk}/change/", {**form, **changes})
    problems = re.findall(r"errorlist[^>]*>(.*?)</ul>", answer.content.decode(), re.DOTALL)
    assert answer.status_code == 302, problems


def row(user) -> tuple[int, int, int, int]:
    limit = TokenLimit.objects.get(user=user)
    return limit.prompt_token_number, limit.prompt_token_limit, limit.gen_token_number, limit.gen_token_limit


def test_a_users_page_shows_what_is_used_and_left_as_bars(admin, alice):
    TokenLimit.objects.filter(user=alice).update(prompt_token_number=2_500, prompt_token_limit=10_000)
    page = admin.get(f"{PEOPLE}{alice.pk}/change/").content.decode()
    assert '<progress class="block mt-1 w-full" max="10000" value="2500" aria-label="2,500 of 10,000">' in page
    assert "7,500 left" in page


def test_only_the_role_admin_gets_in(alice, root):
    client = Client()
    client.force_login(alice)
    assert client.get("/admin/").status_code == 302
    assert client.get(PEOPLE).status_code == 302
    client.force_login(root)
    assert client.get("/admin/").status_code == 200
    User.objects.get(pk=root.pk)
    root.role = Role.USER
    root.save()
    assert client.get("/admin/").status_code == 302


def test_the_list_shows_what_was_used_and_is_left(admin, alice):
    TokenLimit.objects.filter(user=alice).update(prompt_token_number=1234, gen_token_number=2000)
    page = admin.get(PEOPLE).content.decode()
    assert "1,234 of 10,000" in page
    assert "8,766" in page
    assert "2,000 of 1,000" in page
    assert admin.get(PEOPLE, {"q": "ali"}).status_code == 200
    assert admin.get(PEOPLE, {"role__exact": "Admin", "is_active__exact": "1"}).status_code == 200


def test_a_user_is_added(admin):
    page = admin.get(f"{PEOPLE}add/")
    assert page.status_code == 200
    body = {"username": "carol", "role": "User", "password1": "long enough 4 all", "password2": "long enough 4 all"}
    assert admin.post(f"{PEOPLE}add/", body).status_code == 302
    carol = User.objects.get(username="carol")
    assert carol.check_password("long enough 4 all")
    assert row(carol) == (0, 10_000, 0, 1_000)


def test_a_name_that_differs_by_case_is_taken(admin, alice):
    body = {"username": "Alice", "role": "User", "password1": "long enough 4 all", "password2": "long enough 4 all"}
    answer = admin.post(f"{PEOPLE}add/", body)
    assert answer.status_code == 200
    assert User.objects.filter(username__iexact="alice").count() == 1


def test_a_new_password_revokes(admin, alice, client_of):
    caller = client_of(alice)
    body = {"password1": "long enough 4 all", "password2": "long enough 4 all", "usable_password": "true"}
    assert admin.post(f"{PEOPLE}{alice.pk}/password/", body).status_code == 302
    assert User.objects.get(pk=alice.pk).check_password("long enough 4 all")
    assert caller.post("/db_request/get_token_info/").status_code == 401


def test_a_page_saved_unchanged_changes_nothing(admin, alice):
    before = User.objects.filter(pk=alice.pk).values().get()
    save(admin, alice, form_of(admin, alice))
    assert User.objects.filter(pk=alice.pk).values().get() == before
    assert row(alice) == (0, 10_000, 0, 1_000)


def test_limits_are_set_and_told(admin, alice, live, committed):
    live(alice)
    form = form_of(admin, alice)
    with committed():
        save(admin, alice, form, **{"token_limit-0-prompt_token_limit": "5", "first_name": "Al"})
    assert row(alice) == (0, 5, 0, 1_000)
    assert live(alice, load=False)["pl"] == 5
    assert User.objects.get(pk=alice.pk).first_name == "Al"


def test_limits_by_time_are_set_and_told(admin, alice, live, committed):
    live(alice)
    form = form_of(admin, alice)
    assert form["token_limit-0-requests_per_minute"] == "6000"
    limits = {"token_limit-0-requests_per_minute": "", "token_limit-0-tokens_per_day": "9"}
    with committed():
        save(admin, alice, form, **limits)
    limit = TokenLimit.objects.get(user=alice)
    assert (limit.requests_per_minute, limit.tokens_per_day, limit.tokens_per_month) == (None, 9, None)
    assert (live(alice).get("rm"), live(alice)["td"]) == (None, 9)
    quotas.set_paces(alice, {"tokens_per_day": 10})
    save(admin, alice, form, first_name="Al")
    assert TokenLimit.objects.get(user=alice).tokens_per_day == 10


def test_an_old_page_restores_no_spent_token(admin, alice):
    quotas.set_numbers(alice, prompt=100, generated=10)
    form = form_of(admin, alice)
    quotas.add_numbers(alice, prompt=50, generated=50)
    quotas.set_limits(alice, generated=77)

    save(admin, alice, form, first_name="Al")
    assert row(alice) == (150, 10_000, 60, 77)

    save(admin, alice, form, **{"token_limit-0-prompt_token_number": "0"})
    assert row(alice) == (50, 10_000, 60, 77)


def test_an_old_page_gives_no_right_back(admin, alice, bob, root):
    bob.role = Role.ADMIN
    bob.save()
    form_of_alice, form_of_bob = form_of(admin, alice), form_of(admin, bob)
    for user, name, value in ((alice, "is_active", False), (bob, "role", Role.USER)):
        setattr(user, name, value)
        user.save()
    save(admin, alice, form_of_alice, first_name="Al")
    save(admin, bob, form_of_bob, first_name="Bo")
    alice, bob = (User.objects.get(pk=user.pk) for user in (alice, bob))
    assert (alice.first_name, alice.is_active) == ("Al", False)
    assert (bob.first_name, bob.role, bob.is_staff) == ("Bo", Role.USER, False)


def test_a_weight_is_set_and_told_and_an_old_page_leaves_it(admin, alice, client_of, committed, heard):
    caller, form = client_of(alice), form_of(admin, alice)
    assert form["weight"] == "1.0"
    with committed():
        save(admin, alice, form, weight="2.5")
    assert heard() == ["users"]
    save(admin, alice, form, first_name="Al")
    assert User.objects.get(pk=alice.pk).weight == 2.5
    assert caller.get("/api/v1/users/me").status_code == 200


@pytest.mark.parametrize("weight", ["", "0", "-1", "0.09", "100.5", "nan", "inf", "ten"])
def test_a_wrong_weight_is_refused(admin, alice, weight):
    answer = admin.post(f"{PEOPLE}{alice.pk}/change/", {**form_of(admin, alice), "weight": weight})
    assert answer.status_code == 200
    assert list(answer.context["adminform"].form.errors) == ["weight"]
    assert User.objects.get(pk=alice.pk).weight == 1


def test_a_form_without_what_was_shown_is_refused(admin, alice):
    form = {name: value for name, value in form_of(admin, alice).items() if not name.startswith("initial-")}
    answer = admin.post(f"{PEOPLE}{alice.pk}/change/", {**form, "token_limit-0-prompt_token_number": "0"})
    assert answer.status_code == 200
    assert "load it again" in answer.content.decode()


@pytest.mark.parametrize("value", ["-1", "ten", "1.5", str(quotas.MOST + 1), "9" * 400])
@pytest.mark.parametrize("name", ["prompt_token_number", "gen_token_limit"])
def test_a_wrong_number_is_refused(admin, alice, name, value):
    form = form_of(admin, alice)
    answer = admin.post(f"{PEOPLE}{alice.pk}/change/", {**form, f"token_limit-0-{name}": value})
    assert answer.status_code == 200
    assert row(alice) == (0, 10_000, 0, 1_000)


def test_role_and_activity_change_and_revoke(admin, alice, client_of):
    caller = client_of(alice)
    form = form_of(admin, alice)
    save(admin, alice, form, role="Admin")
    assert User.objects.get(pk=alice.pk).is_staff
    assert caller.post("/db_request/get_token_info/").status_code == 401


def test_an_admin_cannot_lock_themselves_out(admin, root):
    form = form_of(admin, root)
    save(admin, root, form, first_name="R")
    for changed in ({**form, "role": "User"}, {name: form[name] for name in form if name != "is_active"}):
        assert admin.post(f"{PEOPLE}{root.pk}/change/", changed).status_code == 200
    assert admin.get(f"{PEOPLE}{root.pk}/delete/").status_code == 403
    act(admin, "disable", root)
    root.refresh_from_db()
    assert (root.role, root.is_active) == (Role.ADMIN, True)


def test_an_imported_name_that_is_not_allowed_today_can_be_edited(admin, db):
    carol = User.objects.create_user("carol the third", password="x")
    save(admin, carol, form_of(admin, carol), is_active="")
    assert not User.objects.get(pk=carol.pk).is_active


def act(client: Client, action: str, *users: User, **more: str):
    body = {"action": action, "_selected_action": [user.pk for user in users], **more}
    answer = client.post(PEOPLE, body, follow=True)
    assert answer.status_code == 200
    return answer


def test_actions(admin, alice, bob, live, committed):
    live(alice)
    with committed():
        act(admin, "disable", alice, bob)
    assert User.objects.filter(is_active=False).count() == 2
    assert live(alice, load=False)["on"] == 0
    with committed():
        act(admin, "enable", alice)
        act(admin, "double_limits", alice)
    assert live(alice, load=False)["on"] == 1
    assert live(alice, load=False)["gl"] == 2_000
    assert row(alice) == (0, 20_000, 0, 2_000)
    act(admin, "make_links", bob)
    said = LogEntry.objects.order_by("pk").values_list("user__username", "object_repr", "change_message")
    assert list(said) == [
        ("root", "alice", "disabled"), ("root", "bob", "disabled"), ("root", "alice", "enabled"),
        ("root", "alice", "token limits doubled"), ("root", "bob", "link to set a password made"),
    ]  # fmt: skip


def test_limits_are_raised_by_what_is_asked_for(admin, alice, bob, live, committed):
    live(alice)
    asked = act(admin, "raise_limits", alice, bob).content.decode()
    assert "Of alice, bob." in asked
    assert act(admin, "raise_limits", alice, bob, **{"raise": "yes", "prompt": "-5"}).status_code == 200
    assert "Say by how many" in act(admin, "raise_limits", alice, **{"raise": "yes"}).content.decode()
    assert row(alice) == (0, 10_000, 0, 1_000)
    with committed():
        act(admin, "raise_limits", alice, bob, **{"raise": "yes", "generated": "500"})
    assert row(alice) == row(bob) == (0, 10_000, 0, 1_500)
    assert live(alice, load=False)["gl"] == 1_500
    act(admin, "raise_limits", alice, **{"raise": "yes", "prompt": str(quotas.MOST)})
    assert row(alice) == (0, quotas.MOST, 0, 1_500)


def test_a_user_is_deleted_with_the_conversations(admin, alice, live, committed):
    conversations.add_turn(conversations.start(alice, NOW, "Trees"), "secret", "answer", NOW)
    live(alice)
    said = admin.get(f"{PEOPLE}{alice.pk}/delete/").content
    assert b"secret" not in said
    assert b"Conversations: 1" in said
    with committed():
        assert admin.post(f"{PEOPLE}{alice.pk}/delete/", {"post": "yes"}).status_code == 302
    assert not User.objects.filter(username="alice").exists()
    assert live(alice, load=False) == {}


def test_deleting_several_tells_of_each_and_spares_oneself(admin, alice, bob, root, live, committed):
    live(bob)
    body = {"action": "delete_selected", "_selected_action": [alice.pk, bob.pk, root.pk], "post": "yes"}
    with committed():
        admin.post(PEOPLE, body)
    assert list(User.objects.values_list("username", flat=True)) == ["root"]
    assert live(bob, load=False) == {}


def test_no_page_shows_a_token_or_a_hash(admin, alice):
    token, _ = issue_tokens(alice)
    page = admin.get(f"{PEOPLE}{alice.pk}/change/").content.decode()
    assert alice.password.split("$")[-1] not in page
    assert token not in page
