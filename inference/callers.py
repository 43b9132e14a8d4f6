"""Who calls the data plane. A token is verified once and then remembered; that it still counts is checked by the
admission of each request, whose counters carry the user's token version."""

import hashlib
import time
from collections.abc import Awaitable, Callable

from accounts.auth import NotAuthenticated, user_of, verify
from inference.errors import InvalidKey
from inference.routing import Caller

REMEMBERED = 20_000


class Callers:
    """Remembers the callers of one process. `fetch` finds the user of a token in the database."""

    def __init__(self, fetch: Callable[[str], Awaitable[Caller]]) -> None:
        self._fetch = fetch
        self._known: dict[bytes, Caller] = {}

    async def identify(self, authorization: bytes) -> Caller:
        """The caller of an Authorization header's value. Raises InvalidKey."""
        if authorization[:7].lower() != b"bearer ":
            raise InvalidKey(
                "Send your access token: Authorization: Bearer <token of POST /token>.", code="missing_key"
            )
        token = authorization[7:].strip()
        digest = hashlib.sha256(token).digest()
        caller = self._known.get(digest)
        if caller is not None and caller.expires_at > time.time():
            return caller
        self._known.pop(digest, None)
        try:
            caller = await self._fetch(token.decode("ascii", "replace"))
        except NotAuthenticated as error:
            raise InvalidKey(str(error)) from None
        if len(self._known) >= REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[digest] = caller
        return caller

    def forget_one(self, authorization: bytes) -> None:
        """The next `identify` of this header asks the database."""
        self._known.pop(hashlib.sha256(authorization[7:].strip()).digest(), None)

    def forget(self) -> None:
        """After a change of users: each is looked up again."""
        self._known.clear()


def caller_of(token: str) -> Caller:
    """One query. Raises NotAuthenticated."""
    claims = verify(token)
    user = user_of(token)
    return Caller(user.pk, user.username, user.is_admin, claims.token_version, claims.expires_at)
