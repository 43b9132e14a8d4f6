"""Who is calling. Both planes ask here: DRF through `BearerAuthentication`, the data plane through `verify`.

NotAuthenticated (CallerError)    no token, or one that does not count (any more); always 401
"""

from dataclasses import dataclass

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, Token

from accounts.models import User
from vllm_portal.errors import CallerError


class NotAuthenticated(CallerError):
    """The message says what to do about it."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid access token says. Whether it still counts is in the user's row: `token_version`, `is_active`."""

    user_id: int
    token_version: int
    expires_at: int
    """Unix time, seconds."""


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
    try:
        payload = AccessToken(token).payload
        return Claims(int(payload["user_id"]), int(payload["ver"]), int(payload["exp"]))
    except (TokenError, KeyError, ValueError, TypeError):
        raise NotAuthenticated("The access token is invalid or has expired; get a new one from POST /token.") from None


def user_of(token: str) -> User:
    """The user of an access token that counts now. Raises NotAuthenticated."""
    claims = verify(token)
    user = User.objects.filter(pk=claims.user_id).first()
    if user is None or not user.is_active or user.token_version != claims.token_version:
        raise NotAuthenticated("This access token no longer counts; get a new one from POST /token.")
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
