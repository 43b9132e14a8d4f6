"""`/token`, and the `/db_request/` endpoints about people."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.parsers import FormParser
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from accounts import change_log, people, quotas, sessions
from accounts.auth import BearerAuthentication, IsAdmin, bearer, issue_tokens, log_in, renew
from accounts.errors import NotAuthenticated, WrongLogin
from accounts.models import User
from accounts.serializers import (
    AddedSerializer,
    AddUserSerializer,
    DetailSerializer,
    ExistenceSerializer,
    LoggedInSerializer,
    LoginSerializer,
    MessageSerializer,
    NamedUserSerializer,
    PersonSerializer,
    RefreshSerializer,
    TokenInfoRequestSerializer,
    TokenInfoSerializer,
    UpdateLimitSerializer,
    UpdateNumberSerializer,
)
from vllm_portal.errors import CallerError
from vllm_portal.parsers import JSONParser
from vllm_portal.rest import json_object


def _valid(form: type[Serializer], request: Request) -> dict[str, Any]:
    given = form(data=json_object(request.data))
    given.is_valid(raise_exception=True)
    return given.validated_data


def _logged_in(user: User, access: str, refresh: str) -> dict[str, str]:
    return {"username": user.username, "access_token": access, "token_type": "bearer", "refresh_token": refresh}


_WELCOME = OpenApiExample(
    "Welcome",
    {"username": "alice", "access_token": "ey…", "token_type": "bearer", "refresh_token": "ey…"},
    response_only=True,
    status_codes=["200"],
)


class _TokenEndpoint(APIView):
    """Open to all. What else the request carries to say who it comes from does not count here."""

    authentication_classes = ()
    permission_classes = (AllowAny,)
    parser_classes = (JSONParser, FormParser)

    def get_authenticate_header(self, request: Request) -> str:
        """Without one DRF would turn the 401 into a 403."""
        return "Bearer"


class TokenView(_TokenEndpoint):
    """Logs in: the access token goes into the header `Authorization: Bearer …` of every other request. Takes JSON and
    HTML form data."""

    @extend_schema(
        request={
            "application/json": LoginSerializer,
            "application/x-www-form-urlencoded": LoginSerializer,
        },
        responses={200: LoggedInSerializer, 401: DetailSerializer},
        auth=[],
        examples=[
            OpenApiExample("Login", {"username": "alice", "password": "…"}, request_only=True),
            _WELCOME,
        ],
    )
    def post(self, request: Request) -> Response:
        given = _valid(LoginSerializer, request)
        try:
            user = log_in(given["username"], given["password"])
        except WrongLogin as error:
            raise AuthenticationFailed(str(error)) from None
        return Response(_logged_in(user, *issue_tokens(user)))


class RefreshView(_TokenEndpoint):
    """New tokens for a refresh token, which is worthless from then on. One that comes a second time is in the hands of
    two: then all tokens of that log-in stop counting."""

    @extend_schema(
        request={
            "application/json": RefreshSerializer,
            "application/x-www-form-urlencoded": RefreshSerializer,
        },
        responses={200: LoggedInSerializer, 401: DetailSerializer},
        auth=[],
        examples=[OpenApiExample("Renew", {"refresh_token": "ey…"}, request_only=True), _WELCOME],
    )
    def post(self, request: Request) -> Response:
        try:
            user, access, refresh = renew(_valid(RefreshSerializer, request)["refresh_token"], request.arrived)
        except NotAuthenticated as error:
            raise AuthenticationFailed(str(error)) from None
        return Response(_logged_in(user, access, refresh))


class LogoutView(APIView):
    """Logs out: the access token that you send, and all that came from the same log-in, stop counting. Your other
    log-ins live on, and so do your API keys."""

    authentication_classes = (BearerAuthentication,)

    @extend_schema(
        request=None,
        responses=MessageSerializer,
        examples=[OpenApiExample("Done", {"message": "You are logged out."}, response_only=True)],
    )
    def post(self, request: Request) -> Response:
        if request.auth is not None:
            raise CallerError("An API key does not log out; revoke it with DELETE /api/v1/keys/<id>.")
        sessions.end(sessions.verify(bearer(request) or "").session)
        return Response({"message": "You are logged out."})


class TokenInfoView(APIView):
    """What you have spent, and may. An admin may name another user."""

    only_reads = True

    @extend_schema(request=TokenInfoRequestSerializer, responses=TokenInfoSerializer)
    def post(self, request: Request) -> Response:
        user, _ = request.user, json_object(request.data)
        if user.is_admin and (name := _valid(TokenInfoRequestSerializer, request).get("username")):
            user = people.find(name)
        return Response(TokenInfoSerializer(quotas.live_numbers(user)).data)


class _AdminEndpoint(APIView):
    permission_classes = (IsAdmin,)


class AddUserView(_AdminEndpoint):
    """Adds a user. Limits that are not given are the configured ones."""

    @extend_schema(request=AddUserSerializer, responses=AddedSerializer)
    def post(self, request: Request) -> Response:
        given = _valid(AddUserSerializer, request)
        user = people.add(
            given["username"],
            given["password"],
            prompt_limit=given["prompt_token_limit"],
            generated_limit=given["gen_token_limit"],
            prompt_number=given["prompt_token_number"],
            generated_number=given["gen_token_number"],
        )
        change_log.note(request.user, user, "added")
        return Response({"status": "success", "message": f"User {user.username} was added."})


class UpdateTokenLimitView(_AdminEndpoint):
    """Sets what a user may spend in total. A limit that is not given stays."""

    @extend_schema(request=UpdateLimitSerializer, responses=MessageSerializer)
    def post(self, request: Request) -> Response:
        given = _valid(UpdateLimitSerializer, request)
        prompt, generated = given["prompt_token_limit"], given["gen_token_limit"]
        if prompt is None and generated is None:
            raise CallerError("Give prompt_token_limit, gen_token_limit or both.")
        user = people.find(given["username"])
        quotas.set_limits(user, prompt, generated)
        change_log.note(request.user, user, "changed", prompt_token_limit=prompt, gen_token_limit=generated)
        return Response({"message": f"The token limits of {user.username} were updated."})


class UpdateTokenNumberView(_AdminEndpoint):
    """Sets what a user has spent. A number that is not given stays."""

    @extend_schema(request=UpdateNumberSerializer, responses=MessageSerializer)
    def post(self, request: Request) -> Response:
        given = _valid(UpdateNumberSerializer, request)
        prompt, generated = given["prompt_token_number"], given["gen_token_number"]
        if prompt is None and generated is None:
            raise CallerError("Give prompt_token_number, gen_token_number or both.")
        user = people.find(given["username"])
        quotas.set_numbers(user, prompt, generated)
        change_log.note(request.user, user, "changed", prompt_token_number=prompt, gen_token_number=generated)
        return Response({"message": f"The token numbers of {user.username} were updated."})


class UserExistenceView(_AdminEndpoint):
    """Whether there is a user of that name."""

    only_reads = True

    @extend_schema(request=NamedUserSerializer, responses=ExistenceSerializer)
    def post(self, request: Request) -> Response:
        return Response({"user_exists": people.exists(_valid(NamedUserSerializer, request)["username"])})


class DisableUserView(_AdminEndpoint):
    """The user's tokens stop counting at once, and they cannot log in."""

    @extend_schema(request=NamedUserSerializer, responses=MessageSerializer)
    def put(self, request: Request) -> Response:
        user = people.find(_valid(NamedUserSerializer, request)["username"])
        people.set_active(user, False, by=request.user)
        change_log.note(request.user, user, "changed", is_active=False)
        return Response({"message": f"User {user.username} is disabled."})


class EnableUserView(_AdminEndpoint):
    """The user can log in again. Tokens from before they were disabled stay worthless."""

    @extend_schema(request=NamedUserSerializer, responses=MessageSerializer)
    def put(self, request: Request) -> Response:
        user = people.find(_valid(NamedUserSerializer, request)["username"])
        people.set_active(user, True, by=request.user)
        change_log.note(request.user, user, "changed", is_active=True)
        return Response({"message": f"User {user.username} is enabled."})


class PeopleView(_AdminEndpoint):
    """All users with what they have and have spent. Conversations with number and name, without their content."""

    @extend_schema(responses=PersonSerializer(many=True))
    def get(self, request: Request) -> Response:
        users = User.objects.select_related("token_limit").prefetch_related("engines", "conversations")
        return Response(PersonSerializer(users, many=True).data)
