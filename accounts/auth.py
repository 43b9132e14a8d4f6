"""Who is calling. Both planes ask here: DRF through `BearerAuthentication`, the data plane through `verify`, `user_of`
and `keys.key_of`."""

from typing import Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from accounts import keys, scopes
from accounts.errors import NotAuthenticated, WrongLogin
from accounts.models import ApiKey, User
from accounts.sessions import Claims as Claims
from accounts.sessions import issue_tokens as issue_tokens
from accounts.sessions import renew as renew
from accounts.sessions import user_of as user_of
from accounts.sessions import verify as verify


def log_in(username: str, password: str) -> User:
    """Raises WrongLogin. Whether the name exists, or is a disabled user's, does not show, neither in the error nor in
    the time it takes: the password is hashed once in each case (`hashers` says how that holds for imported ones)."""
    user = User.objects.filter(username=User.normalize_username(username)).first()
    if user is None:
        User().set_password(password)
        raise WrongLogin
    if not user.check_password(password) or not user.is_active:
        raise WrongLogin
    return user


def bearer(request: Request) -> str | None:
    """The access token or API key of the request's `Authorization: Bearer …` or else `x-api-key`; None: it has
    neither header."""
    scheme, _, token = get_authorization_header(request).partition(b" ")
    if scheme.lower() == b"bearer":
        return token.strip().decode("ascii", "replace")
    return request.META.get("HTTP_X_API_KEY")


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer <access token or API key>`, `x-api-key: <API key>`. `request.auth` is the ApiKey, or None
    with an access token. Without those headers the next class (the browser's session) is asked.

    A key's scopes are checked here, where it is accepted, so that no view can forget it: 403 names what is missing.
    """

    def authenticate(self, request: Request) -> tuple[User, ApiKey | None] | None:
        token = bearer(request)
        if token is None:
            return None
        try:
            if not token.startswith(keys.PREFIX):
                return user_of(token), None
            key = keys.key_of(token)
        except NotAuthenticated as error:
            raise AuthenticationFailed(str(error)) from None
        if scope := scopes.missing(key, request.method, request.parser_context["view"]):
            raise PermissionDenied(f"This API key lacks the scope {scope}.")
        keys.touch(key, timezone.now())
        return key.user, key

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class IsAdmin(BasePermission):
    """Users with the role Admin."""

    message = "Only an admin may do this."

    def has_permission(self, request: Request, view: Any) -> bool:
        return bool(request.user and request.user.is_authenticated and request.user.is_admin)
