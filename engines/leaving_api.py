"""Removing a user, with all that runs for them."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import people
from accounts.auth import IsAdmin
from accounts.models import User
from engines import leaving
from vllm_portal.config import get_config
from vllm_portal.errors import NotFound
from vllm_portal.rest import StrictCharField, json_object


class LeaverSerializer(serializers.Serializer):
    username = StrictCharField(max_length=150)


class LeftSerializer(serializers.Serializer):
    message = serializers.CharField()


_LEFT = {
    200: LeftSerializer,
    202: LeftSerializer,
}
_EXAMPLES = [
    OpenApiExample("Gone", {"message": "alice was removed."}, response_only=True, status_codes=["200"]),
    OpenApiExample(
        "Engines are still ending",
        {"message": "alice is disabled, and is removed as soon as their engines have ended."},
        response_only=True,
        status_codes=["202"],
    ),
]


class DeleteUserView(APIView):
    """Removes a user: their engines are stopped first. Usage records stay, without a name."""

    permission_classes = (IsAdmin,)

    @extend_schema(
        request=LeaverSerializer,
        responses=_LEFT,
        examples=[OpenApiExample("Who", {"username": "alice"}, request_only=True), *_EXAMPLES],
    )
    def delete(self, request: Request) -> Response:
        form = LeaverSerializer(data=json_object(request.data))
        form.is_valid(raise_exception=True)
        return _remove(request, people.find(form.validated_data["username"]))


class RemoveUserView(APIView):
    """The same, by the user's id."""

    permission_classes = (IsAdmin,)

    @extend_schema(request=None, responses=_LEFT, examples=_EXAMPLES)
    def post(self, request: Request, user_id: str) -> Response:
        user = User.objects.filter(pk=int(user_id)).first()
        if user is None:
            raise NotFound("There is no such user.")
        return _remove(request, user)


def _remove(request: Any, user: User) -> Response:
    name = user.username
    if leaving.remove(user, request.user, timezone.now(), get_config().stop_wait_seconds):
        return Response({"message": f"{name} was removed."})
    message = f"{name} is disabled, and is removed as soon as their engines have ended."
    return Response({"message": message}, status=status.HTTP_202_ACCEPTED)
