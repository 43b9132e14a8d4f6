"""Conversations in the database. What belongs to another user does not exist here."""

from datetime import datetime

from django.db import transaction
from django.db.models import F

from accounts.models import User
from inference.models import Conversation, ConversationCounter, Message
from vllm_portal.errors import NotFound


def start(user: User, now: datetime, name: str = "") -> Conversation:
    """A new conversation with the user's next number, which nobody else gets, also of two that start at once."""
    with transaction.atomic():
        ConversationCounter.objects.get_or_create(user=user)
        ConversationCounter.objects.filter(user=user).update(last_number=F("last_number") + 1)
        number = ConversationCounter.objects.values_list("last_number", flat=True).get(user=user)
        return Conversation.objects.create(user=user, number=number, name=name, created_at=now, updated_at=now)


def get(user: User, number: int) -> Conversation:
    """Raises NotFound."""
    conversation = Conversation.objects.filter(user=user, number=number).first()
    if conversation is None:
        raise NotFound(f"You have no conversation {number}.")
    return conversation


def latest(user: User, now: datetime) -> Conversation:
    """The conversation of the user's latest turn; made if there is none."""
    return Conversation.objects.filter(user=user).order_by("-updated_at", "-number").first() or start(user, now)


def find(user: User, number: int | None, now: datetime) -> Conversation:
    """By number; None, 0 and -1 mean the latest. Raises NotFound."""
    return latest(user, now) if number in (None, 0, -1) else get(user, number)


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    """All (prompt, answer) pairs, oldest first."""
    messages = list(conversation.messages.values_list("role", "content"))
    return [
        (prompt, answer)
        for (first, prompt), (second, answer) in zip(messages[::2], messages[1::2], strict=False)
        if first == Message.Role.USER and second == Message.Role.ASSISTANT
    ]


def add_turn(conversation: Conversation, prompt: str, answer: str, now: datetime) -> bool:
    """Stores a turn as a whole, or, when the conversation was deleted meanwhile, not at all (False). The row's lock
    keeps the two messages of a turn together when two turns end at once."""
    with transaction.atomic():
        if not Conversation.objects.select_for_update().filter(pk=conversation.pk).update(updated_at=now):
            return False
        Message.objects.bulk_create(
            Message(conversation=conversation, role=role, content=content, created_at=now)
            for role, content in ((Message.Role.USER, prompt), (Message.Role.ASSISTANT, answer))
        )
    return True
