"""Access tokens for the scripts of the portal's own pages: the inference paths know no browser sessions.

    browser session ── POST with its CSRF token ── an access token of LIFETIME, which the page keeps in its memory
    logout          ── the tokens of that browser session stop counting

All tokens of a browser session belong to one log-in (`LoginSession`), which has no refresh token: the session's cookie
is what one gets the next token with.
"""

import uuid
from datetime import timedelta
from typing import Any

from django.contrib.auth.signals import user_logged_out
from django.http import HttpRequest
from django.utils import timezone
from rest_framework_simplejwt.tokens import AccessToken

from accounts import sessions
from accounts.models import LoginSession

LIFETIME = timedelta(minutes=10)
"""How long a token counts. Requests that have begun go on."""

_LOGIN = "playground_login"
"""Where the browser session has the id of its log-in."""


def issue(request: HttpRequest) -> str:
    """An access token for the user of the request's browser session, who must be logged in."""
    token = AccessToken.for_user(request.user)
    token.set_exp(lifetime=LIFETIME)
    token["ver"] = request.user.token_version
    token["sid"] = _login_of(request).hex
    return str(token)


def _login_of(request: HttpRequest) -> uuid.UUID:
    """Id of the log-in of this browser session, made if there is none that lives; good for one more token."""
    now = timezone.now()
    until = {"renewed_at": now, "expires_at": now + LIFETIME}
    known = request.session.get(_LOGIN)
    if known and LoginSession.objects.filter(pk=known, user=request.user, ended_at=None).update(**until):
        return uuid.UUID(known)
    login = LoginSession.objects.create(user=request.user, refresh_id="", **until)
    request.session[_LOGIN] = login.pk.hex
    return login.pk


def end(sender: Any, request: HttpRequest | None, **_: Any) -> None:
    """After a logout, wherever it was asked for."""
    known = request.session.get(_LOGIN) if request is not None else None
    if known:
        sessions.end(known)


user_logged_out.connect(end, dispatch_uid="accounts.browser_token")
