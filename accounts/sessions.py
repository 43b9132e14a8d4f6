"""Log-ins at `/token`: a pair of tokens, renewed as often as its owner likes, ended by a logout.

    /token          ── a LoginSession, access token A1, refresh token R1
    /token/refresh  ── R1 for A2, R2: R1 is worthless from now on, A1 lives until it expires
    R1 again        ── somebody has a copy: the session ends, with all of its tokens
    /token/logout   ── the session ends, with all of its tokens; the user's other sessions live on

An access token counts while its signature and time are good, its session lives, and it carries the user's
`token_version`. The data plane looks that up when it sees a token for the first time, with `user_of`. From then on it
compares per request, in the same Redis call that checks the limits: the version, and whether the mark `ended:<session>`
is there, which `end` sets; `<session>` is `Claims.session`. What it remembers of a token it has to forget on
the announcement "users" and after a minute at most, because a mark can come late where Redis was away (`mark_ended`).
"""

import logging
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import redis
from django.db import transaction
from django.utils import timezone
from rest_framework_simplejwt.exceptions import TokenError
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, Token

from accounts.errors import NotAuthenticated
from accounts.models import LoginSession, User
from vllm_portal import changes
from vllm_portal.redis_client import client

logger = logging.getLogger(__name__)

MARKED_FOR = timedelta(hours=1)
"""How long an ended session is marked in Redis: longer than anybody remembers a token."""

_AGAIN = "log in again with POST /token."


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says. Whether it still counts is in the database: the user's `token_version` and `is_active`,
    and the session."""

    user_id: int
    token_version: int
    expires_at: int
    """Unix time, seconds."""
    session: str
    """Id of the log-in that it comes from, as in the mark `ended:<session>`."""
    token_id: str


def issue_tokens(user: User) -> tuple[str, str]:
    """(access token, refresh token) of a new session of a user who has proven who they are."""
    session = LoginSession(user=user)
    access, refresh = _pair(session)
    _note(session, access, refresh)
    session.save(force_insert=True)
    return str(access), str(refresh)


def verify(token: str) -> Claims:
    """Checks signature, type and expiry of an access token; no database. Raises NotAuthenticated."""
    return _claims(token, AccessToken)


def user_of(token: str) -> User:
    """The user of an access token that counts now. One query. Raises NotAuthenticated."""
    return _session(verify(token)).user


def renew(refresh_token: str, arrived: datetime) -> tuple[User, str, str]:
    """(user, new access token, new refresh token) for the last refresh token of a session. Raises NotAuthenticated.

    Of two that bring the same token at the same moment one gets the new pair and the other an error. A token that had
    been used before this request arrived at the portal (`arrived`) is in the hands of two: the session ends.
    """
    claims = _claims(refresh_token, RefreshToken)
    session = _session(claims)
    if session.refresh_id != claims.token_id:
        if session.renewed_at < arrived:
            end(session.pk)
            raise NotAuthenticated(f"This refresh token was used before, so its session has ended; {_AGAIN}")
        raise _used_at_once()
    access, refresh = _pair(session)
    _note(session, access, refresh)
    living = LoginSession.objects.filter(pk=session.pk, ended_at=None)
    if not living.filter(refresh_id=claims.token_id).update(
        refresh_id=session.refresh_id, renewed_at=session.renewed_at, expires_at=session.expires_at
    ):
        raise _used_at_once()
    return session.user, str(access), str(refresh)


def end(session_id: uuid.UUID | str) -> None:
    """The session's tokens stop counting, from the next request on. One that has ended stays so."""
    with transaction.atomic():
        if LoginSession.objects.filter(pk=session_id, ended_at=None).update(ended_at=timezone.now()):
            transaction.on_commit(partial(_tell_ended, uuid.UUID(str(session_id)).hex))


def mark_ended() -> None:
    """Marks what ended lately, in case Redis was away at that moment. Raises redis.RedisError, DatabaseError."""
    lately = LoginSession.objects.filter(ended_at__gt=timezone.now() - MARKED_FOR / 2)
    _mark(session.hex for session in lately.values_list("pk", flat=True))


def delete_expired() -> int:
    """Deletes the sessions none of whose tokens can count any more; how many."""
    return LoginSession.objects.filter(expires_at__lt=timezone.now()).delete()[0]


def _tell_ended(session: str) -> None:
    try:
        _mark([session])
    except redis.RedisError as error:
        logger.warning("a logout was not told to the data plane: %s", error)
    changes.announce("users")


def _mark(sessions: Iterable[str]) -> None:
    marking = client().pipeline(transaction=False)
    for session in sessions:
        marking.set(f"ended:{session}", 1, ex=MARKED_FOR)
    marking.execute()


def _pair(session: LoginSession) -> tuple[AccessToken, RefreshToken]:
    refresh = RefreshToken.for_user(session.user)
    refresh["ver"] = session.user.token_version
    refresh["sid"] = session.pk.hex
    return refresh.access_token, refresh


def _note(session: LoginSession, access: AccessToken, refresh: RefreshToken) -> None:
    session.refresh_id = refresh["jti"]
    session.renewed_at = timezone.now()
    session.expires_at = datetime.fromtimestamp(max(access["exp"], refresh["exp"]), UTC)


def _claims(token: str, kind: type[Token]) -> Claims:
    try:
        payload = kind(token).payload
        return Claims(
            int(payload["user_id"]),
            int(payload["ver"]),
            int(payload["exp"]),
            uuid.UUID(payload["sid"]).hex,
            str(payload["jti"]),
        )
    except (TokenError, KeyError, ValueError, TypeError, AttributeError):
        name = "access" if kind is AccessToken else "refresh"
        raise NotAuthenticated(f"The {name} token is invalid or has expired; {_AGAIN}") from None


def _session(claims: Claims) -> LoginSession:
    living = LoginSession.objects.select_related("user").filter(ended_at=None)
    session = living.filter(pk=claims.session, user_id=claims.user_id).first()
    if session is None or not session.user.is_active or session.user.token_version != claims.token_version:
        raise NotAuthenticated(f"This token no longer counts; {_AGAIN}")
    return session


def _used_at_once() -> NotAuthenticated:
    return NotAuthenticated("This refresh token was just used by another request: go on with what that one got.")
