"""`/api/v1/users`: people, for admins; and oneself."""

from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_view
from rest_framework import mixins, status
from rest_framework.decorators import action
from rest_framework.filters import SearchFilter
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from accounts import change_log, people, quotas
from accounts.auth import IsAdmin
from accounts.keys import PACES
from accounts.listing import Ordering, asked
from accounts.models import Role, User
from accounts.users_serializers import NewUserSerializer, UserQuerySerializer, UserSerializer
from vllm_portal.rest import json_object

_ONE = {
    "id": 7,
    "username": "alice",
    "role": "User",
    "is_active": True,
    "date_joined": "2030-01-01T12:00:00Z",
    "weight": 1.0,
    "prompt_token_limit": 10000,
    "prompt_token_number": 1200,
    "gen_token_limit": 1000,
    "gen_token_number": 300,
    **dict.fromkeys(PACES),
    "requests_per_minute": 6000,
}


@extend_schema_view(
    list=extend_schema(parameters=[UserQuerySerializer], examples=[OpenApiExample("One", _ONE, response_only=True)]),
    retrieve=extend_schema(examples=[OpenApiExample("One", _ONE, response_only=True)]),
    create=extend_schema(
        request=NewUserSerializer,
        examples=[
            OpenApiExample("A user", {"username": "alice", "password": "correct horse"}, request_only=True),
            OpenApiExample("Added", _ONE, response_only=True, status_codes=["201"]),
        ],
    ),
    partial_update=extend_schema(
        examples=[
            OpenApiExample("Another limit", {"gen_token_limit": 50000}, request_only=True),
            OpenApiExample("Changed", _ONE, response_only=True),
        ]
    ),
)
class UserViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.CreateModelMixin, mixins.UpdateModelMixin, GenericViewSet
):
    """People, for admins. A new password, role or standing ends all tokens of the user at once."""

    queryset = User.objects.select_related("token_limit")
    permission_classes = [IsAuthenticated, IsAdmin]
    lookup_value_regex = "[0-9]{1,18}"
    http_method_names = ["get", "post", "patch", "head", "options"]
    serializer_class = UserSerializer
    filter_backends = [SearchFilter, Ordering]
    search_fields = ["username", "first_name", "last_name", "email"]
    ordering_fields = ["id", "username", "date_joined"]
    ordering = ["username"]

    def filter_queryset(self, queryset: QuerySet[User]) -> QuerySet[User]:
        if self.action == "list":
            queryset = queryset.filter(**asked(UserQuerySerializer, self.request))
        return super().filter_queryset(queryset)

    def create(self, request: Request) -> Response:
        form = NewUserSerializer(data=json_object(request.data))
        form.is_valid(raise_exception=True)
        given = form.validated_data
        with transaction.atomic():
            user = people.add(
                given["username"],
                given["password"],
                role=given.get("role", Role.USER),
                weight=given.get("weight", 1.0),
            )
            _limit(user, form.limits())
            if not given.get("is_active", True):
                people.set_active(user, False, by=request.user)
            change_log.note(request.user, user, "added")
        return Response(self._shown(user), status=status.HTTP_201_CREATED)

    def partial_update(self, request: Request, pk: str) -> Response:
        user = self.get_object()
        form = self.get_serializer(user, data=json_object(request.data), partial=True)
        form.is_valid(raise_exception=True)
        given = form.validated_data
        with transaction.atomic():
            people.change(
                user,
                by=request.user,
                role=given.get("role"),
                active=given.get("is_active"),
                password=given.get("password"),
                weight=given.get("weight"),
            )
            _limit(user, form.limits())
            direct = {name: given.get(name) for name in ("role", "is_active", "password", "weight")}
            change_log.note(request.user, user, "changed", **direct, **form.limits())
        return Response(self._shown(user))

    @extend_schema(filters=False, examples=[OpenApiExample("Yourself", _ONE, response_only=True)])
    @action(detail=False, permission_classes=[IsAuthenticated], pagination_class=None, filter_backends=[])
    def me(self, request: Request) -> Response:
        """Yourself."""
        return Response(self._shown(request.user))

    def _shown(self, user: User) -> dict[str, Any]:
        return UserSerializer(self.get_queryset().get(pk=user.pk)).data


def _limit(user: User, limits: dict[str, Any]) -> None:
    quotas.set_limits(user, limits.get("prompt_token_limit"), limits.get("gen_token_limit"))
    quotas.set_paces(user, {name: value for name, value in limits.items() if name in PACES})
