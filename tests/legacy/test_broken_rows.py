"""Whatever is in a row: it is reported, nothing is doubled or lost beside it, and the rest goes on."""

import json
import sqlite3
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import TokenLimit, User
from accounts.quotas import MOST
from inference import conversations
from inference.models import Conversation, ConversationCounter, Message
from tests.legacy.original import Original, hashed, message
from vllm_portal.legacy.report import Report
from vllm_portal.legacy.run import take_over as take_over_files

pytestmark = pytest.mark.django_db


def why(report, kind="problems"):
    return [(line["table"], line["rowid"], line["why"]) for line in report[kind]]


def said(talk):
    return [(one.role, one.content) for one in talk.messages.all()]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("{not JSON", "message is not JSON"),
        (None, "message is not JSON"),
        ("[" * 100_000, "message is not JSON"),
        (b"\xff\xfe{}", "message is not UTF-8"),
        ("[1, 2]", "message is no message"),
        ('{"type": "tool", "data": {"content": "x"}}', "message has a type that is none of human, ai, system"),
        ('{"data": {"content": "x"}}', "message has a type that is none of human, ai, system"),
        ('{"type": ["human"], "data": {"content": "x"}}', "message has a type that is none of human, ai, system"),
        ('{"type": "human", "data": {}}', "message has no content"),
        ('{"type": "human", "data": {"content": 7}}', "message has a content that is no text"),
    ],
)
def test_a_message_that_cannot_be_read(original, take_over, written, reason):
    ann = original.add_user("ann")
    talk = original.add_conversation(ann, 1, ("human", "one"), ("ai", "first"))
    rowid = original.insert("message_store", session_id=talk, message=written)
    original.say(talk, ("human", "two"), ("ai", "second"))
    code, report = take_over()
    assert (code, why(report)) == (1, [("message_store", rowid, reason)])
    assert conversations.turns(Conversation.objects.get()) == [("one", "first"), ("two", "second")]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ""),
        ("null \x00 inside", "null  inside"),
        ("half \ud800 a pair", "half \ufffd a pair"),
        ("whole \U0001f600 pair", "whole \U0001f600 pair"),
        (["one", {"type": "text", "text": "two"}], "one\ntwo"),
        ([{"type": "image_url", "image_url": "u"}], '{"type": "image_url", "image_url": "u"}'),
    ],
)
def test_a_message_that_is_unusual(original, take_over, content, text):
    talk = original.add_conversation(original.add_user("ann"), 1)
    original.say(talk, ("human", content))
    assert take_over()[0] == 0
    assert take_over()[1]["tables"]["message_store"]["present"] == 1
    assert said(Conversation.objects.get()) == [("user", text)]


@pytest.mark.parametrize("kind", ["Human", "HumanMessage", "HumanMessageChunk", "user"])
def test_a_message_type_has_several_names(original, take_over, kind):
    talk = original.add_conversation(original.add_user("ann"), 1)
    original.say(talk, (kind, "x"))
    assert take_over()[0] == 0
    assert said(Conversation.objects.get()) == [("user", "x")]


def test_messages_without_a_conversation(original, take_over):
    original.add_conversation(original.add_user("ann"), 1)
    rows = [original.insert("message_store", session_id=key, message=message("ai", "x")) for key in ("gone", None, "")]
    code, report = take_over()
    assert (code, sorted(row for _, row, _ in why(report))) == (1, rows)
    assert not Message.objects.exists()


def test_conversations_of_nobody_or_without_an_own_id(original, take_over):
    ann = original.add_user("ann")
    kept = original.add_conversation(ann, 1, ("human", "kept"))
    original.add_conversation(ann, 2, conversation_id=kept.upper())
    original.add_conversation(77, 1, ("ai", "nobody's"))
    original.add_conversation(None, 1)
    code, report = take_over()
    assert code == 1
    assert [(table, row) for table, row, _ in why(report)] == [
        ("conversations", 2), ("conversations", 3), ("conversations", 4), ("message_store", 2),
    ]  # fmt: skip
    assert said(Conversation.objects.get()) == [("user", "kept")]


@pytest.mark.parametrize("session", ["17", "a key\nwith 'anything'", "ключ"])
def test_an_id_that_is_no_uuid_becomes_one_that_stays(original, take_over, session):
    ann, ben = original.add_user("ann"), original.add_user("ben")
    original.add_conversation(ann, 1, ("human", "one"), conversation_id=session)
    original.add_conversation(ben, 1, conversation_id=None)
    assert take_over()[0] == 0
    before = set(Conversation.objects.values_list("conversation_id", flat=True))
    assert take_over()[0] == 0
    assert set(Conversation.objects.values_list("conversation_id", flat=True)) == before
    assert said(Conversation.objects.get(user__username="ann")) == [("user", "one")]


@pytest.mark.parametrize("number", [0, -3, 10**9 + 1, 10**30, None, "three", "", 1])
def test_a_number_that_cannot_be_kept_becomes_the_next_free_one(original, take_over, number):
    ann = original.add_user("ann")
    first = original.add_conversation(ann, 1)
    odd = original.add_conversation(ann, str(number) if number == 10**30 else number)
    last = original.add_conversation(ann, 5)
    for _ in range(2):
        assert take_over()[0] == 0
        numbers = {str(talk.conversation_id): talk.number for talk in Conversation.objects.all()}
        assert numbers == {first: 1, odd: 6, last: 5}
    assert ConversationCounter.objects.get().last_number == 6


@pytest.mark.parametrize(
    ("written", "kept"),
    [(-5, 0), (0, 0), (2**60, MOST), (10**30, MOST), ("12", 12), (12.9, 12), (MOST, MOST)],
)
def test_token_numbers_of_any_size_and_type(original, take_over, written, kept):
    columns = ("gen_token_limit", "prompt_token_limit", "prompt_token_number", "gen_token_number")
    original.add_user("ann", **dict.fromkeys(columns, str(written) if written == 10**30 else written))
    assert take_over()[0] == 0
    limit = TokenLimit.objects.get()
    assert [getattr(limit, column) for column in columns] == [kept] * 4


def test_what_is_no_number_is_the_default(original, take_over):
    original.add_user("ann", gen_token_limit="plenty", prompt_token_limit=None, prompt_token_number=b"\xff")
    _, report = take_over()
    limit = TokenLimit.objects.get()
    assert (limit.gen_token_limit, limit.prompt_token_limit, limit.prompt_token_number) == (1000, 10000, 0)
    assert ("users", 1, "gen_token_limit is no number") in why(report, "notes")
    assert ("users", 1, "prompt_token_number is not UTF-8") in why(report, "notes")


@pytest.mark.parametrize(
    ("columns", "role", "active"),
    [
        ({"role": "admin", "disabled": "false"}, "Admin", True),
        ({"role": " ADMIN ", "disabled": "0"}, "Admin", True),
        ({"role": "king", "disabled": None}, "User", True),
        ({"role": None, "disabled": "True"}, "User", False),
        ({"role": b"\xff", "disabled": "who knows"}, "User", False),
    ],
)
def test_roles_and_flags_in_other_spellings(original, take_over, columns, role, active):
    original.add_user("ann", **columns)
    assert take_over()[0] == 0
    ann = User.objects.get()
    assert (ann.role, ann.is_active) == (role, active)


@pytest.mark.parametrize(
    "written", [None, "", "secret-in-clear", "$pbkdf2-sha256$29000$abc$def", "$2b$31$" + "." * 53, "$2b$04$" + "z" * 53]
)
def test_a_password_that_nobody_can_check_is_none(original, take_over, written, tmp_path):
    original.add_user("ann", hashed_password=written)
    code, report = take_over()
    assert (code, User.objects.get().has_usable_password()) == (0, False)
    assert ("users", 1, "hashed_password is no bcrypt hash: an admin must set a new password") in why(report, "notes")
    assert "secret-in-clear" not in json.dumps(report)


@pytest.mark.parametrize("form", [str.encode, lambda text: f"b'{text}'"])
def test_a_password_hash_that_was_stored_as_bytes(original, take_over, form):
    written = hashed("correct horse")
    original.add_user("ann", hashed_password=form(written))
    assert take_over()[0] == 0
    assert User.objects.get().password == f"bcrypt${written}"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2024-03-01 12:30:00", datetime(2024, 3, 1, 12, 30, tzinfo=UTC)),
        ("2024-03-01T12:30:00+02:00", datetime(2024, 3, 1, 10, 30, tzinfo=UTC)),
        ("2024-03-01", datetime(2024, 3, 1, tzinfo=UTC)),
        (1709296200, datetime(2024, 3, 1, 12, 30, tzinfo=UTC)),
        ("1709296200000", datetime(2024, 3, 1, 12, 30, tzinfo=UTC)),
        ("Fri Mar  1 12:30:00 2024", datetime(2024, 3, 1, 12, 30, tzinfo=UTC)),
        ("Fri, 01 Mar 2024 12:30:00 +0000", datetime(2024, 3, 1, 12, 30, tzinfo=UTC)),
        ("01/03/2024 12:30:00", datetime(2024, 3, 1, 12, 30, tzinfo=UTC)),
    ],
)
def test_times_in_several_forms(original, take_over, written, read):
    original.add_conversation(original.add_user("ann", timestamp=written), 1, timestamp=written)
    assert take_over()[0] == 0
    assert User.objects.get().date_joined == Conversation.objects.get().created_at == read


@pytest.mark.parametrize("written", [None, "", "once", "0001-01-01T00:00:00+14:00", 1e300, "inf", "9999-12-31", -1e30])
def test_a_time_that_is_none_or_to_come_is_now(original, take_over, written):
    before = datetime.now(UTC)
    original.add_conversation(original.add_user("ann"), 1, timestamp=written)
    assert take_over()[0] == 0
    assert before <= Conversation.objects.get().created_at <= datetime.now(UTC)


def test_a_damaged_file_gives_what_can_be_read(original, take_over):
    ann = original.add_user("ann")
    talk = original.add_conversation(ann, 1)
    for number in range(200):
        original.say(talk, ("human", f"{number} " * 200))
    size = original.memory.stat().st_size
    with original.memory.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xee" * 8192)
    code, report = take_over()
    assert code == 1
    assert any("damaged" in line or "cannot be read" in line for _, _, line in why(report))
    assert User.objects.get().username == "ann"
    assert Conversation.objects.get().number == 1


_ANY = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.binary(),
    st.sampled_from(["1", "ann", "Ann ", "admin", '{"type": "human", "data": {"content": ""}}', '["a"]']),
)  # fmt: skip
_USER = st.fixed_dictionaries(
    {"username": _ANY, "hashed_password": _ANY, "disabled": _ANY, "role": _ANY, "gen_token_limit": _ANY}
    | {"prompt_token_number": _ANY, "timestamp": _ANY}
)
_TALK = st.fixed_dictionaries(
    {"user_id": st.one_of(st.integers(1, 3), _ANY), "conversation_number": _ANY, "timestamp": _ANY}
    | {"conversation_name": _ANY, "conversation_id": _ANY}
)
_MESSAGE = st.fixed_dictionaries({"session_id": _ANY, "message": _ANY})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(users=st.lists(_USER, max_size=4), talks=st.lists(_TALK, max_size=5), messages=st.lists(_MESSAGE, max_size=5))
def test_whatever_is_in_the_rows_each_has_one_fate(tmp_path_factory, now, users, talks, messages):
    files = Original(tmp_path_factory.mktemp("any"))
    files.run(
        files.users, "DROP TABLE users", "CREATE TABLE users (id INTEGER PRIMARY KEY, " + ", ".join(_COLUMNS) + ")"
    )
    for table, rows in (("users", users), ("conversations", talks), ("message_store", messages)):
        for row in rows:
            try:
                files.insert(table, **row)
            except (UnicodeEncodeError, sqlite3.DatabaseError):
                continue
    counts = []
    for _ in range(2):
        report = Report()
        take_over_files(
            files.users, files.memory, report, now, update=False, dry_run=False, advance=lambda done, total: None
        )
        assert report.lines()
        for tally in report.tables.values():
            assert tally.read == tally.new + tally.present + tally.changed + tally.skipped + tally.not_ours
        counts.append((User.objects.count(), Conversation.objects.count(), Message.objects.count()))
    assert counts[0] == counts[1]
    assert not any(tally.new or tally.changed for tally in report.tables.values())
    User.objects.all().delete()


_COLUMNS = ("username", "hashed_password", "disabled", "role", "gen_token_limit", "prompt_token_number", "timestamp")
