"""What was in the original's files is in the portal, once."""

import shutil
import sqlite3
from datetime import UTC, datetime
from functools import partial

import pytest
from django.contrib.auth import authenticate

from accounts.auth import log_in
from accounts.models import User
from inference import conversations
from inference.models import Conversation, ConversationCounter
from tests.legacy.original import CONVERSATIONS, MESSAGES, Original
from tests.threads import at_once
from vllm_portal import settings as real_settings
from vllm_portal.errors import OperatorError
from vllm_portal.legacy.report import Report
from vllm_portal.legacy.run import take_over as take_over_files

pytestmark = pytest.mark.django_db


def said(talk):
    return [(message.role, message.content) for message in talk.messages.all()]


def fill(original) -> None:
    """Two people, three conversations, six messages."""
    ann = original.add_user("ann", prompt_token_number=7, gen_token_number=8)
    ben = original.add_user("ben", role="Admin", disabled=1)
    original.add_conversation(ann, 1, ("human", "hello"), ("ai", "hi"), ("human", "again?"), ("ai", "again"))
    original.add_conversation(ann, 4)
    original.add_conversation(ben, 1, ("human", "who?"), ("ai", "me"))


def test_people_come_with_what_they_had(original, take_over):
    original.add_user(
        "ann", role="Admin", gen_token_limit=11, prompt_token_limit=12, gen_token_number=13, prompt_token_number=14
    )
    original.add_user("ben", disabled=1)
    assert take_over()[0] == 0
    ann, ben = User.objects.get(username="ann"), User.objects.get(username="ben")
    assert (ann.role, ann.is_active, ann.is_staff) == ("Admin", True, True)
    assert (ben.role, ben.is_active, ben.is_staff) == ("User", False, False)
    limit = ann.token_limit
    assert (limit.gen_token_limit, limit.prompt_token_limit) == (11, 12)
    assert (limit.gen_token_number, limit.prompt_token_number) == (13, 14)
    assert ann.date_joined == datetime(2024, 3, 1, 12, 30, 0, 123456, UTC)


def test_passwords_go_on_working_and_get_the_portals_own_hash_at_the_next_login(original, take_over, settings):
    settings.PASSWORD_HASHERS = real_settings.PASSWORD_HASHERS
    original.add_user("ann", "grüße an alle")
    take_over()
    assert User.objects.get().password.startswith("bcrypt$$2b$")
    assert authenticate(username="ann", password="grüße an allen") is None
    assert log_in("ann", "grüße an alle").username == "ann"
    upgraded = User.objects.get().password
    assert upgraded.startswith("pbkdf2_sha256$")
    take_over()
    assert User.objects.get().password == upgraded
    assert log_in("ann", "grüße an alle").username == "ann"


def test_of_a_long_password_only_what_the_original_looked_at_counts(original, take_over, settings):
    """bcrypt reads 72 bytes; the original's left the rest out without a word."""
    settings.PASSWORD_HASHERS = real_settings.PASSWORD_HASHERS
    original.add_user("ann", "x" * 72)
    take_over()
    assert authenticate(username="ann", password="x" * 71) is None
    assert log_in("ann", "x" * 100).username == "ann"


def test_conversations_come_with_their_messages_in_order(original, take_over):
    ann = original.add_user("ann")
    first = original.add_conversation(ann, 1, ("system", "Be brief."), ("human", "one"), ("ai", "first"))
    second = original.add_conversation(ann, 2, ("human", "zwei\nZeilen"), conversation_name=None)
    original.say(first, ("human", "two"))
    original.say(second, ("ai", "answer"))
    original.say(first, ("ai", "second"))
    assert take_over()[0] == 0
    one, two = Conversation.objects.order_by("number")
    assert [str(one.conversation_id), str(two.conversation_id)] == [first, second]
    assert (one.name, two.name, two.title) == ("Talk 1", "", "zwei")
    assert one.created_at == one.updated_at == datetime(2024, 3, 1, 12, 30, 0, 123456, UTC)
    assert conversations.turns(one) == [("one", "first"), ("two", "second")]
    assert said(one)[0] == ("system", "Be brief.")
    assert said(two) == [("user", "zwei\nZeilen"), ("assistant", "answer")]


def test_the_next_conversation_gets_a_number_above_the_imported_ones(original, take_over):
    fill(original)
    take_over()
    ann = User.objects.get(username="ann")
    assert ConversationCounter.objects.get(user=ann).last_number == 4
    assert conversations.start(ann, datetime.now(UTC)).number == 5


def test_a_second_run_changes_nothing(original, take_over, everything):
    fill(original)
    code, first = take_over()
    assert (code, first["tables"]["message_store"]["new"], first["tables"]["conversations"]["new"]) == (0, 6, 3)
    before = everything()
    code, second = take_over()
    assert (code, everything()) == (0, before)
    assert {table: (tally["new"], tally["changed"]) for table, tally in second["tables"].items()} == {
        "users": (0, 0), "conversations": (0, 0), "message_store": (0, 0),
    }  # fmt: skip
    assert second["tables"]["message_store"]["present"] == 6


def test_a_dry_run_stores_nothing_and_says_what_a_real_one_does(original, take_over, everything):
    fill(original)
    original.add_conversation(99, 1, ("human", "nobody's"))
    before = everything()
    code, dry = take_over("--dry-run")
    assert (everything(), dry["dry_run"]) == (before, True)
    assert take_over() == (code, {**dry, "dry_run": False})
    assert code == 1


@pytest.mark.parametrize("rows", range(9))
def test_a_run_that_was_cut_off_is_run_again(original, take_over, everything, now, rows):
    fill(original)
    done = 0

    def cut_off(at: int, total: int) -> None:
        nonlocal done
        done = at
        if at >= rows:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_over_files(original.users, original.memory, Report(), now, update=False, dry_run=False, advance=cut_off)
    assert done >= rows
    assert take_over()[0] == 0
    resumed = everything()
    User.objects.all().delete()
    take_over()
    assert [user[0] for user in resumed["users"]] == ["ann", "ben"]
    assert resumed["talks"] == everything()["talks"]


@pytest.mark.django_db(transaction=True)
def test_two_imports_at_once_store_everything_once(original, everything, now):
    for name in ("ann", "ben", "cid"):
        user = original.add_user(name)
        for number in range(1, 6):
            original.add_conversation(user, number, ("human", f"{number}?"), ("ai", f"{number}!"))
    reports = [Report(), Report()]

    def run(report):
        take_over_files(
            original.users, original.memory, report, now, update=False, dry_run=False, advance=lambda *done: None
        )

    at_once(*[partial(run, report) for report in reports])
    assert [report.problems for report in reports] == [[], []]
    for table, rows in (("users", 3), ("conversations", 15), ("message_store", 30)):
        tallies = [report.tables[table] for report in reports]
        assert sum(tally.new for tally in tallies) == rows
        assert [tally.new + tally.present for tally in tallies] == [rows, rows]
    talks = everything()["talks"].values()
    assert sorted((talk[0], talk[1]) for talk in talks) == [
        (name, number) for name in ("ann", "ben", "cid") for number in range(1, 6)
    ]
    assert all(talk[-1] == [("user", f"{talk[1]}?"), ("assistant", f"{talk[1]}!")] for talk in talks)


def test_what_grows_in_the_files_grows_in_the_portal(original, take_over):
    ann = original.add_user("ann")
    talk = original.add_conversation(ann, 1, ("human", "one"), ("ai", "first"))
    take_over()
    original.say(talk, ("human", "two"), ("ai", "second"))
    original.add_conversation(ann, 2)
    code, report = take_over()
    assert (code, report["tables"]["conversations"]["changed"], report["tables"]["message_store"]["new"]) == (0, 1, 2)
    assert conversations.turns(Conversation.objects.get(number=1)) == [("one", "first"), ("two", "second")]
    assert Conversation.objects.count() == 2


def test_what_has_grown_in_the_portal_stays(original, take_over, now):
    ann = original.add_user("ann")
    talk = original.add_conversation(ann, 1, ("human", "one"), ("ai", "first"))
    take_over()
    held = Conversation.objects.get()
    conversations.add_turn(held, "here", "answer", now)
    conversations.rename(held, "My own name")
    assert take_over()[0] == 0
    original.say(talk, ("human", "there"), ("ai", "other"))
    code, report = take_over()
    assert (code, report["tables"]["message_store"]["skipped"]) == (1, 2)
    held.refresh_from_db()
    assert (held.name, conversations.turns(held)) == ("My own name", [("one", "first"), ("here", "answer")])


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_the_files_stay_as_they_are(original, take_over, mode):
    fill(original)
    for file in (original.users, original.memory):
        original.run(file, f"PRAGMA journal_mode={mode}")

    def state():
        folder = original.users.parent
        files = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
        return files, folder.stat().st_mtime_ns  # also no file comes and goes

    original.users.chmod(0o400)
    original.users.parent.chmod(0o500)
    before = state()
    try:
        assert take_over()[0] == 0
        assert state() == before
    finally:
        original.users.parent.chmod(0o700)


def test_what_is_still_in_the_files_log_is_read_too(original, take_over, tmp_path):
    """A service that was killed leaves its last writes beside the file; reading them must not move them into it."""
    database = sqlite3.connect(original.memory)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("SELECT count(*) FROM message_store").fetchone()  # whoever has it open keeps the log beside it
    ann = original.add_user("ann")
    talk = original.add_conversation(ann, 1)
    original.say(talk, ("human", "late"), ("ai", "but here"))
    killed = Original(tmp_path / "killed")
    for file in original.users.parent.iterdir():
        shutil.copy(file, killed.users.parent)
    database.close()
    before = {file.name: file.read_bytes() for file in killed.users.parent.iterdir()}
    assert len(before["memory.db-wal"]) > 0
    assert take_over(files=killed)[0] == 0
    assert conversations.turns(Conversation.objects.get()) == [("late", "but here")]
    assert {file.name: file.read_bytes() for file in killed.users.parent.iterdir()} == before


def test_engines_are_counted_and_left_alone(original, take_over):
    original.insert("vllm_engines", engine_name="vllm_1", container_id="abc", model_name="m", user_id=1)
    code, report = take_over()
    assert (code, report["tables"]["vllm_engines"]["not_ours"]) == (0, 1)


def test_one_file_may_hold_everything(original, take_over, tmp_path):
    ann = original.add_user("ann")
    talk = original.add_conversation(ann, 1)
    original.run(original.users, MESSAGES)
    database = sqlite3.connect(original.users)
    with database:
        database.execute(
            "INSERT INTO message_store (session_id, message) VALUES (?, ?)",
            [talk, '{"type": "human", "data": {"content": "x"}}'],
        )
    database.close()
    assert take_over(memory=False)[0] == 0
    assert said(Conversation.objects.get()) == [("user", "x")]


@pytest.mark.parametrize("missing", ["nothing there", "no database", "a folder", "empty", "of something else"])
def test_what_is_no_file_of_the_original_is_refused(take_over, original, tmp_path, missing):
    original.users = tmp_path / "file"
    if missing == "no database":
        original.users.write_bytes(b"not a database, whatever its name says " * 100)
    elif missing == "a folder":
        original.users.mkdir()
    elif missing == "empty":
        original.users.touch()
    elif missing == "of something else":
        original.run(original.users, "CREATE TABLE recipes (id INTEGER)")
    with pytest.raises(OperatorError, match=r"file (cannot be read|has none of the tables)"):
        take_over()
    assert not User.objects.exists()


def test_a_memory_file_without_messages_is_refused_before_anything_is_stored(original, take_over):
    original.add_user("ann")
    original.run(original.memory, "DROP TABLE message_store", CONVERSATIONS)
    with pytest.raises(OperatorError, match="has no table message_store"):
        take_over()
    assert not User.objects.exists()
