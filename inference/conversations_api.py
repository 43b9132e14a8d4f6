"""The `/db_request/` endpoints about conversations. An admin who names a user acts for that user, but reads nothing of
what was said: numbers and names are all that admins see of others."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from accounts import people
from accounts.models import User
from inference import conversations
from inference.conversations_serializers import (
    AddConversationSerializer,
    ConversationAddedSerializer,
    DoneSerializer,
    LatestOrNumberedSerializer,
    NumberedSerializer,
    NumbersAndNamesSerializer,
    NumbersSerializer,
    OnBehalfSerializer,
    RenamedSerializer,
    RenameSerializer,
    RetrievedSerializer,
)
from vllm_portal.rest import json_object

_RETRIEVED = {
    "user_id": "7",
    "conversation_number": 3,
    "timestamp": "2030-01-01T12:00:00Z",
    "conversation_name": "What is the capital of France?",
    "conversation_id": "1b4e28ba-2fa1-4d3b-a3f5-ef19b5a7633b",
    "messages": [
        {"role": "user", "content": "What is the capital of France?", "timestamp": "2030-01-01T12:00:05Z"},
        {"role": "assistant", "content": "Paris.", "timestamp": "2030-01-01T12:00:05Z"},
    ],
}


class _ConversationEndpoint(APIView):
    scope = "inference"
    form: type[Serializer] = OnBehalfSerializer

    def read(self, request: Request) -> tuple[User, dict[str, Any]]:
        """Whose conversations it is about, and what was given. A name in the body counts for admins only."""
        form = self.form(data=json_object(request.data))
        form.is_valid(raise_exception=True)
        name = form.validated_data.get("username")
        other = request.user.is_admin and name and name != request.user.username
        return people.find(name) if other else request.user, form.validated_data


class AddConversationView(_ConversationEndpoint):
    """Starts a conversation; its number has never been used before. Without a name it gets a title from its first
    prompt."""

    form = AddConversationSerializer

    @extend_schema(
        request=AddConversationSerializer,
        responses=ConversationAddedSerializer,
        examples=[
            OpenApiExample("Named", {"conversation_name": "Holiday plans"}, request_only=True),
            OpenApiExample(
                "Added",
                {
                    "message": "Conversation 3 was added.",
                    "conversation_id": "1b4e28ba-2fa1-4d3b-a3f5-ef19b5a7633b",
                    "conversation_number": 3,
                },
                response_only=True,
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        user, given = self.read(request)
        conversation = conversations.start(user, timezone.now(), given["conversation_name"] or "")
        return Response(
            {
                "message": f"Conversation {conversation.number} was added.",
                "conversation_id": conversation.conversation_id,
                "conversation_number": conversation.number,
            }
        )


class DeleteConversationView(_ConversationEndpoint):
    """Deletes a conversation with all that was said in it."""

    form = NumberedSerializer

    @extend_schema(
        request=NumberedSerializer,
        responses=DoneSerializer,
        examples=[OpenApiExample("Number 3", {"conversation_number": 3}, request_only=True)],
    )
    def delete(self, request: Request) -> Response:
        user, given = self.read(request)
        number = given["conversation_number"]
        conversations.get(user, number).delete()
        return Response({"message": f"Conversation {number} was deleted."})


class RetrieveConversationView(_ConversationEndpoint):
    """One of your conversations with its messages, by number or the latest. Also an admin reads only their own."""

    form = LatestOrNumberedSerializer

    only_reads = True

    @extend_schema(
        request=LatestOrNumberedSerializer,
        responses=RetrievedSerializer,
        examples=[
            OpenApiExample("Number 3", {"conversation_number": 3}, request_only=True),
            OpenApiExample("Conversation", _RETRIEVED, response_only=True),
        ],
    )
    def post(self, request: Request) -> Response:
        user, given = self.read(request)
        return _told(request, user, given["conversation_number"])


class RetrieveLatestConversationView(_ConversationEndpoint):
    """The conversation of your latest turn, with its messages."""

    only_reads = True

    @extend_schema(
        request=OnBehalfSerializer,
        responses=RetrievedSerializer,
        examples=[OpenApiExample("Conversation", _RETRIEVED, response_only=True)],
    )
    def post(self, request: Request) -> Response:
        user, _ = self.read(request)
        return _told(request, user, None)


class RenameConversationView(_ConversationEndpoint):
    """Gives a conversation a name of your own."""

    form = RenameSerializer

    @extend_schema(
        request=RenameSerializer,
        responses=RenamedSerializer,
        examples=[
            OpenApiExample(
                "Number 3", {"conversation_number": 3, "conversation_name": "Holiday plans"}, request_only=True
            )
        ],
    )
    def post(self, request: Request) -> Response:
        user, given = self.read(request)
        conversations.rename(conversations.get(user, given["conversation_number"]), given["conversation_name"])
        return Response({"success": True})


class ConversationNumbersView(_ConversationEndpoint):
    """The numbers of your conversations, oldest first."""

    only_reads = True

    @extend_schema(
        request=OnBehalfSerializer,
        responses=NumbersSerializer,
        examples=[OpenApiExample("Three", {"conversation_numbers": [1, 2, 4]}, response_only=True)],
    )
    def post(self, request: Request) -> Response:
        user, _ = self.read(request)
        return Response({"conversation_numbers": list(user.conversations.values_list("number", flat=True))})


class ConversationNamesView(_ConversationEndpoint):
    """The numbers and names of your conversations, oldest first."""

    only_reads = True

    @extend_schema(
        request=OnBehalfSerializer,
        responses=NumbersAndNamesSerializer,
        examples=[
            OpenApiExample("One", {"conversations": [{"number": 1, "name": "Holiday plans"}]}, response_only=True)
        ],
    )
    def post(self, request: Request) -> Response:
        user, _ = self.read(request)
        own = user.pk == request.user.pk
        named = [
            {"number": conversation.number, "name": conversation.shown_name if own else conversation.name}
            for conversation in user.conversations.all()
        ]
        return Response({"conversations": named})


def _told(request: Request, user: User, number: int | None) -> Response:
    if user.pk != request.user.pk:
        raise PermissionDenied("Admins see numbers and names of other people's conversations, not what was said.")
    latest = number in conversations.LATEST
    conversation = conversations.latest(user) if latest else conversations.get(user, number)
    return Response(RetrievedSerializer(conversation).data)
