"""Conversations in the database: one store for `/llm_request`, `/v1/responses` and the pages. What belongs to another
user does not exist here. Decisions: docs/decisions/0007-conversations.md."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from django.db import transaction
from django.db.models import F

from accounts.models import User
from inference.models import Conversation, ConversationCounter, Message
from vllm_portal.errors import Conflict, FieldError, NotFound

TITLE_CHARACTERS = 60
BATCH = 200
LATEST = (None, 0, -1)
"""What a client may send as the number of its latest conversation."""


def start(user: User, now: datetime, name: str = "") -> Conversation:
    """A new conversation with the user's next number, which nobody else gets, also of two that start at once."""
    with transaction.atomic():
        _take_turn(user)
        return _start(user, now, name)


def _take_turn(user: User) -> None:
    """Holds the user's counter until the transaction ends: two that start a conversation do so one after the other."""
    ConversationCounter.objects.get_or_create(user=user)
    ConversationCounter.objects.filter(user=user).update(last_number=F("last_number"))


def _start(user: User, now: datetime, name: str = "") -> Conversation:
    ConversationCounter.objects.filter(user=user).update(last_number=F("last_number") + 1)
    number = ConversationCounter.objects.values_list("last_number", flat=True).get(user=user)
    return Conversation.objects.create(user=user, number=number, name=name, created_at=now, updated_at=now)


def get(user: User, number: int | None) -> Conversation:
    """Raises NotFound."""
    conversation = Conversation.objects.filter(user=user, number=number).first()
    if conversation is None:
        raise NotFound(f"You have no conversation {number}.")
    return conversation


def latest(user: User) -> Conversation:
    """The conversation of the user's latest turn. Raises NotFound."""
    conversation = _latest(user)
    if conversation is None:
        raise NotFound("You have no conversation yet.")
    return conversation


def _latest(user: User) -> Conversation | None:
    return Conversation.objects.filter(user=user).order_by("-updated_at", "-number").first()


def latest_or_new(user: User, now: datetime) -> Conversation:
    """The conversation of the user's latest turn; made if there is none, once, also for two first prompts at once."""
    if found := _latest(user):
        return found
    with transaction.atomic():
        _take_turn(user)
        return _latest(user) or _start(user, now)


def find(user: User, number: int | None) -> Conversation | None:
    """By number; None, 0 and -1 mean the latest. None: the user has none yet; `remember` makes it, with its first turn.
    Raises NotFound."""
    return _latest(user) if number in LATEST else get(user, number)


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    """All (prompt, answer) pairs, oldest first. A message without its counterpart, which an import may have brought, is
    in no pair."""
    messages = list(conversation.messages.values_list("role", "content"))
    return [
        (prompt, answer)
        for (first, prompt), (second, answer) in pairwise(messages)
        if first == Message.Role.USER and second == Message.Role.ASSISTANT
    ]


def replace_turns(
    conversation: Conversation, keep: int | None, known: int | None, prompt: str, answer: str, now: datetime
) -> int:
    """Stores a turn behind the first `keep` turns (None: behind all), instead of those that were there; how many there
    are then. For who edits a prompt or has it answered again. `known`: as many turns there are for all the client
    knows; None: it does not say. Raises NotFound where it was deleted meanwhile, Conflict where there are not as many,
    FieldError."""
    with transaction.atomic():
        if not Conversation.objects.filter(pk=conversation.pk).update(updated_at=now):
            raise NotFound("The conversation was deleted meanwhile.")
        ends = _ends_of_turns(conversation)
        if known is not None and known != len(ends):
            raise Conflict(f"The conversation has {len(ends)} turns by now, not {known}: read it again.")
        keep = len(ends) if keep is None else keep
        if keep > len(ends):
            raise FieldError("keep", f"The conversation has {len(ends)} turns.")
        if keep < len(ends):
            replaced = Message.objects.filter(conversation=conversation)
            (replaced.filter(id__gt=ends[keep - 1]) if keep else replaced).delete()
        if not keep:
            Conversation.objects.filter(pk=conversation.pk).update(title="")  # it was made of the prompt before
        add_turn(conversation, prompt, answer, now)
        return keep + 1


def _ends_of_turns(conversation: Conversation) -> list[int]:
    """Ids of the answers of `turns`."""
    messages = list(conversation.messages.values_list("id", "role"))
    return [
        identity
        for (_, first), (identity, second) in pairwise(messages)
        if first == Message.Role.USER and second == Message.Role.ASSISTANT
    ]


def add_turn(conversation: Conversation, prompt: str, answer: str, now: datetime) -> Message | None:
    """Stores a turn as a whole and gives its answer; None: the conversation was deleted meanwhile, and nothing is
    stored. The row's lock keeps the two messages of a turn together when two turns end at once."""
    with transaction.atomic():
        if not Conversation.objects.filter(pk=conversation.pk).update(updated_at=now):
            return None
        if not Message.objects.filter(conversation=conversation).exists():
            Conversation.objects.filter(pk=conversation.pk, title="").update(title=title_of(prompt))
        return append(conversation, [(Message.Role.USER, prompt), (Message.Role.ASSISTANT, answer)], now)[-1]


def remember(user: User, found: Conversation | None, prompt: str, answer: str, now: datetime) -> Message | None:
    """As `add_turn`, for what `find` gave: where there was no conversation the turn brings it along. None: it, or the
    user, was deleted meanwhile."""
    if found is not None:
        return add_turn(found, prompt, answer, now)
    with transaction.atomic():
        if not User.objects.select_for_update(no_key=True).filter(pk=user.pk).exists():
            return None
        return add_turn(latest_or_new(user, now), prompt, answer, now)


def append(conversation: Conversation, messages: Sequence[tuple[str, str]], now: datetime) -> list[Message]:
    """Rows for (role, text), in this order. The caller holds the conversation's row."""
    return Message.objects.bulk_create(
        # PostgreSQL has no text with a null character, and a model may generate one.
        Message(conversation=conversation, role=role, content=text.replace("\x00", ""), created_at=now)
        for role, text in messages
    )


def title_of(prompt: str) -> str:
    """The first line that says something, cut at a word; "" for a prompt that says nothing."""
    line = next((line for line in prompt.replace("\x00", "").splitlines() if line.strip()), "")
    line = " ".join(line.split())
    if len(line) <= TITLE_CHARACTERS:
        return line
    cut = line[:TITLE_CHARACTERS]  # with its last character the place of the "…"
    words = cut.rpartition(" ")[0]
    return (words if words else cut[:-1]) + "…"


def rename(conversation: Conversation, name: str) -> None:
    """The user's own name for it; "" brings the title back. It does not become the latest by that."""
    Conversation.objects.filter(pk=conversation.pk).update(name=name)
    conversation.name = name


def delete_older_than(days: int, now: datetime) -> int:
    """Deletes the conversations whose latest turn is older, of all users, and says how many. In batches, so that nobody
    waits long for the database; one that gets a turn at this moment stays."""
    before, deleted = now - timedelta(days=days), 0
    while True:
        with transaction.atomic():
            old = Conversation.objects.select_for_update(skip_locked=True).filter(updated_at__lt=before)
            batch = list(old.order_by("pk").values_list("pk", flat=True)[:BATCH])
            Conversation.objects.filter(pk__in=batch).delete()
        deleted += len(batch)
        if len(batch) < BATCH:
            return deleted
