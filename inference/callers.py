"""Who calls the data plane. A token or key is looked up once and then remembered for a while; that it still counts is
checked by the admission of each request, whose counters carry the versions of the user's and the key's rights."""

import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Collection

from django.utils import timezone

from accounts import keys
from accounts.auth import NotAuthenticated, user_of, verify
from accounts.models import ApiKey, User
from inference.errors import InvalidKey
from inference.routing import Caller

REMEMBERED = 20_000
FRESH_S = 60.0  # what an announcement did not reach is looked up again after that


class Callers:
    """Remembers the callers of one process. `fetch` finds the user of a token or key in the database."""

    def __init__(self, fetch: Callable[[str], Awaitable[Caller]]) -> None:
        self._fetch = fetch
        self._known: dict[bytes, tuple[Caller, float]] = {}
        self._forgotten = 0

    def known(self, digest: bytes) -> Caller | None:
        """Whose token or key has this SHA-256, if that has been looked up lately."""
        found = self._known.get(digest)
        return found[0] if found is not None and found[1] > time.time() else None

    async def identify(self, authorization: bytes) -> Caller:
        """The caller of an Authorization header's value. Raises InvalidKey."""
        if authorization[:7].lower() != b"bearer ":
            raise InvalidKey("Send your access token or API key: Authorization: Bearer <key>.", code="missing_key")
        token = authorization[7:].strip()
        digest = hashlib.sha256(token).digest()
        caller = self.known(digest)
        if caller is not None:
            return caller
        self._known.pop(digest, None)
        forgotten = self._forgotten
        try:
            caller = await self._fetch(token.decode("ascii", "replace"))
        except NotAuthenticated as error:
            raise InvalidKey(str(error)) from None
        if forgotten == self._forgotten:  # else what was read may be older than the change
            if len(self._known) >= REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[digest] = caller, min(caller.expires_at, time.time() + FRESH_S)
        return caller

    async def identify_anew(self, authorization: bytes) -> Caller:
        """As `identify`, by the database: where nothing is admitted that would check whether the key still counts."""
        self.forget_one(authorization[7:].strip())
        return await self.identify(authorization)

    def forget_one(self, token: bytes) -> None:
        """The next `identify` of this token asks the database."""
        self._known.pop(hashlib.sha256(token).digest(), None)

    def forget(self) -> None:
        """After a change of users or keys: each is looked up again."""
        self._known.clear()
        self._forgotten += 1


def no_longer_counts(callers: Collection[Caller]) -> set[Caller]:
    """Those whose user is disabled or gone, or whose key is revoked or gone. Two queries, or none."""
    if not callers:
        return set()
    users = set(
        User.objects.filter(pk__in={one.user_id for one in callers}, is_active=True).values_list("pk", flat=True)
    )
    with_keys = {one.key_id for one in callers if one.key_id is not None}
    living = set(ApiKey.objects.filter(pk__in=with_keys, revoked_at=None).values_list("pk", flat=True))
    return {one for one in callers if one.user_id not in users or (one.key_id is not None and one.key_id not in living)}


def caller_of(token: str) -> Caller:
    """One query, and a note of a key's use once a minute. Raises NotAuthenticated."""
    if token.startswith(keys.PREFIX):
        key = keys.key_of(token)
        keys.touch(key, timezone.now())
        return _with_key(key)
    claims = verify(token)
    user = user_of(token)
    session = claims.session.encode()
    version, expires_at = claims.token_version, claims.expires_at
    return Caller(user.pk, user.username, user.is_admin, version, expires_at, weight=user.weight, session=session)


def _with_key(key: ApiKey) -> Caller:
    user = key.user
    return Caller(
        user.pk,
        user.username,
        user.is_admin,
        user.token_version,
        key.expires_at.timestamp() if key.expires_at else math.inf,
        key_id=key.pk,
        key_version=key.version,
        models=frozenset(key.allowed_models) or None,
        may_infer=ApiKey.Scope.INFERENCE in key.scopes,
        may_wake=key.may_wake,
        weight=user.weight,
    )
