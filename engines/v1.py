"""`/api/v1/engines` and `/api/v1/nodes`: the engines and machines, as resources."""

import platform
import uuid
from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet, ViewSet

from accounts import people
from accounts.models import User
from engines import engine_logs, idempotency, log_stream, starting, terminating
from engines.launchers.choice import chosen_name
from engines.models import Engine, EngineEvent, Gpu
from engines.states import FINAL
from engines.v1_serializers import (
    EngineEventSerializer,
    EngineFilter,
    EngineOrderSerializer,
    EngineResourceSerializer,
    LogQuerySerializer,
    NodePageSerializer,
    NodeSerializer,
    validated,
)
from vllm_portal.config import get_config
from vllm_portal.errors import FieldError, NotFound
from vllm_portal.rest import json_object
from vllm_portal.v1 import Ordering, Page

_ID = "9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07"
_ENGINE = {
    "id": _ID,
    "name": "opt-125m-3fa9",
    "model": "facebook/opt-125m",
    "state": "LOADING",
    "state_since": "2030-01-01T12:00:05Z",
    "detail": "loading weights 45%",
    "cause_code": "",
    "cause": "",
    "advice": "",
    "owner": "alice",
    "shared": False,
    "endpoint": f"https://portal.example/engines/{_ID}/v1",
    "task": "generate",
    "max_model_len": 1024,
    "tensor_parallel_size": 1,
    "seed": None,
    "tokenizer": "",
    "quantization": "",
    "launcher": "docker",
    "device": "cuda",
    "image": "vllm/vllm-openai:latest",
    "container_id": "vllm-portal-9e107d9d372b-1",
    "created_at": "2030-01-01T12:00:00Z",
    "ready_at": None,
    "ended_at": None,
}
_ONE = OpenApiExample("One engine", _ENGINE, response_only=True)


_NODE = {
    "id": "gpu-box-1",
    "launcher": "docker",
    "device": "cuda",
    "gpus": [
        {
            "index": 0,
            "uuid": "GPU-5c0b1f2e",
            "name": "NVIDIA H200",
            "memory_bytes": 150754820096,
            "engine": "opt-125m-3fa9",
        }
    ],
    "engines": ["opt-125m-3fa9"],
}


class _Any(BaseContentNegotiation):
    """For answers whose form the address says: whatever `Accept` says, too, is no reason to refuse."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class _EventPage(Page):
    ordering = "id"


@extend_schema_view(list=extend_schema(examples=[_ONE]), retrieve=extend_schema(examples=[_ONE]))
class EngineViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, GenericViewSet):
    """Engines in any state: your own and the shared ones; for admins all. Events and logs: of your own."""

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
        return engines(self.request.user).select_related("owner")

    def get_object(self) -> Engine:
        engine = self.get_queryset().filter(pk=self.kwargs["pk"]).first() if _is_id(self.kwargs["pk"]) else None
        if engine is None:
            raise NotFound("There is no such engine among yours.")
        return engine

    @extend_schema(
        request=EngineOrderSerializer,
        responses={202: EngineResourceSerializer},
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                location=OpenApiParameter.HEADER,
                description="The same key with the same body is, for 24 hours, the same engine; with another: 422.",
            )
        ],
        examples=[
            OpenApiExample("A small model", {"model": "facebook/opt-125m", "max_model_len": 1024}, request_only=True),
            OpenApiExample("Accepted", {**_ENGINE, "state": "QUEUED"}, response_only=True, status_codes=["202"]),
        ],
    )
    def create(self, request: Request) -> Response:
        """Starts an engine. The answer is there at once; `Location` says where to see how it comes up."""
        form = EngineOrderSerializer(data=json_object(request.data), context={"request": request})
        form.is_valid(raise_exception=True)
        key = request.headers.get("idempotency-key")
        owner = _owner(request, form.validated_data)
        try:
            if key is None:
                engine, again = starting.start(owner, form.order()), False
            else:
                engine, again = idempotency.start_once(owner, form.order(), key)
        except idempotency.OtherBody as error:
            return Response({"detail": str(error)}, status=status.HTTP_422_UNPROCESSABLE_ENTITY)
        except FieldError as error:
            raise form.as_written(error) from None
        body = EngineResourceSerializer(engine, context={"request": request}).data
        headers = {"Location": request.build_absolute_uri(f"/api/v1/engines/{engine.pk}")}
        if again:
            headers["Idempotent-Replayed"] = "true"
        return Response(body, status=status.HTTP_202_ACCEPTED, headers=headers)

    @extend_schema(responses={202: EngineResourceSerializer, 204: None})
    def destroy(self, request: Request, pk: str) -> Response:
        """Ends an engine: 202 while it is ending, 204 when it has ended."""
        engine = self.get_object()
        terminating.request_terminate(engine, request.user)
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


class NodeViewSet(ViewSet):
    """The machines that run engines, their GPUs and what holds them."""

    serializer_class = NodeSerializer

    @extend_schema(
        responses=NodePageSerializer,
        examples=[
            OpenApiExample(
                "A machine with one GPU",
                {"next": None, "previous": None, "results": [_NODE]},
                response_only=True,
            )
        ],
    )
    def list(self, request: Request) -> Response:
        return Response({"next": None, "previous": None, "results": [_node(request.user)]})

    @extend_schema(responses=NodeSerializer, parameters=[OpenApiParameter("id", str, OpenApiParameter.PATH)])
    def retrieve(self, request: Request, pk: str) -> Response:
        node = _node(request.user)
        if pk != node["id"]:
            raise NotFound("There is no such node.")
        return Response(node)


def _node(user: User) -> dict[str, Any]:
    """This machine. GPUs are rows that the worker keeps; whose engine holds one is told to those who may see it."""
    own = dict(Engine.objects.active().usable_by(user).values_list("pk", "name"))
    gpus = Gpu.objects.filter(present=True).select_related("lease")
    launcher = chosen_name()
    return NodeSerializer(
        {
            "id": platform.node() or "localhost",
            "launcher": launcher,
            "device": "cpu" if launcher == "simulator" else get_config().device,
            "gpus": [
                {
                    "index": gpu.index,
                    "uuid": gpu.uuid,
                    "name": gpu.name,
                    "memory_bytes": gpu.memory_bytes,
                    "engine": own.get(gpu.lease.engine_id, "(another user's)") if hasattr(gpu, "lease") else None,
                }
                for gpu in gpus
            ],
            "engines": sorted(own.values()),
        }
    ).data


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _owner(request: Request, given: dict[str, Any]) -> User:
    """The caller, or whom an admin names. Raises NoSuchUser."""
    username = given.get("username")
    return people.find(username) if username and username != request.user.username else request.user
