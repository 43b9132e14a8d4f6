"""Answers of `/v1/responses` in the database: each is a turn of a conversation like any other, and has beside it what
is needed to go on from it. Synchronous; the data plane calls it in its database thread.

    a conversation   turn  turn  turn*  turn*        * with a StoredResponse
    going on from its last turn                      a turn more
    going on from an earlier one                     a new conversation: copies of the turns up to it, and the new turn
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from django.db import transaction

from accounts.models import User
from inference import conversations
from inference.models import Conversation, Message, StoredResponse
from inference.responses_items import ItemTurn, of_text
from vllm_portal.errors import NotFound


@dataclass(frozen=True, slots=True)
class Past:
    """A response that a request goes on from. `turns`: the JSON lists of items of all turns up to it, oldest first."""

    conversation_id: int
    answer_id: int
    turns: list[str]


def recall(user_id: int, response_id: str) -> Past:
    """Raises NotFound."""
    response = _get(user_id, response_id)
    messages = list(
        Message.objects.filter(conversation=response.conversation_id, id__lte=response.answer_id).values_list(
            "id", "role", "content"
        )
    )
    items = dict(StoredResponse.objects.filter(conversation=response.conversation_id).values_list("answer_id", "items"))
    turns = [
        items.get(identity) or of_text(prompt, answer)
        for (_, first, prompt), (identity, second, answer) in pairwise(messages)
        if first == Message.Role.USER and second == Message.Role.ASSISTANT
    ]
    return Past(response.conversation_id, response.answer_id, turns)


def store(
    user_id: int, past: Past | None, turns: Sequence[ItemTurn], response_id: str, body: str, now: datetime
) -> bool:
    """Stores what a request said, in turns of which the last one has the answer, as a whole. False: what it went on
    from was deleted meanwhile, or the user was, and nothing is stored."""
    with transaction.atomic():
        user = User.objects.filter(pk=user_id).first()
        conversation = _place(user, past, now) if user else None
        if conversation is None:
            return False
        for turn in turns:
            answer = conversations.add_turn(conversation, turn.prompt, turn.answer, now)
            last = turn is turns[-1]
            StoredResponse.objects.create(
                user=user,
                conversation=conversation,
                answer=answer,
                items=turn.items,
                response_id=response_id if last else None,
                body=body if last else "",
                created_at=now,
            )
    return True


def _place(user: User, past: Past | None, now: datetime) -> Conversation | None:
    """Where the next turn goes; None: nowhere. Of two requests that go on from the same response at once, one finds
    that it is the latest no longer."""
    if past is None:
        return conversations.start(user, now)
    conversation = Conversation.objects.select_for_update().filter(pk=past.conversation_id, user=user).first()
    if conversation is None:
        return None
    later = Message.objects.filter(conversation=conversation, id__gt=past.answer_id)
    if not Message.objects.filter(conversation=conversation, id=past.answer_id).exists():
        return None
    return _branch(conversation, past.answer_id, now) if later.exists() else conversation


def _branch(origin: Conversation, answer_id: int, now: datetime) -> Conversation:
    """A copy of the turns up to an answer. The copied responses keep their ids where they are."""
    branch = conversations.start(origin.user, now)
    Conversation.objects.filter(pk=branch.pk).update(title=origin.title)
    old = list(Message.objects.filter(conversation=origin, id__lte=answer_id))
    new = Message.objects.bulk_create(
        Message(conversation=branch, role=message.role, content=message.content, created_at=message.created_at)
        for message in old
    )
    copy_of = {message.pk: copy for message, copy in zip(old, new, strict=True)}
    StoredResponse.objects.bulk_create(
        StoredResponse(
            user=origin.user,
            conversation=branch,
            answer=copy_of[response.answer_id],
            items=response.items,
            created_at=response.created_at,
        )
        for response in origin.responses.filter(answer_id__lte=answer_id)
    )
    return branch


def body_of(user_id: int, response_id: str) -> str:
    """The response object's JSON. Raises NotFound."""
    return _get(user_id, response_id).body


def delete(user_id: int, response_id: str) -> None:
    """Its turn goes with it, and a conversation that has none left. Copies in branches stay. Raises NotFound."""
    with transaction.atomic():
        place = _get(user_id, response_id).conversation_id
        list(Conversation.objects.select_for_update().filter(pk=place).values_list("pk"))
        response = _get(user_id, response_id)  # with the lock: of two that delete it, one finds it gone
        said = Message.objects.filter(conversation=place)
        prompt = said.filter(id__lt=response.answer_id).order_by("id").last()
        said.filter(id=response.answer_id).delete()
        if prompt and prompt.role == Message.Role.USER:
            prompt.delete()
        if not said.exists():
            Conversation.objects.filter(pk=place).delete()


def _get(user_id: int, response_id: str) -> StoredResponse:
    response = None
    if "\x00" not in response_id:  # which PostgreSQL does not take
        response = StoredResponse.objects.filter(user=user_id, response_id=response_id).first()
    if response is None:
        raise NotFound(f"Response with id '{response_id[:100]}' not found.")
    return response
