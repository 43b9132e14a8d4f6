"""`/api/v1/keys` and `/api/v1/key`: API keys, and what the caller's own may do."""

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import GenericViewSet

from accounts import keys, standing
from accounts.errors import MoreThanOwn
from accounts.keys_serializers import CallerSerializer, KeyQuerySerializer, KeySerializer, NewKeySerializer
from accounts.listing import Ordering, asked
from accounts.models import ApiKey
from vllm_portal.rest import json_object

_NO_PACES = dict.fromkeys(keys.PACES)
_ONE = {
    "id": 3,
    "user": 7,
    "username": "alice",
    "name": "notebook",
    "prefix": "sk-aB3d",
    "last_four": "x9Yz",
    "scopes": ["inference"],
    "models": ["facebook/opt-125m"],
    "expires_at": "2031-01-01T00:00:00Z",
    "revoked_at": None,
    "created_at": "2030-01-01T12:00:00Z",
    "last_used_at": "2030-01-02T08:00:00Z",
    "prompt_token_limit": 5000,
    "prompt_token_number": 1200,
    "gen_token_limit": None,
    "gen_token_number": 300,
    **_NO_PACES,
}
_NEW = {"key": "sk-aB3d…x9Yz", **_ONE, "prompt_token_number": 0, "gen_token_number": 0, "last_used_at": None}
_LIMITS = {
    "prompt_tokens": {"limit": 10000, "used": 1200, "reserved": 0, "remaining": 8800},
    "generated_tokens": {"limit": 1000, "used": 300, "reserved": 100, "remaining": 600},
    "resets": None,
    "rates": [
        {
            "name": "requests_per_minute", "limit": 6000, "used": 2, "reserved": 0, "remaining": 5998,
            "resets_at": "2030-01-01T12:01:00Z",
        }
    ],
}  # fmt: skip


@extend_schema_view(
    list=extend_schema(parameters=[KeyQuerySerializer], examples=[OpenApiExample("One", _ONE, response_only=True)]),
    retrieve=extend_schema(examples=[OpenApiExample("One", _ONE, response_only=True)]),
    create=extend_schema(
        responses={201: NewKeySerializer},
        examples=[
            OpenApiExample("For one model", {"name": "notebook", "models": ["facebook/opt-125m"]}, request_only=True),
            OpenApiExample("Made", _NEW, response_only=True, status_codes=["201"]),
        ],
    ),
    partial_update=extend_schema(
        examples=[
            OpenApiExample("Another limit", {"prompt_token_limit": 5000}, request_only=True),
            OpenApiExample("Changed", _ONE, response_only=True),
        ]
    ),
    destroy=extend_schema(description="Revokes it for good; its row stays, for the records of what it has spent."),
)
class KeyViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.CreateModelMixin, mixins.UpdateModelMixin,
    mixins.DestroyModelMixin, GenericViewSet,
):  # fmt: skip
    """Your API keys; for admins those of all. A key is shown once, in the answer that makes it. What a key makes may
    no more than that key itself."""

    queryset = ApiKey.objects.none()
    lookup_value_regex = "[0-9]{1,18}"
    http_method_names = ["get", "post", "patch", "delete", "head", "options"]
    serializer_class = KeySerializer
    filter_backends = [Ordering]
    ordering_fields = ["id", "name", "created_at"]
    ordering = ["-created_at"]

    def get_queryset(self) -> QuerySet[ApiKey]:
        if getattr(self, "swagger_fake_view", False):
            return self.queryset
        found = ApiKey.objects.select_related("user", "limit")
        return found if self.request.user.is_admin else found.filter(user=self.request.user)

    def filter_queryset(self, queryset: QuerySet[ApiKey]) -> QuerySet[ApiKey]:
        if self.action == "list":
            wish = asked(KeyQuerySerializer, self.request)
            if "user" in wish:
                queryset = queryset.filter(user=wish["user"])
            if "revoked" in wish:
                queryset = queryset.filter(revoked_at__isnull=not wish["revoked"])
        return super().filter_queryset(queryset)

    def create(self, request: Request) -> Response:
        form = NewKeySerializer(data=json_object(request.data))
        form.is_valid(raise_exception=True)
        key, clear = keys.make(request.user, form.rights(), by=request.auth)
        key.key = clear  # type: ignore[attr-defined]
        answer = Response(NewKeySerializer(key).data, status=status.HTTP_201_CREATED)
        answer["cache-control"] = "no-store"
        return answer

    def partial_update(self, request: Request, pk: str) -> Response:
        key = self.get_object()
        form = self.get_serializer(key, data=json_object(request.data), partial=True)
        form.is_valid(raise_exception=True)
        return Response(KeySerializer(keys.change(key, form.rights(), by=request.auth)).data)

    def perform_destroy(self, instance: ApiKey) -> None:
        keys.revoke(instance)

    def handle_exception(self, error: Exception) -> Response:
        if isinstance(error, MoreThanOwn):
            error = PermissionDenied(str(error))
        return super().handle_exception(error)


class CallerView(APIView):
    """Who you are to the portal, with which key, and what you may still spend."""

    any_scope = True

    @extend_schema(
        responses=CallerSerializer,
        examples=[
            OpenApiExample(
                "With a key",
                {
                    "username": "alice",
                    "role": "User",
                    "key": {
                        "id": 3,
                        "name": "notebook",
                        "shown": "sk-aB3d…x9Yz",
                        "scopes": ["inference"],
                        "models": ["facebook/opt-125m"],
                        "expires_at": None,
                        "limits": {**_LIMITS, "rates": []},
                    },
                    "limits": _LIMITS,
                },
                response_only=True,
            )
        ],
    )
    def get(self, request: Request) -> Response:
        user, key = request.user, request.auth
        caller: dict[str, Any] = {
            "username": user.username, "role": user.role, "key": key, "limits": standing.of_user(user)
        }  # fmt: skip
        if key is not None:
            key.shown = f"{key.prefix}…{key.last_four}"
            key.limits = standing.of_key(key)
        return Response(CallerSerializer(caller).data, headers={"cache-control": "no-store"})
