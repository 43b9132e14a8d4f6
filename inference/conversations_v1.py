"""`/api/v1/conversations`: your conversations, to read, rename, delete and take along."""

from typing import Any

from django.db.models import Count, QuerySet
from django.http import HttpResponse
from django.utils import timezone
from django.utils.http import content_disposition_header
from django.utils.text import slugify
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.filters import OrderingFilter, SearchFilter
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.viewsets import GenericViewSet

from inference import conversations, conversations_export
from inference.conversations_serializers import (
    ConversationSerializer,
    ExportQuerySerializer,
    ListQuerySerializer,
    MessageSerializer,
    NewTurnSerializer,
    TurnsSerializer,
    WholeConversationSerializer,
)
from inference.models import Conversation, Message
from vllm_portal.rest import json_object
from vllm_portal.v1 import Page

_ID = "1b4e28ba-2fa1-4d3b-a3f5-ef19b5a7633b"
_ONE = {
    "id": _ID,
    "number": 3,
    "name": "Holiday plans",
    "created_at": "2030-01-01T12:00:00Z",
    "updated_at": "2030-01-01T12:30:00Z",
    "message_count": 2,
}
_SAID = [
    {"role": "user", "content": "Where is it warm in January?", "created_at": "2030-01-01T12:30:00Z"},
    {"role": "assistant", "content": "In Australia.", "created_at": "2030-01-01T12:30:00Z"},
]


class AnyAccept(BaseContentNegotiation):
    """For answers whose form the address says: whatever `Accept` says, too, is no reason to refuse."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class _MessagePage(Page):
    ordering = "id"


class _Search(SearchFilter):
    """Titles are searched in one's own conversations only."""

    def get_search_fields(self, view: Any, request: Request) -> list[str]:
        return ["name"] if view.whose() != request.user.pk else ["name", "title"]


class _Ordering(OrderingFilter):
    """Ties are broken by number, which a user has once: paging needs an order without ties."""

    def get_ordering(self, request: Request, queryset: QuerySet, view: Any) -> list[str]:
        ordering = list(super().get_ordering(request, queryset, view) or ())
        return ordering if {"number", "-number"} & set(ordering) else [*ordering, "-number"]


@extend_schema_view(
    list=extend_schema(parameters=[ListQuerySerializer], examples=[OpenApiExample("One", _ONE, response_only=True)]),
    retrieve=extend_schema(examples=[OpenApiExample("One", {**_ONE, "messages": _SAID}, response_only=True)]),
    create=extend_schema(
        examples=[
            OpenApiExample("Named", {"name": "Holiday plans"}, request_only=True),
            OpenApiExample("New", {**_ONE, "message_count": 0}, response_only=True, status_codes=["201"]),
        ]
    ),
    partial_update=extend_schema(
        examples=[
            OpenApiExample("A new name", {"name": "Holiday plans"}, request_only=True),
            OpenApiExample("Renamed", _ONE, response_only=True),
        ]
    ),
    destroy=extend_schema(description="Deletes it with all that was said in it."),
)
class ConversationViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.CreateModelMixin, mixins.UpdateModelMixin,
    mixins.DestroyModelMixin, GenericViewSet,
):  # fmt: skip
    """Your conversations, latest turn first. An admin may list those of another user (`?user=<id>`): numbers and
    names, never what was said."""

    scope = "inference"
    queryset = Conversation.objects.none()
    lookup_field = "conversation_id"
    lookup_url_kwarg = "id"
    http_method_names = ["get", "post", "patch", "delete", "head", "options"]
    serializer_class = ConversationSerializer
    pagination_class = Page
    filter_backends = [_Search, _Ordering]
    ordering_fields = ["number", "created_at", "updated_at", "message_count"]
    ordering = ["-updated_at"]

    def whose(self) -> int:
        """The user whose conversations it is about: an admin's list may be another's, all else is one's own."""
        user = self.request.user
        if self.action != "list":
            return user.pk
        query = ListQuerySerializer(data=self.request.query_params)
        query.is_valid(raise_exception=True)
        return query.validated_data.get("user", user.pk)

    def get_queryset(self) -> QuerySet[Conversation]:
        if getattr(self, "swagger_fake_view", False):
            return self.queryset
        whose = self.whose()
        if whose != self.request.user.pk and not self.request.user.is_admin:
            return self.queryset
        return Conversation.objects.filter(user=whose).annotate(message_count=Count("messages"))

    def get_serializer_class(self) -> type[Serializer]:
        return WholeConversationSerializer if self.action == "retrieve" else ConversationSerializer

    def perform_create(self, serializer: Serializer) -> None:
        serializer.instance = conversations.start(self.request.user, timezone.now(), serializer.validated_data["name"])
        serializer.instance.message_count = 0

    def perform_update(self, serializer: Serializer) -> None:
        if "name" in serializer.validated_data:
            conversations.rename(serializer.instance, serializer.validated_data["name"])

    @extend_schema(
        filters=False,
        responses=MessageSerializer(many=True),
        examples=[OpenApiExample("Prompt", _SAID[0], response_only=True)],
    )
    @action(detail=True, pagination_class=_MessagePage, filter_backends=[])
    def messages(self, request: Request, id: str) -> Response:
        """What was said, oldest first, in pages."""
        rows = self.paginate_queryset(Message.objects.filter(conversation=self.get_object()))
        return self.get_paginated_response(MessageSerializer(rows, many=True).data)

    @extend_schema(
        request=NewTurnSerializer,
        responses={201: TurnsSerializer},
        filters=False,
        examples=[
            OpenApiExample(
                "Another answer in place of the second",
                {"prompt": "Where is it warm in January?", "answer": "In Australia.", "keep": 1, "turns": 2},
                request_only=True,
            ),
            OpenApiExample("Stored", {"turns": 2}, response_only=True, status_codes=["201"]),
        ],
    )
    @action(detail=True, methods=["post"], filter_backends=[], pagination_class=None)
    def turns(self, request: Request, id: str) -> Response:
        """Stores a prompt and its answer, for clients that ask engines themselves and keep what was said here."""
        form = NewTurnSerializer(data=json_object(request.data))
        form.is_valid(raise_exception=True)
        given = form.validated_data
        count = conversations.replace_turns(
            self.get_object(), given.get("keep"), given.get("turns"), given["prompt"], given["answer"], timezone.now()
        )
        return Response({"turns": count}, status=status.HTTP_201_CREATED)

    @extend_schema(
        parameters=[ExportQuerySerializer],
        responses={
            (200, "application/json"): OpenApiResponse(OpenApiTypes.OBJECT, "As GET /api/v1/conversations/<id>."),
            (200, "text/markdown"): OpenApiTypes.STR,
        },
        filters=False,
    )
    @action(detail=True, content_negotiation_class=AnyAccept, filter_backends=[], pagination_class=None)
    def export(self, request: Request, id: str) -> HttpResponse:
        """The whole conversation as a file."""
        query = ExportQuerySerializer(data=request.query_params)
        query.is_valid(raise_exception=True)
        conversation = self.get_object()
        if query.validated_data["as"] == "markdown":
            data, kind, suffix = conversations_export.as_markdown(conversation), "text/markdown; charset=utf-8", "md"
        else:
            whole = WholeConversationSerializer(conversation, context=self.get_serializer_context()).data
            data, kind, suffix = conversations_export.as_json(whole), "application/json", "json"
        answer = HttpResponse(data, content_type=kind, status=status.HTTP_200_OK)
        # Letters, digits and dashes: no name of a conversation leads a browser or a shell astray.
        name = "-".join(filter(None, [f"conversation-{conversation.number}", slugify(conversation.shown_name)[:60]]))
        answer["content-disposition"] = content_disposition_header(True, f"{name.rstrip('-')}.{suffix}")
        answer["cache-control"] = "no-store"
        return answer
