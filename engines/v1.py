"""`/api/v1/engines`: the engines, as resources."""

import uuid
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpResponse, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts import people
from accounts.models import User
from engines import (
    engine_logs,
    idempotency,
    log_stream,
    recipes,
    retrying,
    sharing,
    starting,
    terminating,
    terms,
    waking,
)
from engines.models import Engine, EngineEvent
from engines.order_serializers import (
    EngineChangeSerializer,
    EngineOrderSerializer,
    EngineRetrySerializer,
    ExtensionSerializer,
)
from engines.preflight import Order
from engines.states import FINAL, GROWING
from engines.v1_examples import ACCEPTED, ONE
from engines.v1_serializers import (
    EngineEventSerializer,
    EngineFilter,
    EngineResourceSerializer,
    LogQuerySerializer,
    StopQuerySerializer,
    validated,
)
from vllm_portal.errors import FieldError, NotFound
from vllm_portal.rest import json_object
from vllm_portal.v1 import Ordering, Page

SHARING = ("shared", "shared_users", "shared_groups")
_PRIVATE = {"shared": False, "shared_users": [], "shared_groups": []}
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    location=OpenApiParameter.HEADER,
    description="The same key with the same body is, for 24 hours, the same engine; with another: 422.",
)


class _Any(BaseContentNegotiation):
    """For answers whose form the address says: whatever `Accept` says, too, is no reason to refuse."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class _EventPage(Page):
    ordering = "id"


@extend_schema_view(list=extend_schema(examples=[ONE]), retrieve=extend_schema(examples=[ONE]))
class EngineViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet):
    """Engines in any state: your own and those shared with you; for admins all. Events and logs: of your own."""

    queryset = Engine.objects.none()
    serializer_class = EngineResourceSerializer
    filterset_class = EngineFilter
    filter_backends = [*GenericViewSet.filter_backends[:1], Ordering]
    pagination_class = Page
    ordering_fields = ["created_at", "name", "state"]
    ordering = ["-created_at", "-id"]
    lookup_value_regex = "[0-9a-f-]{36}"

    def get_queryset(self) -> QuerySet[Engine]:
        reading = self.action in ("list", "retrieve")
        engines = Engine.objects.usable_by if reading else Engine.objects.owned_by
        rows = engines(self.request.user).select_related("owner", "recipe")
        return rows.prefetch_related("events", "shared_users", "shared_groups")

    def get_object(self) -> Engine:
        engine = self.get_queryset().filter(pk=self.kwargs["pk"]).first() if _is_id(self.kwargs["pk"]) else None
        if engine is None:
            raise NotFound("There is no such engine among yours.")
        return engine

    @extend_schema(
        request=EngineOrderSerializer,
        responses={202: EngineResourceSerializer},
        parameters=[IDEMPOTENCY_KEY],
        examples=[
            OpenApiExample("A small model", {"model": "facebook/opt-125m", "max_model_len": 1024}, request_only=True),
            ACCEPTED,
        ],
    )
    def create(self, request: Request) -> Response:
        """Starts an engine. The answer is there at once; `Location` says where to see how it comes up."""
        form = EngineOrderSerializer(data=json_object(request.data), context={"request": request})
        form.is_valid(raise_exception=True)
        return _start(request, form, owner_of(request, form.validated_data))

    @extend_schema(
        request=EngineRetrySerializer,
        responses={202: EngineResourceSerializer, 409: OpenApiResponse(description="It has not ended.")},
        parameters=[IDEMPOTENCY_KEY],
        examples=[
            OpenApiExample("With the change that the engine names", {}, request_only=True),
            OpenApiExample("With another one", {"max_model_len": 2048}, request_only=True),
        ],
        filters=False,
    )
    @action(detail=True, methods=["post"], pagination_class=None, filter_backends=[])
    def retry(self, request: Request, pk: str) -> Response:
        """Starts an engine that has ended once more, as a new one of the same owner: with the same options, changed by
        its `change` and by what the body names."""
        engine = self.get_object()
        if engine.state not in FINAL:
            detail = f"The engine is {engine.state}; only one that has ended can be started once more."
            return Response({"detail": detail}, status=status.HTTP_409_CONFLICT)
        given = json_object(request.data)
        form = EngineOrderSerializer(data=retrying.form(engine, given), context={"request": request})
        form.is_valid(raise_exception=True)
        return _start(request, form, engine.owner or request.user, engine)

    @extend_schema(
        request=EngineChangeSerializer,
        examples=[
            ONE,
            OpenApiExample("With some", {"shared_users": ["bob"], "shared_groups": ["nlp"]}, request_only=True),
            OpenApiExample("With nobody", _PRIVATE, request_only=True),
        ],
    )
    def partial_update(self, request: Request, pk: str) -> Response:
        """Changes who may send requests to the engine, which counts from the next request on while an answer that has
        begun goes on, and how long it may be idle. All else of an engine is as it was started."""
        given = validated(EngineChangeSerializer, json_object(request.data))
        engine = self.get_object()
        shared = {name: given.pop(name) for name in SHARING if name in given}
        with transaction.atomic():
            terms.change(engine, timezone.now(), request.user, given)
            sharing.change(engine, **shared)
        return Response(EngineResourceSerializer(self.get_object(), context={"request": request}).data)

    @extend_schema(
        request=ExtensionSerializer,
        responses={200: EngineResourceSerializer},
        examples=[ONE, OpenApiExample("Until tonight", {"hours": 8}, request_only=True)],
    )
    @action(detail=True, methods=["post"], filterset_class=None)
    def extend(self, request: Request, pk: str) -> Response:
        """Its lease ends so many hours from now."""
        given = validated(ExtensionSerializer, json_object(request.data))
        terms.extend(self.get_object(), given["hours"], timezone.now(), request.user)
        return Response(EngineResourceSerializer(self.get_object(), context={"request": request}).data)

    @extend_schema(
        request=None,
        responses={202: EngineResourceSerializer, 409: OpenApiResponse(description="It does not sleep.")},
        examples=[ONE],
        filters=False,
    )
    @action(detail=True, methods=["post"], filterset_class=None)
    def wake(self, request: Request, pk: str) -> Response:
        """Wakes an engine that sleeps, as a request to it would. One that wakes already is no error."""
        engine = self.get_object()
        woken = waking.wake(engine, str(request.user))
        engine = self.get_object()
        if not woken and engine.state not in GROWING:
            return Response({"detail": f"The engine is {engine.state}."}, status=status.HTTP_409_CONFLICT)
        body = EngineResourceSerializer(engine, context={"request": request}).data
        return Response(body, status=status.HTTP_202_ACCEPTED)

    @extend_schema(parameters=[StopQuerySerializer], responses={202: EngineResourceSerializer, 204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Ends an engine: 202 while it is ending, 204 when it has ended. It gets no more requests, and what it answers
        may end first, for `stop_drain_seconds` of the settings at most."""
        engine = self.get_object()
        at_once = validated(StopQuerySerializer, request.query_params)["now"]
        terminating.request_terminate(engine, request.user, at_once)
        engine.refresh_from_db()
        if engine.state in FINAL:
            return Response(status=status.HTTP_204_NO_CONTENT)
        return Response(
            EngineResourceSerializer(engine, context={"request": request}).data, status=status.HTTP_202_ACCEPTED
        )

    @extend_schema(responses=EngineEventSerializer(many=True), filters=False)
    @action(detail=True, pagination_class=_EventPage, filter_backends=[], serializer_class=EngineEventSerializer)
    def events(self, request: Request, pk: str) -> Response:
        """What happened to the engine, oldest first."""
        page = self.paginate_queryset(EngineEvent.objects.filter(engine=self.get_object()))
        return self.get_paginated_response(EngineEventSerializer(page, many=True).data)

    @extend_schema(
        parameters=[LogQuerySerializer],
        responses={(200, "text/plain"): OpenApiTypes.STR},
        filters=False,
    )
    @action(detail=True, pagination_class=None, filter_backends=[], content_negotiation_class=_Any)
    def logs(self, request: Request, pk: str) -> HttpResponse:
        """What the engine has written, without secrets; of a long log the first and last parts."""
        wish = validated(LogQuerySerializer, request.query_params)
        engine = self.get_object()
        text = engine_logs.read(engine)
        if search := wish.get("search", "").casefold():
            text = "".join(line for line in text.splitlines(keepends=True) if search in line.casefold())
        if tail := wish.get("tail"):
            text = "".join(text.splitlines(keepends=True)[-tail:])
        answer = HttpResponse(text, content_type="text/plain; charset=utf-8")
        if wish["download"]:
            answer["Content-Disposition"] = f'attachment; filename="{engine.name}.log"'
        return answer

    @extend_schema(
        parameters=[
            OpenApiParameter("Last-Event-ID", int, OpenApiParameter.HEADER, description="Go on behind that event.")
        ],
        responses={(200, "text/event-stream"): OpenApiTypes.STR, 429: OpenApiResponse(description="Too many streams.")},
        filters=False,
    )
    @action(
        detail=True, url_path="logs/stream", pagination_class=None, filter_backends=[], content_negotiation_class=_Any
    )
    def log_stream(self, request: Request, pk: str) -> HttpResponse | StreamingHttpResponse:
        """The log as server-sent events while it is written; `event: end` when the engine has ended."""
        engine = self.get_object()
        told = request.headers.get("last-event-id", "0")
        try:
            events = log_stream.follow(engine.pk, request.user.pk, int(told) if told.isdecimal() else 0)
        except log_stream.TooManyStreams as error:
            return Response({"detail": str(error)}, status=status.HTTP_429_TOO_MANY_REQUESTS)
        answer = StreamingHttpResponse(events, content_type="text/event-stream; charset=utf-8")
        answer["cache-control"] = "no-cache"
        return answer


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def owner_of(request: Request, given: dict[str, Any]) -> User:
    """The caller, or whom an admin names. Raises NoSuchUser."""
    username = given.get("username")
    return people.find(username) if username and username != request.user.username else request.user


def _start(request: Request, form: EngineOrderSerializer, owner: User, like: Engine | None = None) -> Response:
    """Of a form that is valid. `like`: the engine that is started once more."""
    order = form.order()
    try:
        return start_order(request, order if like is None else recipes.again(like, order), owner)
    except FieldError as error:
        raise form.as_written(error) from None


def start_order(request: Request, order: Order, owner: User) -> Response:
    """The same `Idempotency-Key` starts once. Raises FieldError with the names of the documented start."""
    key = request.headers.get("idempotency-key")
    try:
        if key is None:
            engine, again = starting.start(owner, order), False
        else:
            engine, again = idempotency.start_once(owner, order, key)
    except idempotency.OtherBody as error:
        return Response({"detail": str(error)}, status=status.HTTP_422_UNPROCESSABLE_ENTITY)
    body = EngineResourceSerializer(engine, context={"request": request}).data
    headers = {"Location": request.build_absolute_uri(f"/api/v1/engines/{engine.pk}")}
    if again:
        headers["Idempotent-Replayed"] = "true"
    return Response(body, status=status.HTTP_202_ACCEPTED, headers=headers)
