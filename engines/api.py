"""`/vllm_request/…` and `/active_models/`: start engines, see them, end them."""

import uuid
from typing import Any

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import people
from accounts.models import User
from engines import engine_logs, starting, terminating
from engines.models import Engine
from engines.queries import EngineQuerySet
from engines.serializers import (
    ActiveModelSerializer,
    ActiveModelsSerializer,
    EngineSerializer,
    ListSerializer,
    LogSerializer,
    StartedSerializer,
    StartSerializer,
    TerminatedSerializer,
    TerminateSerializer,
    endpoint_of,
    portal_url,
)
from engines.states import FINAL, State
from engines.waiting import wait_for
from vllm_portal.config import get_config
from vllm_portal.errors import FieldError, NotFound
from vllm_portal.rest import json_object

LISTED = (State.READY, State.UNHEALTHY, State.SLEEPING, State.WAKING, State.ASLEEP)
"""Engines that have come up and are not ending: also those that wait for a request."""

_STARTED = {
    "message": "The engine is ready.",
    "vLLM_endpoint": "https://portal.example/engines/9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07/v1/completions",
    "user_info": {"username": "alice", "hf_username": "alice-hf"},
    "status": "healthy",
    "container_id": "4f5e6d7c8b9a",
    "engine_name": "opt-125m-3fa9",
    "engine_id": "9e107d9d-372b-4c1d-8f4a-3e2f5d1c0b07",
}
_LISTED = {
    "engine_name": "opt-125m-3fa9",
    "container_id": "4f5e6d7c8b9a",
    "model_name": "facebook/opt-125m",
    "quantized": False,
    "max_model_length": 2048,
    "seed": 0,
    "inference_end_point": _STARTED["vLLM_endpoint"],
    "timestamp": "2030-01-01T12:00:00Z",
    "user_id": "7",
}


class StartView(APIView):
    """Starts an engine for a model and waits until it is ready, has failed, or the portal's `start_wait_seconds` are
    over; then the answer is 202 and the engine goes on coming up."""

    @extend_schema(
        request=StartSerializer,
        responses={200: StartedSerializer, 202: StartedSerializer},
        parameters=[
            OpenApiParameter("Prefer", location=OpenApiParameter.HEADER, description="`respond-async`: do not wait.")
        ],
        examples=[
            OpenApiExample("A small model", {"Model": "facebook/opt-125m", "MAX_MODEL_LEN": 1024}, request_only=True),
            OpenApiExample("Ready", _STARTED, response_only=True, status_codes=["200"]),
            OpenApiExample(
                "Failed",
                {
                    **_STARTED,
                    "status": "unhealthy",
                    "message": "The engine has failed: MAX_MODEL_LEN 9999 is more than this model can take, which is "
                    "2048. Start it with MAX_MODEL_LEN 2048 or less, or without.",
                },
                response_only=True,
                status_codes=["200"],
            ),
            OpenApiExample(
                "Still coming up",
                {**_STARTED, "status": "unhealthy", "message": "The engine is LOADING (loading weights 45%). …"},
                response_only=True,
                status_codes=["202"],
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        form = StartSerializer(data=json_object(request.data), context={"request": request})
        form.is_valid(raise_exception=True)
        try:
            engine = starting.start(_on_behalf_of(request, form.validated_data), form.order())
        except FieldError as error:
            raise form.as_written(error) from None
        at_once = _prefers_async(request) or not form.validated_data["wait"]
        patience_s = 0.0 if at_once else get_config().start_wait_seconds
        engine = wait_for(engine.pk, {State.READY, *FINAL}, patience_s) or engine
        return _started(engine, request, at_once)


class TerminateView(APIView):
    """Ends an engine and waits for its end. It gets no more requests, and what it answers may end first, for
    `stop_drain_seconds` of the settings at most, unless `now` is true. One that has ended already is no error."""

    @extend_schema(
        request=TerminateSerializer,
        responses={200: TerminatedSerializer, 202: TerminatedSerializer},
        examples=[
            OpenApiExample("By container", {"container_id": "4f5e6d7c8b9a"}, request_only=True),
            OpenApiExample(
                "Ended",
                {"status": "terminated", "container_id": "4f5e6d7c8b9a"},
                response_only=True,
                status_codes=["200"],
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        form = TerminateSerializer(data=json_object(request.data))
        form.is_valid(raise_exception=True)
        container, name = form.validated_data["container_id"], form.validated_data["engine_name"] or ""
        engine = terminating.find(request.user, container, name)
        terminating.request_terminate(engine, request.user, form.validated_data["now"])
        ended = wait_for(engine.pk, FINAL, get_config().stop_wait_seconds)
        if ended is not None and ended.state not in FINAL:
            return Response({"status": "terminating", "container_id": container}, status=status.HTTP_202_ACCEPTED)
        return Response({"status": "terminated", "container_id": container})


class ActiveModelsView(APIView):
    """The engines that you may send requests to: your own and shared ones; for admins all. An admin's POST may name a
    user: the engines that user may use."""

    only_reads = True  # the POSTs, too

    @extend_schema(
        responses=ActiveModelSerializer(many=True),
        examples=[OpenApiExample("One engine", _LISTED, response_only=True)],
    )
    def get(self, request: Request) -> Response:
        return Response(_listed(request, request.user))

    @extend_schema(
        request=ListSerializer,
        responses=ActiveModelSerializer(many=True),
        examples=[OpenApiExample("One engine", _LISTED, response_only=True)],
    )
    def post(self, request: Request) -> Response:
        return Response(_listed(request, _named_in(request)))


class ActiveModelsObjectView(APIView):
    """The list of /active_models/, within an object."""

    only_reads = True  # the POSTs, too

    @extend_schema(responses=ActiveModelsSerializer)
    def get(self, request: Request) -> Response:
        return Response({"engines": _listed(request, request.user)})

    @extend_schema(request=ListSerializer, responses=ActiveModelsSerializer)
    def post(self, request: Request) -> Response:
        return Response({"engines": _listed(request, _named_in(request))})


class EngineView(APIView):
    """One of your engines in any state: how it stands, why it failed, what happened to it."""

    @extend_schema(responses=EngineSerializer)
    def get(self, request: Request, engine_id: str) -> Response:
        return Response(EngineSerializer(_own(request, engine_id), context={"request": request}).data)


class EngineLogView(APIView):
    """What one of your engines has written, without secrets."""

    @extend_schema(responses=LogSerializer)
    def get(self, request: Request, engine_id: str) -> Response:
        return Response({"log": engine_logs.read(_own(request, engine_id))})


def _started(engine: Engine, request: Request, at_once: bool) -> Response:
    where = f"{portal_url(request)}/vllm_request/engines/{engine.pk}"
    ready = engine.state == State.READY
    body = {
        "message": _message(engine, where),
        "vLLM_endpoint": endpoint_of(engine, request),
        "user_info": {
            "username": engine.owner.username if engine.owner else "",
            "hf_username": engine.hf_account or None,
        },
        "status": "healthy" if ready else "unhealthy",
        "container_id": engine.public_container_id,
        "engine_name": engine.name,
        "engine_id": str(engine.pk),
    }
    if ready or engine.state in FINAL:
        return Response(body)
    headers = {"Location": where} | ({"Preference-Applied": "respond-async"} if at_once else {})
    return Response(body, status=status.HTTP_202_ACCEPTED, headers=headers)


def _message(engine: Engine, where: str) -> str:
    if engine.state == State.READY:
        return "The engine is ready."
    if engine.state == State.FAILED:
        return f"The engine has failed: {engine.cause} {engine.advice}".rstrip()
    if engine.state == State.STOPPED:
        return "The engine was stopped before it was ready."
    detail = f" ({engine.detail})" if engine.detail else ""
    return f"The engine is {engine.state}{detail}. {where} says how it goes on."


def _prefers_async(request: Request) -> bool:
    preferences = request.headers.get("prefer", "").lower()
    return "respond-async" in {part.split(";")[0].strip() for part in preferences.split(",")}


def _listed(request: Request, user: User) -> Any:
    engines: EngineQuerySet = Engine.objects.usable_by(user).filter(state__in=LISTED)
    return ActiveModelSerializer(engines, many=True, context={"request": request}).data


def _named_in(request: Request) -> User:
    """Whose list an admin's POST asks for. A body that is no object holds nothing."""
    data = request.data if isinstance(request.data, dict) else {}
    form = ListSerializer(data=data, context={"request": request})
    form.is_valid(raise_exception=True)
    return _on_behalf_of(request, form.validated_data)


def _on_behalf_of(request: Request, given: dict[str, Any]) -> User:
    """The caller, or whom an admin names. Raises NoSuchUser."""
    username = given.get("username")
    return people.find(username) if username and username != request.user.username else request.user


def _own(request: Request, engine_id: str) -> Engine:
    try:
        identity = uuid.UUID(engine_id)
    except ValueError:
        identity = None
    engine = Engine.objects.owned_by(request.user).prefetch_related("events").filter(pk=identity).first()
    if engine is None:
        raise NotFound("There is no such engine among yours.")
    return engine
