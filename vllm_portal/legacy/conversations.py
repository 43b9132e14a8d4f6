"""The original's `conversations` with their messages: each is stored whole, in one transaction, under its old id.

A conversation that is there already is compared message by message. What the file has beyond it is added; where both
have gone on, the portal's stays, and the file's rest is reported.
"""

import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import DataError, IntegrityError, transaction
from django.db.models import F, Value
from django.db.models.functions import Greatest

from inference.conversations import append, title_of
from inference.models import Conversation, ConversationCounter, Message
from vllm_portal.legacy import messages, values
from vllm_portal.legacy.message_store import MessageStore, Spoken, said
from vllm_portal.legacy.people import Owner, People
from vllm_portal.legacy.report import Report
from vllm_portal.legacy.source import Row, Source, Unreadable

TABLE = "conversations"
CONTENT = "conversations.content"
"""What the report calls the messages that older conversations hold themselves."""
NAME_LENGTH = 200
MOST_NUMBER = 10**9
"""A larger number, which no user has reached by talking, would leave no room for the next ones."""
_IDS = uuid.UUID("5a8f3c1e-7d0b-5e64-9c2a-3f1d8b6e4a70")


@dataclass(slots=True)
class Talk:
    """A row. `number` None: it has none that the portal could keep."""

    rowid: int
    owner: Owner
    session: str
    id: uuid.UUID
    number: int | None
    name: str
    began: datetime
    messages: list[Spoken] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """Of the file's messages the first `present` are in the portal already; `added` come to them. Neither holds the
    rest where both have gone on."""

    held: Conversation | None
    present: int
    added: list[messages.Said]
    is_new: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_new = self.held is None


class Refused(Exception):
    """Nothing of the conversation can be stored. Says why."""


class Conversations:
    """Reads a file's conversations into the portal, for users who are in it by now."""

    def __init__(self, people: People, store: MessageStore, report: Report, now: datetime, *, dry_run: bool) -> None:
        self._people, self._messages_of, self._report, self._now, self._dry_run = people, store, report, now, dry_run
        self._numbers: set[tuple[str, int]] = set()

    def take_over(self, source: Source, advance: Callable[[int], None]) -> None:
        by_owner: dict[str, list[Talk]] = defaultdict(list)
        seen: set[uuid.UUID] = set()
        for row in source.rows(TABLE, without="content"):
            self._report.tally(TABLE).read += 1
            try:
                talk = self._read(row)
                if talk.id in seen:
                    raise Unreadable("conversation_id is an earlier row's too")
            except Unreadable as error:
                self._report.skip(TABLE, row.rowid, str(error))
                advance(1)
                continue
            seen.add(talk.id)
            by_owner[talk.owner.username].append(talk)
        for talks in by_owner.values():
            # Free numbers are taken above all that the file has.
            largest = max((talk.number or 0 for talk in talks), default=0)
            for talk in sorted(talks, key=lambda talk: (talk.number or MOST_NUMBER, talk.rowid)):
                self._take_over(source, talk, largest)
                advance(1 + len(talk.messages))

    def _read(self, row: Row) -> Talk:
        owner = self._people.owner(row.first("user_id"))
        if owner is None:
            raise Unreadable("user_id is nobody's who was taken over")
        number = self._value(row, values.number, "conversation_number")
        session = (values.text(row.first("conversation_id")) or "").strip()
        if number is not None and (not 0 < number <= MOST_NUMBER or (owner.username, number) in self._numbers):
            number = None
        # Without an id of its own it must get the same one in each run.
        place = f"number {number}" if number is not None else f"row {row.rowid}"
        if number is not None:
            self._numbers.add((owner.username, number))
        began = self._value(row, values.time, "timestamp")
        name = values.storable(self._value(row, values.text, "conversation_name") or "")
        if len(name) > NAME_LENGTH:
            self._note(row.rowid, f"conversation_name is cut after {NAME_LENGTH} characters")
        return Talk(
            row.rowid,
            owner,
            session,
            portal_id(owner.username, session or place),
            number,
            name[:NAME_LENGTH],
            min(began, self._now) if began else self._now,
        )

    def _value(self, row: Row, read: Callable[[object], Any], column: str) -> Any:
        """None where it is missing, and with a note where it cannot be read."""
        try:
            return read(row.first(column))
        except Unreadable as error:
            self._note(row.rowid, f"{column} {error}")
            return None

    def _take_over(self, source: Source, talk: Talk, largest: int) -> None:
        talk.messages = self._messages(source, talk)
        try:
            outcome = self._compare(talk) if self._dry_run else self._store(talk, largest)
        except Refused as refusal:
            self._report.skip(TABLE, talk.rowid, str(refusal))
            for one in talk.messages:
                self._report.skip(one.table, one.rowid, "its conversation was left out")
            return
        self._count(TABLE, "new" if outcome.is_new else "changed" if outcome.added else "present")
        for at, one in enumerate(talk.messages):
            if at < outcome.present:
                self._count(one.table, "present")
            elif outcome.added:
                self._count(one.table, "new")
            else:
                self._report.skip(one.table, one.rowid, "its conversation has gone on differently in the portal")

    def _count(self, table: str, what: str) -> None:
        tally = self._report.tally(table)
        setattr(tally, what, getattr(tally, what) + 1)

    def _messages(self, source: Source, talk: Talk) -> list[Spoken]:
        """Of the conversation itself, then of the store: where both are filled, the store was the later one. What one
        of them begins with is not taken from the other again."""
        own, stored = self._own_messages(source, talk), self._messages_of.take(talk.session)
        for begins, whole in ((own, stored), (stored, own)):
            if said(whole[: len(begins)]) == said(begins):
                for one in begins:
                    self._count(one.table, "present")
                return whole
        return own + stored

    def _own_messages(self, source: Source, talk: Talk) -> list[Spoken]:
        found = []
        try:
            written = values.text(source.value(TABLE, "content", talk.rowid))
            for place, item in enumerate(messages.in_list(written), 1):
                self._report.tally(CONTENT).read += 1
                if isinstance(item, Unreadable):
                    self._report.skip(CONTENT, talk.rowid, f"message {place} of the list {item}")
                else:
                    found.append(Spoken(CONTENT, talk.rowid, *item))
        except Unreadable as error:
            self._report.problem(CONTENT, talk.rowid, f"content {error}; the conversation is taken over without it")
        return found

    def _store(self, talk: Talk, largest: int) -> Outcome:
        """Raises Refused."""
        try:
            try:
                return self._store_once(talk, largest)
            except IntegrityError:  # another import was faster
                return self._store_once(talk, largest)
        except (DataError, IntegrityError) as error:
            raise Refused(f"the portal's database refused it ({type(error).__name__})") from None

    @transaction.atomic
    def _store_once(self, talk: Talk, largest: int) -> Outcome:
        user = talk.owner.user
        ConversationCounter.objects.get_or_create(user=user)
        # Holds the user's counter until the end: numbers are given one at a time.
        ConversationCounter.objects.filter(user=user).update(last_number=Greatest(F("last_number"), Value(largest)))
        outcome = self._compare(talk)
        if outcome.is_new:
            outcome.held = self._start(talk)
        if outcome.added:
            append(outcome.held, outcome.added, talk.began)
            updated = max(outcome.held.updated_at, talk.began)
            Conversation.objects.filter(pk=outcome.held.pk).update(updated_at=updated)
        return outcome

    def _start(self, talk: Talk) -> Conversation:
        user, number = talk.owner.user, talk.number
        if number is None or Conversation.objects.filter(user=user, number=number).exists():
            ConversationCounter.objects.filter(user=user).update(last_number=F("last_number") + 1)
            number = ConversationCounter.objects.values_list("last_number", flat=True).get(user=user)
            self._note(talk.rowid, f"conversation_number is missing, unusable or taken: it is {number} in the portal")
        prompt = next((one.text for one in talk.messages if one.role == Message.Role.USER), "")
        return Conversation.objects.create(
            user=user,
            number=number,
            conversation_id=talk.id,
            name=talk.name,
            title=title_of(prompt),
            created_at=talk.began,
            updated_at=talk.began,
        )

    def _compare(self, talk: Talk) -> Outcome:
        """With what the portal holds under that id. Raises Refused."""
        told = said(talk.messages)
        rows = Conversation.objects.filter(conversation_id=talk.id)
        held = (rows if self._dry_run else rows.select_for_update()).first()
        if held is None:
            return Outcome(None, 0, told)
        if talk.owner.user is None or held.user_id != talk.owner.user.pk:
            raise Refused("conversation_id is that of another user's conversation in the portal")
        kept = list(held.messages.values_list("role", "content"))
        present = next(
            (at for at, (a, b) in enumerate(zip(told, kept, strict=False)) if a != b), min(len(told), len(kept))
        )
        return Outcome(held, present, told[present:] if present == len(kept) else [])

    def _note(self, rowid: int, why: str) -> None:
        self._report.note(TABLE, rowid, why)


def portal_id(username: str, session: str) -> uuid.UUID:
    """The original's id where it is a UUID; else one made of it, the same in each run."""
    try:
        return uuid.UUID(session)
    except ValueError:
        return uuid.uuid5(_IDS, f"{username}\n{session}")
