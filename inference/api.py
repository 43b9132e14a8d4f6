"""`/llm_request`: a prompt to an engine, with memory."""

import json
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection
from django.http import StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import status
from rest_framework.exceptions import APIException, AuthenticationFailed
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.models import ApiKey, User
from inference import chat, conversations
from inference.errors import ApiError
from inference.gateway import gateway
from inference.history import Turn
from inference.models import Conversation
from inference.routing import Caller
from inference.serializers import LlmAnswerSerializer, LlmRequestSerializer
from vllm_portal.config import get_config


class LlmRequestView(APIView):
    """Sends a prompt to an engine. With `memory` the conversation's earlier turns are sent along, and prompt and
    answer are stored together once the answer is complete; your first conversation begins with that."""

    scope = "inference"

    @extend_schema(
        request=LlmRequestSerializer,
        responses=LlmAnswerSerializer,
        examples=[
            OpenApiExample(
                "With memory",
                {"model": "facebook/opt-125m", "prompt": "Who are you?", "memory": True, "conversation_number": 1},
                request_only=True,
            ),
            OpenApiExample("Answer", {"username": "alice", "data": "I am …"}, response_only=True),
        ],
    )
    def post(self, request: Request) -> HttpResponseBase:
        form = LlmRequestSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        wish = form.validated_data
        conversation, history = None, []
        if wish["memory"]:
            conversation = conversations.find(request.user, wish["conversation_number"])
            history = conversations.turns(conversation) if conversation else []
        caller = _caller(request)
        prompt = _prompt(wish, conversation, history)
        _release_database()
        if wish["stream"]:
            return _streamed(request, caller, wish, conversation, prompt)
        try:
            text = async_to_sync(_answer)(caller, wish, prompt)
        except ApiError as error:
            raise _translate(error) from None
        if wish["memory"]:
            conversations.remember(request.user, conversation, wish["prompt"], text, timezone.now())
        return Response({"username": request.user.username, "data": text})


def _caller(request: Request) -> Caller:
    user, key = request.user, request.auth
    rights = {}
    if isinstance(key, ApiKey):
        models = frozenset(key.allowed_models) or None
        rights = {"key_id": key.pk, "key_version": key.version, "models": models, "may_wake": key.may_wake}
    return Caller(user.pk, user.username, user.is_admin, user.token_version, expires_at=0, weight=user.weight, **rights)


def _release_database() -> None:
    """An answer takes seconds to minutes; no database connection is held that long."""
    if not connection.in_atomic_block:
        connection.close()


def _store(user: User, conversation: Conversation | None, prompt: str, answer: str) -> None:
    """In a thread of a pool, where nobody else gives the connection back."""
    try:
        conversations.remember(user, conversation, prompt, answer, timezone.now())
    finally:
        connection.close()


def _prompt(wish: dict[str, Any], conversation: Conversation | None, history: list[Turn]) -> chat.Prompt:
    config = get_config()
    return chat.Prompt(
        text=wish["prompt"],
        conversation=str(conversation.conversation_id) if conversation else "",
        model=None if wish["inference_endpoint"] else wish["model"] or None,
        system=wish.get("system", config.llm_system_prompt),
        history=history,
        temperature=wish.get("temperature", config.llm_temperature),
        top_p=wish.get("top_p", config.llm_top_p),
        max_tokens=wish.get("max_tokens", config.llm_max_tokens),
    )


async def _answer(caller: Caller, wish: dict[str, Any], prompt: chat.Prompt) -> str:
    plane = await gateway()
    route = await chat.find_engine(plane, caller, wish["inference_endpoint"], wish["model"], prompt)
    return await chat.answer(plane, caller, route, prompt)


def _streamed(
    request: Request, caller: Caller, wish: dict[str, Any], conversation: Conversation | None, prompt: chat.Prompt
) -> StreamingHttpResponse:
    """Events `data: {"username", "data": "<next piece>"}`, then `data: [DONE]`. The first piece is waited for, so that
    a refusal is a plain answer with its own status."""

    async def begin() -> tuple[AsyncIterator[str], str | None]:
        plane = await gateway()
        route = await chat.find_engine(plane, caller, wish["inference_endpoint"], wish["model"], prompt)
        pieces = chat.stream(plane, caller, route, prompt)
        return pieces, await anext(pieces, None)

    async def events(pieces: AsyncIterator[str], first: str | None) -> AsyncIterator[bytes]:
        text = first or ""
        try:
            if first:
                yield _event({"username": caller.username, "data": first})
            async for piece in pieces:
                text += piece
                yield _event({"username": caller.username, "data": piece})
        except ApiError as error:
            yield _event({"detail": error.message})
        else:
            if wish["memory"]:
                store = sync_to_async(_store, thread_sensitive=False)
                await store(request.user, conversation, wish["prompt"], text)
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        yield b"data: [DONE]\n\n"

    try:
        pieces, first = async_to_sync(begin)()
    except ApiError as error:
        raise _translate(error) from None
    answer = StreamingHttpResponse(events(pieces, first), content_type="text/event-stream; charset=utf-8")
    answer["cache-control"] = "no-cache"
    return answer


def _event(value: dict[str, str]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _translate(error: ApiError) -> APIException:
    """The data plane's error in this endpoint's shape."""
    if error.status == status.HTTP_401_UNAUTHORIZED:
        return AuthenticationFailed(error.message)
    translated = APIException(error.message, code=error.code)
    translated.status_code = error.status
    if error.retry_after_s is not None:
        translated.wait = error.retry_after_s  # type: ignore[attr-defined]
    return translated
