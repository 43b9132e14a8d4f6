"""Who is calling. Both planes ask here: DRF through `BearerAuthentication`, the data plane through `verify`."""

from dataclasses import dataclass

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, Token

from accounts.errors import NotAuthenticated, WrongLogin
from accounts.models import User


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid access token says. Whether it still counts is in the user's row: `token_version`, `is_active`."""

    user_id: int
    token_version: int
    expires_at: int
    """Unix time, seconds."""


def log_in(username: str, password: str) -> User:
    """Raises WrongLogin. Whether the name exists, or is a disabled user's, does not show, neither in the error nor in
    the time it takes: the password is hashed once in each case."""
    user = User.objects.filter(username=User.normalize_username(username)).first()
    if user is None:
        User().set_password(password)
        raise WrongLogin
    if not user.check_password(password) or not user.is_active:
        raise WrongLogin
    return user


def issue_tokens(user: User) -> tuple[str, str]:
    """(access token, refresh token) for a user who has proven who they are."""
    refresh = RefreshToken.for_user(user)
    access = refresh.access_token
    for token in (refresh, access):
        _stamp(token, user)
    return str(access), str(refresh)


def _stamp(token: Token, user: User) -> None:
    token["ver"] = user.token_version


def verify(token: str) -> Claims:
    """Checks signature, type and expiry of an access token; no database. Raises NotAuthenticated."""
    return _claims(token, AccessToken)


def user_of(token: str) -> User:
    """The user of an access token that counts now. Raises NotAuthenticated."""
    return _user(verify(token))


def renew(refresh_token: str) -> tuple[User, str]:
    """(user, new access token) for a refresh token that counts now. Raises NotAuthenticated."""
    user = _user(_claims(refresh_token, RefreshToken))
    access = RefreshToken(refresh_token).access_token
    _stamp(access, user)
    return user, str(access)


def _claims(token: str, kind: type[Token]) -> Claims:
    try:
        payload = kind(token).payload
        return Claims(int(payload["user_id"]), int(payload["ver"]), int(payload["exp"]))
    except (TokenError, KeyError, ValueError, TypeError):
        name = "access" if kind is AccessToken else "refresh"
        raise NotAuthenticated(f"The {name} token is invalid or has expired; get a new one from POST /token.") from None


def _user(claims: Claims) -> User:
    user = User.objects.filter(pk=claims.user_id).first()
    if user is None or not user.is_active or user.token_version != claims.token_version:
        raise NotAuthenticated("This token no longer counts; get a new one from POST /token.")
    return user


class BearerAuthentication(BaseAuthentication):
    """`Authorization: Bearer <access token>`. Without that header the next class (the browser's session) is asked."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        scheme, _, token = get_authorization_header(request).partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        try:
            return user_of(token.strip().decode("ascii", "replace")), None
        except NotAuthenticated as error:
            raise AuthenticationFailed(str(error)) from None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class IsAdmin(BasePermission):
    """Users with the role Admin."""

    message = "Only an admin may do this."

    def has_permission(self, request: Request, view: object) -> bool:
        return bool(request.user and request.user.is_authenticated and request.user.is_admin)
