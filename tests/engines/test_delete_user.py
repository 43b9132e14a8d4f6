"""DELETE /db_request/delete_user/ and POST /api/v1/users/<id>/remove."""

import pytest

from accounts.models import User
from engines import leaving
from engines.models import Engine, Leaving
from engines.states import State
from tests.engines.conftest import NOW

pytestmark = pytest.mark.django_db(transaction=True)

DELETE = "/db_request/delete_user/"


@pytest.fixture
def delete(client_of, people):
    return lambda body, by="root": client_of(people[by]).delete(DELETE, body, format="json")


def test_a_user_without_engines_is_gone_at_once(delete, people):
    answer = delete({"username": "bob"})
    assert (answer.status_code, answer.json()) == (200, {"message": "bob was removed."})
    assert not User.objects.filter(username="bob").exists()
    assert not Leaving.objects.exists()
    assert delete({"username": "bob"}).status_code == 404


def test_engines_are_stopped_first_and_keep_their_history(delete, people, setting, engine_in):
    setting(stop_wait_seconds=0.2)
    engine = engine_in(State.READY, owner=people["bob"])
    ended = engine_in(State.FAILED, owner=people["bob"])
    answer = delete({"username": "bob"})
    assert answer.status_code == 202
    bob = User.objects.get(username="bob")
    assert not bob.is_active
    assert Engine.objects.get(pk=engine.pk).desired == "stop"

    assert leaving.finish() == 0  # the engine has not ended
    from engines import lifecycle

    engine.refresh_from_db()
    assert lifecycle.stopped(engine, NOW)
    assert leaving.finish() == 1
    assert not User.objects.filter(username="bob").exists()
    assert set(Engine.objects.values_list("pk", "owner")) == {(engine.pk, None), (ended.pk, None)}


def test_an_engine_that_slipped_through_is_stopped_too(delete, people, setting, engine_in):
    setting(stop_wait_seconds=0.1)
    engine_in(State.READY, owner=people["bob"])
    delete({"username": "bob"})
    late = engine_in(State.READY, owner=people["bob"])
    leaving.finish()
    assert Engine.objects.get(pk=late.pk).desired == "stop"


def test_a_leaving_users_token_counts_no_more(delete, client_of, people, setting, engine_in):
    setting(stop_wait_seconds=0.1)
    engine_in(State.READY, owner=people["bob"])
    bobs = client_of(people["bob"])
    assert bobs.get("/active_models").status_code == 200
    delete({"username": "bob"})
    assert bobs.get("/active_models").status_code == 401


def test_nobody_removes_themselves_or_is_no_admin(delete, people, client_of):
    assert delete({"username": "root"}).status_code == 400
    assert delete({"username": "bob"}, by="alice").status_code == 403
    assert delete({}).json() == {"username": ["This field is required."]}
    assert delete({"username": 7}).status_code == 400
    assert client_of(people["root"]).delete(DELETE, "[]", content_type="application/json").status_code == 400


def test_an_admin_may_remove_another_one(delete, people):
    User.objects.create_user("second", password=None, role="Admin")
    assert delete({"username": "second"}).status_code == 200


def test_the_last_admin_stays(people):
    with pytest.raises(leaving.CallerError, match="last admin"):
        leaving.remove(people["root"], people["alice"], NOW, 0)


def test_the_same_by_id(client_of, people):
    root = client_of(people["root"])
    assert root.post(f"/api/v1/users/{people['bob'].pk}/remove").status_code == 200
    assert root.post(f"/api/v1/users/{people['bob'].pk}/remove").status_code == 404
    assert client_of(people["alice"]).post(f"/api/v1/users/{people['root'].pk}/remove").status_code == 403
